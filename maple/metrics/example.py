"""What a metric says."""

from typing import NamedTuple


class Estimate(NamedTuple):
    """A mean with its standard error, which is None where it has none, over n items.

    A tuple, since torchmetrics goes through what `compute` returns and refuses a frozen dataclass.
    """

    value: float
    stderr: float | None
    n: int
