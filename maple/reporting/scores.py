"""What tables and figures take from a study: the cells of its grid, and means of scores with their intervals.

A mean is taken as the paper takes it: over the languages of a task, then over the tasks, of what all scored cells have
(`Study.common`). A cell that lacks one of these enters no mean that needs it, so that two means are always of the same
questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from statistics import fmean

import numpy as np

from maple.languages import fact, groups, language_of
from maple.reporting.bootstrap import Replicates, interval
from maple.reporting.published import WIN_RATE
from maple.reporting.study import Cell, Pair, Study

OF_MANY = "The best of many points is better than it will be again."  # of whatever is chosen by its own score
GROUPS = ("trained", "untrained", "high", "mid", "low")  # of languages, in the order of a report


@dataclass(frozen=True)
class Estimate:
    """A mean, and the ends of its 95 % interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def row(self) -> list[float | None]:
        """As it stands in a table."""
        return [self.value, self.low, self.high]


def macro(values: Mapping[Pair, float]) -> float:
    """Over the languages of each task, then over the tasks."""
    by_task = defaultdict(list)
    for (task, _), value in values.items():
        by_task[task].append(value)
    return fmean(fmean(of_task) for of_task in by_task.values())


class Scores:
    """The grid of a study and the means in it.

    replicates   where the intervals come from; None: there are none
    """

    def __init__(self, study: Study, replicates: Replicates | None = None):
        self.study, self.replicates = study, replicates
        self.grid: dict[tuple[str, str, int, int], list[Cell]] = defaultdict(list)  # the seeds of each point
        for cell in study.main:
            self.grid[cell.model, cell.source, cell.rank, cell.bits].append(cell)
        self.panels = list(dict.fromkeys((cell.model, cell.source) for cell in study.main))
        self.models = list(dict.fromkeys(model for model, _ in self.panels))
        self.data = list(dict.fromkeys(data for _, data in self.panels))
        self.ranks = sorted({cell.rank for cell in study.main})
        self.bits = sorted({cell.bits for cell in study.main})
        self.pairs = {pair for cell in study.cells for pair in cell.rows}
        self.common = study.common(study.cells)
        unjudged = ({pair for pair in some if pair[0] != WIN_RATE} for some in (self.common, self.pairs))
        self.in_mean = next(filter(None, unjudged), set())

    @cached_property
    def about_intervals(self) -> str:
        """A sentence of a caption."""
        if self.replicates is None:
            return "There are no intervals."
        if self.replicates.seeds_of(self.study.main) > 1:
            return "Intervals are 95 %, over other examples and other seeds."
        return "Intervals are 95 %, over other examples; where there is one seed they say nothing of others."

    @cached_property
    def is_tiny(self) -> bool:
        """Whether the questions are those of the embedded world, beside which no published score belongs."""
        return any(row["settings"].get("setting") == "tiny" for cell in self.study.cells for row in cell.rows.values())

    def bases_of(self, model: str) -> list[Cell]:
        """A model before training, in all bits of the grid."""
        bases = [self.study.base_of(cell) for cell in self.study.main if cell.model == model]
        return [base for base in dict.fromkeys(bases) if base]

    def trained(self, data: str) -> frozenset[str]:
        """The languages that a data set trains on; empty: no cell says."""
        return frozenset().union(*(cell.trained for cell in self.study.main if cell.source == data))

    def points(self, model: str, data: str) -> set[tuple[int, int]]:
        """(rank, bits) of what has scores."""
        return {(cell.rank, cell.bits) for cell in self.of_panel(model, data) if cell.rows}

    def whole_panels(self, model: str) -> list[str]:
        """The data sets of a model that have scores at every point that any of them has; all where none has."""
        points = {data: self.points(model, data) for of, data in self.panels if of == model}
        every = set().union(*points.values())
        return [data for data, some in points.items() if some == every] or list(points)

    def series_of(self, model: str, short: Mapping[str, str]) -> list[tuple[str, str, list[Cell]]]:
        """(label, data, cells) to draw beside each other.

        A data set that was not run at all points says so in its label; then what all were run at is a series of its
        own of each that was run at more, since else a difference of ranks would look like one of data.
        """
        points = {data: self.points(model, data) for of, data in self.panels if of == model}
        points = {data: some for data, some in points.items() if some}
        every, shared = set().union(*points.values()), set.intersection(*points.values()) if points else set()
        found = []
        for data, some in points.items():
            for kept in [some, shared] if shared and some != shared else [some]:
                cells = [cell for cell in self.of_panel(model, data) if (cell.rank, cell.bits) in kept]
                found.append((short[data] + _told(kept, every), data, cells))
        return found

    def of_panel(self, model: str, data: str) -> list[Cell]:
        """All cells of the grid of one model and data."""
        return [cell for cell in self.study.main if (cell.model, cell.source) == (model, data)]

    def of_task(self, task: str) -> set[Pair]:
        """A task in the languages that all have; in all where none is had by all."""
        found = ({pair for pair in some if pair[0] == task} for some in (self.common, self.pairs))
        return next(filter(None, found), set())

    def of_languages(self, keep: Callable[[str], bool]) -> set[Pair]:
        """All tasks of the mean in some languages."""
        return {pair for pair in self.in_mean if keep(pair[1])}

    def of_group(self, group: str, trained: Collection[str]) -> set[Pair]:
        """All tasks of the mean in a group of languages."""
        return self.of_languages(lambda language: group in groups(language, trained))

    @cached_property
    def rows_of_languages(self) -> list[str]:
        """The languages of the mean by resources, the most first, then by code; a pair with that of its context."""

        def place(code: str) -> tuple[int, str]:
            joshi = fact(code).joshi
            return (1 if joshi is None else -joshi), code

        return sorted({language_of(language) for _, language in self.in_mean}, key=place)

    def mean(self, cells: Iterable[Cell], pairs: Collection[Pair]) -> Estimate | None:
        """Of the cells that have all of these scores: over the seeds of each point, then over points; None: of none."""
        found = self._estimate([cell for cell in cells if _has(cell, pairs)], frozenset(pairs), over_base=False)
        if found is None or found.low is None:
            return found
        most = 100.0 if any(task == WIN_RATE for task, _ in pairs) else 1.0
        return replace(found, low=max(found.low, 0.0), high=min(found.high, most))  # Student's t knows no scale

    def gain(self, cells: Iterable[Cell], pairs: Collection[Pair]) -> Estimate | None:
        """Over the base of the same model in the same bits, of the cells for which both have all of these scores."""
        both = [cell for cell in cells if _has(cell, pairs) and _has(self.study.base_of(cell), pairs)]
        return self._estimate(both, frozenset(pairs), over_base=True)

    def _estimate(self, cells: list[Cell], pairs: frozenset[Pair], over_base: bool) -> Estimate | None:
        points = self.study.groups(cells)
        if not points or not pairs:
            return None
        bases = [[self.study.base_of(seeds[0])] if over_base else [] for seeds in points]
        value = fmean(
            fmean(_macro(cell, pairs) for cell in seeds) - sum(_macro(cell, pairs) for cell in base)
            for seeds, base in zip(points, bases, strict=True)
        )
        if self.replicates is None or not all(pairs <= cell.items.keys() for cell in chain(*points, *bases)):
            return Estimate(value)
        drawn = sum(self._drawn(seeds, pairs) for seeds in points)
        drawn = drawn - sum(self._drawn(base, pairs) for base in bases if base)
        return Estimate(value, *interval(drawn / len(points)))

    def _drawn(self, group: list[Cell], pairs: frozenset[Pair]) -> np.ndarray:
        return self.replicates.mean(group, sorted(pairs)).replicates

    def best(self, model: str, data: str, pairs: Collection[Pair]) -> tuple[int, int] | None:
        """(rank, bits) with the highest mean over the seeds; of equals the smaller."""
        means = {
            (rank, bits): self.mean(cells, pairs)
            for (of, by, rank, bits), cells in sorted(self.grid.items(), key=lambda item: item[0][2:])
            if (of, by) == (model, data)
        }
        found = {point: mean.value for point, mean in means.items() if mean is not None}
        return max(found, key=found.get, default=None)

    @cached_property
    def best_points(self) -> dict[tuple[str, str], list[Cell]]:
        """Of each model and data the seeds of the point that is best in the mean over tasks."""
        points = {panel: self.best(*panel, self.in_mean) for panel in self.panels}
        return {panel: self.grid[*panel, *point] for panel, point in points.items() if point}


def _told(points: set[tuple[int, int]], every: set[tuple[int, int]]) -> str:
    if points == every:
        return ""
    if len(points) == 1:
        return " (rank {}, {} bits)".format(*min(points))
    return f" ({len(points)} of {len(every)} points)"


def _has(cell: Cell | None, pairs: Collection[Pair]) -> bool:
    return cell is not None and cell.rows.keys() >= set(pairs)


def _macro(cell: Cell, pairs: frozenset[Pair]) -> float:
    return macro({pair: cell.rows[pair]["value"] for pair in pairs})
