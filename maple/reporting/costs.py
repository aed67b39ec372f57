"""What training a point of a study cost, from the summaries of its cells."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from maple import tiny
from maple.reporting.reading import HUGE, Cell

MEASURED = {  # in summary.json, and how many of its unit are one of ours
    "memory, GiB": ("peak_memory_bytes", 2**30),
    "tokens/s": ("tokens_per_second", 1),
    "training, s": ("seconds", 1),
    "adapter, bytes": ("adapter_bytes", 1),
    "trainable, %": ("trainable_percent", 1),
}


NOISE = 0.05  # of memory on a CPU: two seeds of one rank and bits were 2.6 % apart
IN_PART = "the resident memory of the process, which earlier cells have part in"


def on_cpu(cell: Cell) -> bool:
    """Whether its memory is that of a process; what is recorded tells it, and not of every run.

    A build of torch without CUDA says so. With one, --device auto takes a GPU, and there bfloat16: the embedded model
    in float32 without having been told to ran on a CPU, or on a GPU that is too old for bfloat16.
    """
    device, versions = cell.fit.get("device"), (cell.summary or {}).get("versions")
    if device != "auto":
        return device == "cpu"
    if isinstance(versions, dict) and str(versions.get("torch")).endswith("+cpu"):
        return True
    computed = {row["settings"].get("precision") for row in cell.rows.values()}
    return cell.model == tiny.NAME and cell.fit.get("precision") == "auto" and computed <= {"float32", None}


def about_memory(cells: Iterable[Cell]) -> str:
    """A sentence of a caption."""
    if all(on_cpu(cell) for cell in cells if cell.summary):
        return f"Memory is {IN_PART}, at its peak."
    return f"Memory is the peak of training: of a GPU what was allocated, on a CPU {IN_PART}."


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
