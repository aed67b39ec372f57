"""Differences within a study: of adapters that are alike in all but one thing, over the base, along a factor.

Compared is what both sides have: cells of the same other settings and seed, tasks and languages that all of them were
scored on. Of the adapters those count that are trained and scored and whose alpha is the rank, unless others are given.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain
from statistics import fmean
from typing import NamedTuple

import numpy as np

from maple.reporting.bootstrap import Mean, Replicates, interval, p_above
from maple.reporting.reading import Cell, Pair
from maple.reporting.study import Study

BLOCKS = ("model", "source", "rank")  # of runs of one seed: what differs in these has luck of its own
FEWEST_BLOCKS = 4  # Student's t of fewer, with 2 degrees of freedom, tells nothing but the largest effects
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
        self.is_too_few = False  # whether a mean that was asked for is of one seed and of too few blocks

    def difference(
        self, ours: Sequence[Cell], theirs: Sequence[Cell], *apart: str, pairs: Sequence[Pair] | None = None
    ) -> Mean | None:
        """Ours minus theirs, of cells with the same settings but for those named; None where there are none."""
        ours, theirs = matched([ours, theirs], *apart)
        pairs = self.replicates.shared([*ours, *theirs], pairs)
        if not ours or not pairs:
            return None
        key, block = key_of(*apart), _block_of(*apart)
        by_setting = {key(cell): self.replicates.value(cell, pairs) for cell in ours}
        for cell in theirs:
            by_setting[key(cell)] -= self.replicates.value(cell, pairs)
        mean = minus(self.replicates.mean(ours, pairs), self.replicates.mean(theirs, pairs))
        return self._without_seeds(mean, [(block(cell), by_setting[key(cell)]) for cell in ours], ours)

    def level(self, cells: Sequence[Cell], pairs: Sequence[Pair]) -> Mean:
        """The mean of some cells, whatever lies between them."""
        mean = self.replicates.mean(cells, pairs)
        block = _block_of()
        return self._without_seeds(mean, [(block(cell), self.replicates.value(cell, pairs)) for cell in cells], cells)

    def gain(self, pairs: Sequence[Pair] | None = None) -> Mean | None:
        """All adapters minus the base of the same model and bits, each base counting the same."""
        found, adapters = [], balanced(self.adapters)
        for base in self.bases:
            of_base = [cell for cell in adapters if self.study.base_of(cell) is base]
            shared = self.replicates.shared([base, *of_base], pairs)
            if of_base and shared:
                found.append(minus(self.level(of_base, shared), self.replicates.mean([base], shared)))
        return average(found)

    def slope(
        self, cells: Iterable[Cell], factor: str, pairs: Sequence[Pair] | None = None, over_base: bool = False
    ) -> Mean | None:
        """What a doubling of rank or bits adds: least squares on the logarithm, all else being equal, then the mean.

        over_base   of the gain over the base of the same model and bits, not of the score
        """
        cells = balanced(cells)
        strata = defaultdict(lambda: defaultdict(list))
        for cell in cells:
            alike = tuple(getattr(cell, name) for name in SETTINGS if name not in (factor, "seed"))
            strata[alike][getattr(cell, factor)].append(cell)
        found, by_block, block = [], [], _block_of(factor)
        for levels in strata.values():
            x = np.log2(sorted(levels))
            sides = matched([levels[level] for level in sorted(levels)], factor)
            bases = [self.study.base_of(side[0]) for side in sides if side] if over_base else []
            shared = self.replicates.shared([*chain(*sides), *filter(None, bases)], pairs)
            if len(x) > 1 and all(sides) and shared and all(base in self.bases for base in bases):
                weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
                means = [self.replicates.mean(side, shared) for side in sides]
                if over_base:
                    before = [self.replicates.mean([base], shared) for base in bases]
                    means = list(map(minus, means, before))
                found.append(total([scaled(mean, weight) for mean, weight in zip(means, weights, strict=True)]))
                by_block.append((block(sides[0][0]), found[-1].value))
        return self._without_seeds(average(found), by_block, cells) if found else None

    def _without_seeds(self, mean: Mean, values: Sequence[tuple[Hashable, float]], cells: Iterable[Cell]) -> Mean:
        """Where there is one seed, with the spread between blocks in the place of that between seeds.

        values   of each setting its block and what it is in it

        Runs of one seed share the order of the data and, at one rank, the start of the adapter, so what differs in bits
        alone has almost the same luck: bits are averaged first, and blocks are what differs in model, data or rank. The
        spread between these holds their luck and what they do to the difference. Runs of one model and rank share the
        start of A over the data sets too, which no blocks of one seed can tell. Of fewer than FEWEST_BLOCKS the spread
        is not known, which `is_too_few` remembers.
        """
        if self.replicates.seeds_of(cells) > 1:
            return mean
        by_block = defaultdict(list)
        for block, value in values:
            by_block[block].append(value - mean.value)
        self.is_too_few |= len(by_block) < FEWEST_BLOCKS
        drawn = self.replicates.block_weights(tuple(by_block))
        shares = np.array([sum(some) for some in by_block.values()]) / len(values)
        return Mean(mean.value, mean.replicates + np.einsum("k,kb->b", shares, drawn))


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
    """The seeds that most settings were run with, of the settings that have them all; of such alone seeds are blocks.

    One seed that failed in one of forty settings would else leave that one with two, whose spread says little, and make
    every mean over the forty as uncertain. Of a setting with more seeds the others are left out.
    """
    by_setting = defaultdict(list)
    for cell in cells:
        by_setting[cell.setting].append(cell)
    counts = Counter(tuple(sorted(cell.seed for cell in found)) for found in by_setting.values())
    usual = set(max(counts, key=lambda some: (counts[some], len(some)), default=()))
    whole = (found for found in by_setting.values() if usual <= {cell.seed for cell in found})
    return [cell for found in whole for cell in found if cell.seed in usual]


def key_of(*apart: str) -> Callable[[Cell], Hashable]:
    """The settings of a cell but for those named."""
    names = [name for name in SETTINGS if name not in apart]
    return lambda cell: tuple(getattr(cell, name) for name in names)


def _block_of(*apart: str) -> Callable[[Cell], Hashable]:
    names = [name for name in BLOCKS if name not in apart]
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
