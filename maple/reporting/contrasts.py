"""Differences within a study: of adapters that are alike in all but one thing, over the base, along a factor.

Compared is what both sides have: cells of the same other settings and seed, tasks and languages that all of them were
scored on. Of the adapters those count that are trained and scored and whose alpha is the rank, unless others are given.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from maple.reporting.bootstrap import Mean, Replicates, interval, p_above
from maple.reporting.reading import Cell, Pair
from maple.reporting.study import Study

SETTINGS = ("model", "source", "rank", "bits", "seed")


class Line(NamedTuple):
    """Of a forest plot: a name, an estimate and the ends of its 95 % interval."""

    label: str
    estimate: float
    low: float
    high: float


class Part(NamedTuple):
    """Something that a claim says: that a mean is above a bound, or (sign -1) below it."""

    label: str
    mean: Mean
    bound: float = 0.0
    sign: int = 1

    @property
    def distance(self) -> float:
        """How far the mean is on the claimed side."""
        return self.sign * (self.mean.value - self.bound)

    @property
    def p(self) -> float:
        """Of what is claimed: one-sided."""
        return p_above(self.sign * self.mean.replicates, self.sign * self.bound)

    @property
    def p_opposite(self) -> float:
        """Of the opposite."""
        return p_above(-self.sign * self.mean.replicates, -self.sign * self.bound)


class Contrasts:
    """The differences of one study."""

    def __init__(self, study: Study, replicates: Replicates):
        self.study, self.replicates = study, replicates
        self.bases = done(study.bases)
        self.adapters = done(study.main)

    def difference(
        self, ours: Sequence[Cell], theirs: Sequence[Cell], *apart: str, pairs: Sequence[Pair] | None = None
    ) -> Mean | None:
        """Ours minus theirs, of cells with the same settings but for those named; None where there are none."""
        ours, theirs = matched([ours, theirs], *apart)
        pairs = self.replicates.shared([*ours, *theirs], pairs)
        if not ours or not pairs:
            return None
        key = key_of(*apart)
        by_setting = {key(cell): self.replicates.value(cell, pairs) for cell in ours}
        for cell in theirs:
            by_setting[key(cell)] -= self.replicates.value(cell, pairs)
        mean = minus(self.replicates.mean(ours, pairs), self.replicates.mean(theirs, pairs))
        return self._without_seeds(mean, by_setting, ours)

    def level(self, cells: Sequence[Cell], pairs: Sequence[Pair]) -> Mean:
        """The mean of some cells, whatever lies between them."""
        mean = self.replicates.mean(cells, pairs)
        return self._without_seeds(mean, {cell.setting: self.replicates.value(cell, pairs) for cell in cells}, cells)

    def gain(self, pairs: Sequence[Pair] | None = None) -> Mean | None:
        """All adapters minus the base of the same model and bits, each base counting the same."""
        found, adapters = [], balanced(self.adapters)
        for base in self.bases:
            of_base = [cell for cell in adapters if self.study.base_of(cell) is base]
            shared = self.replicates.shared([base, *of_base], pairs)
            if of_base and shared:
                found.append(minus(self.level(of_base, shared), self.replicates.mean([base], shared)))
        return average(found)

    def slope(self, cells: Iterable[Cell], factor: str, pairs: Sequence[Pair] | None = None) -> Mean | None:
        """What a doubling of rank or bits adds: least squares on the logarithm, all else being equal, then the mean."""
        cells = balanced(cells)
        strata = defaultdict(lambda: defaultdict(list))
        for cell in cells:
            alike = tuple(getattr(cell, name) for name in SETTINGS if name not in (factor, "seed"))
            strata[alike][getattr(cell, factor)].append(cell)
        found = {}
        for stratum, levels in strata.items():
            x = np.log2(sorted(levels))
            sides = matched([levels[level] for level in sorted(levels)], factor)
            pairs_of_all = self.replicates.shared([cell for side in sides for cell in side], pairs)
            if len(x) > 1 and all(sides) and pairs_of_all:
                weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
                means = [self.replicates.mean(side, pairs_of_all) for side in sides]
                found[stratum] = total([scaled(mean, weight) for mean, weight in zip(means, weights, strict=True)])
        values = {stratum: mean.value for stratum, mean in found.items()}
        return self._without_seeds(average(list(found.values())), values, cells) if found else None

    def _without_seeds(self, mean: Mean, by_setting: Mapping[Hashable, float], cells: Iterable[Cell]) -> Mean:
        """Where there is one seed, with the spread between settings in the place of that between seeds.

        It holds more than the latter, what a setting does to the difference, so intervals are rather too long. One
        setting alone has no spread, and of it the interval says nothing beyond this one run.
        """
        if self.replicates.seeds_of(cells) > 1 or len(by_setting) < 2:
            return mean
        drawn = self.replicates.block_weights(tuple(by_setting))
        spread = np.einsum("k,kb->b", np.array(list(by_setting.values())), drawn) / len(by_setting)
        return Mean(mean.value, mean.replicates + spread)


def done(cells: Iterable[Cell]) -> list[Cell]:
    """Those that are trained and scored, and of which there are predictions.

    A study that is given another task sets its cells back to planned, and what they had they still have. A cell with
    less than half of what another has is being scored.
    """
    cells = list(cells)
    most = max((len(cell.items) for cell in cells), default=0)
    trained = (cell for cell in cells if cell.items and (cell.state == "done" or cell.is_base or cell.summary))
    return [cell for cell in trained if 2 * len(cell.items) >= most]


def matched(sides: Sequence[Sequence[Cell]], *apart: str) -> list[list[Cell]]:
    """Of each side the cells whose settings, but for those named, are on every side; balanced."""
    key = key_of(*apart)
    common = set.intersection(*({key(cell) for cell in side} for side in sides))
    kept = set(balanced(cell for side in sides for cell in side if key(cell) in common))
    return [[cell for cell in side if cell in kept] for side in sides]


def balanced(cells: Iterable[Cell]) -> list[Cell]:
    """Those whose settings were run with the same seeds as most are, of which alone seeds are blocks.

    One seed that failed in one of forty settings would else leave that one with two, whose spread says little, and make
    every mean over the forty as uncertain.
    """
    by_setting = defaultdict(list)
    for cell in cells:
        by_setting[cell.setting].append(cell)
    seeds = {setting: tuple(sorted(cell.seed for cell in found)) for setting, found in by_setting.items()}
    counts = Counter(seeds.values())
    usual = max(counts, key=lambda some: (counts[some], len(some)), default=())
    return [cell for setting, found in by_setting.items() if seeds[setting] == usual for cell in found]


def key_of(*apart: str) -> Callable[[Cell], Hashable]:
    """The settings of a cell but for those named."""
    names = [name for name in SETTINGS if name not in apart]
    return lambda cell: tuple(getattr(cell, name) for name in names)


def minus(a: Mean, b: Mean) -> Mean:
    """The difference of two means."""
    return Mean(a.value - b.value, a.replicates - b.replicates)


def scaled(mean: Mean, factor: float) -> Mean:
    """So many times a mean."""
    return Mean(factor * mean.value, factor * mean.replicates)


def total(means: Sequence[Mean]) -> Mean:
    """The sum of means."""
    return Mean(sum(mean.value for mean in means), np.sum([mean.replicates for mean in means], axis=0))


def average(means: Sequence[Mean]) -> Mean | None:
    """The mean of means; None of none."""
    if not means:
        return None
    return Mean(fmean(mean.value for mean in means), np.mean([mean.replicates for mean in means], axis=0))


def line(label: str, mean: Mean) -> Line:
    """An estimate with its interval."""
    return Line(label, mean.value, *interval(mean.replicates))
