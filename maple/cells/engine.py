"""Who does the work: this process, one job after the other. `on_ray.py` has the engine of many machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Needs:
    """What a job takes of a machine."""

    cores: int | None = None  # None: as the engine sees fit
    gpus: int | None = 0  # None: one, where there is any
    memory: int = 0  # bytes of the machine's own memory; that of a GPU is all for one cell


class Engine(Protocol):
    """Does jobs, in any order and anywhere."""

    def each(self, function: Callable[[Any], Any], jobs: Sequence[tuple[Any, Needs]]) -> Iterator[tuple[int, Any]]:
        """(number of a job, what the function returned for it), as they are done.

        A LostError is in the place of what was to be returned where no process lived to do so.
        """


class Here:
    """In this process."""

    def each(self, function: Callable[[Any], Any], jobs: Sequence[tuple[Any, Needs]]) -> Iterator[tuple[int, Any]]:
        """In the order given."""
        for number, (job, _) in enumerate(jobs):
            yield number, function(job)
