"""A metric that is the mean of a score per example, with its standard error.

value = sum x / n          stderr = sqrt(sum (x - value)^2 / (n - 1) / n)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torchmetrics import Metric


class Estimate(NamedTuple):
    """A mean over n examples; NaN of none. The standard error is None where n < 2.

    A tuple, since torchmetrics rebuilds what `compute` returns, which a frozen dataclass refuses.
    """

    value: float
    stderr: float | None
    n: int


class ExampleMetric(Metric):
    """`score` one example, keep what it returned beside the prediction, and `update` with it.

    Over several processes `compute` pools the examples of all, however unevenly they were shared out.
    """

    names: tuple[str, ...]  # what `score` returns, e.g. ("exact_match", "f1")
    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        zero = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("count", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("total", zero.clone(), "sum")
        self.add_state("squares", zero.clone(), "sum")
        self.add_state("smallest", zero + torch.inf, "min")
        self.add_state("largest", zero - torch.inf, "max")

    @abstractmethod
    def score(self, *example) -> dict[str, float]:
        """The scores of one example, by name; nothing is kept of it."""

    def update(self, scores: dict[str, float]) -> None:
        """Count the example whose `score` this is."""
        values = torch.tensor([scores[name] for name in self.names], dtype=torch.float64, device=self.device)
        self.count += 1
        self.total += values
        self.squares += values**2
        self.smallest = torch.minimum(self.smallest, values)
        self.largest = torch.maximum(self.largest, values)

    def compute(self) -> dict[str, Estimate]:
        """The mean of each name."""
        n = int(self.count)
        alike = self.smallest == self.largest  # then the rounding of the sums must not look like a deviation
        means = torch.where(alike, self.smallest, self.total / n)
        deviations = torch.where(alike, 0.0, self.squares - self.total * means).clamp(min=0)
        errors = (deviations / (n - 1) / n).sqrt().tolist() if n > 1 else [None] * len(self.names)
        rows = zip(self.names, means.tolist(), errors, strict=True)
        return {name: Estimate(mean, error, n) for name, mean, error in rows}

    def _apply(self, fn: Callable, exclude_state="") -> Metric:
        """Follow a module to its device and not to its dtype: `module.to(torch.bfloat16)` reaches a Metric's states."""
        return super()._apply(lambda state: state.to(fn(state.new_empty(0)).device), exclude_state)
