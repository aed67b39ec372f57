"""What a study advises whoever has little memory, or little time."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from maple.reporting.bootstrap import Replicates, stderr
from maple.reporting.contrasts import done
from maple.reporting.costs import IN_PART, NOISE, about_memory, on_cpu
from maple.reporting.reading import Cell
from maple.reporting.scores import OF_MANY
from maple.reporting.study import Study
from maple.reporting.table import shown as as_shown

PRICES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("memory", "peak_memory_bytes", lambda value: f"{as_shown(value / 2**30)} GiB"),
    ("time", "seconds", lambda value: f"{value:,.0f} s of training"),
)


def cheapest(study: Study, replicates: Replicates) -> list[str]:
    """The best adapter and, by memory and by time, the cheapest within one standard error of it; empty of none."""
    cells = done(study.main)
    pairs = replicates.shared(cells)
    points = study.groups(cells)
    if not points or not pairs:
        return []
    means = [replicates.mean(point, pairs) for point in points]
    best = max(range(len(points)), key=lambda number: means[number].value)
    error = stderr(means[best].replicates)
    near = [number for number, mean in enumerate(means) if mean.value >= means[best].value - error]
    seeds = replicates.seeds_of(points[best])
    over = "other examples, of one seed: no other seed is in it" if seeds == 1 else f"other examples and {seeds} seeds"
    sentences = [
        f"The best adapter is {_name(points[best])}, with {means[best].value:.3f} ± {error:.3f} (one standard error, "
        f"over {over}). {OF_MANY}"
    ]
    for what, key, shown in PRICES:
        prices = [_price(point, key) for point in points]
        known = [number for number in near if prices[number] is not None]
        if prices[best] is None or not known:
            continue
        found = min(known, key=lambda number: (prices[number], -means[number].value))
        if what == "memory" and all(on_cpu(cell) for cell in cells) and prices[found] > (1 - NOISE) * prices[best]:
            sentences.append(
                f"By memory nothing is advised: it is {IN_PART}, and within one standard error of the best none takes "
                f"{100 * NOISE:.0f} % less of it than the best, {shown(prices[best])}."
            )
        elif prices[found] < prices[best]:
            sentences.append(
                f"Within one standard error of it the one of least {what} is {_name(points[found])}, with "
                f"{means[found].value:.3f} and {shown(prices[found])} instead of {shown(prices[best])}."
                + (f" {about_memory(cells)}" if what == "memory" else "")
            )
        else:
            sentences.append(f"None within one standard error of it takes less {what}: {shown(prices[best])}.")
    return sentences


def _price(point: list[Cell], key: str) -> float | None:
    """In the mean over seeds; None where a run does not say it."""
    values = [(cell.summary or {}).get(key) for cell in point]
    return fmean(values) if all(isinstance(value, int | float) for value in values) else None


def _name(point: list[Cell]) -> str:
    cell = point[0]
    return f"{cell.model} on {cell.source}, rank {cell.rank}, {cell.bits} bits"
