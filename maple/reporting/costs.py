"""What training a point of a study cost, from the summaries of its cells."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from maple.reporting.reading import HUGE, Cell

MEASURED = {  # in summary.json, and how many of its unit are one of ours
    "memory, GiB": ("peak_memory_bytes", 2**30),
    "tokens/s": ("tokens_per_second", 1),
    "training, s": ("seconds", 1),
    "adapter, bytes": ("adapter_bytes", 1),
    "trainable, %": ("trainable_percent", 1),
}


def costs(cells: Iterable[Cell]) -> dict[str, float | None]:
    """The mean over the cells of each; None of what was not measured."""
    summaries = [cell.summary or {} for cell in cells]
    return {
        name: present(_number(summary.get(key), unit) for summary in summaries)
        for name, (key, unit) in MEASURED.items()
    }


def present(values: Iterable[float | None]) -> float | None:
    """The mean of what is there."""
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


def _number(value: object, unit: int) -> float | None:
    """A file that somebody changed may hold anything."""
    return value / unit if isinstance(value, int | float) and -HUGE < value < HUGE else None
