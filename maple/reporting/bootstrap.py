"""How far a mean of scores could be another one: by other examples, and by other seeds.

Examples are drawn anew, with replacement, within each task and language, the same draw for all cells: two cells have
answered the same questions, and what is hard for both is no difference between them (a paired bootstrap).

Seeds are blocks, the same draw for all cells with the same seeds. Of S seeds a replicate is

    mean of the seeds by the drawn examples + sum_s (1 / S) w_s x_s
    w = sqrt(S / (S - 1)) (g - mean g) sqrt((S - 1) / chi^2_(S-1))

with g standard normal: what lies between the seeds becomes Student's t with S - 1 degrees of freedom, whatever is
computed from the x. Without the last factor the variance is that of resampling S - 1 of the S seeds (Rao and Wu 1988),
which is unbiased; but studies have two or three seeds, and in one study of eight without any effect all of three lie
above zero, and every resampling of them too. With it 5 % of such studies show an effect at 5 %
(tests/maple/reporting/test_bootstrap.py). A seed's own luck with the examples is in both terms, so an interval over
seeds that hardly differ is longer than it need be: up to a half with three seeds. Of one seed there is no draw: what
such an interval says is true of this seed (`contrasts.py` has what stands in for it).

Means are taken as the paper takes its own: over languages within a task, then over tasks.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from maple.reporting.study import Cell, Pair, Study

COUNT = 10_000  # the 95 % interval's ends are then off by 1/40 of its length, a p of 0.05 by 0.002
SEED = 20240112  # of all draws, so that a report comes out the same twice; the day the paper was submitted
LARGEST = 2**30  # bytes of all replicates together: the paper's 120 cells in 200 tasks and languages
FEWEST = 1000  # replicates of a study that is larger than that
CHUNK = 2**21  # draws at a time, 25 MB of memory while they are counted
EXACT = 2**23  # whole numbers up to twice this are exact in float32
TIE = 1e-9  # what rounding leaves of a difference that is none


class Mean(NamedTuple):
    """A mean, and what it was in each replicate; NaN where there is nothing to take it of."""

    value: float
    replicates: np.ndarray


class Replicates:
    """All scores of a study, drawn anew `count` times."""

    def __init__(self, study: Study, count: int = COUNT):
        self.study = study
        self.cells = [cell for cell in study.cells if cell.items]
        self.place = {cell: number for number, cell in enumerate(self.cells)}
        self.all_pairs = sorted({pair for cell in self.cells for pair in cell.items}, key=_order(study))
        self.place_of_pair = {pair: number for number, pair in enumerate(self.all_pairs)}
        self.judged = {task for cell in self.cells for (task, _), row in cell.rows.items() if _percent(row)}
        size = 4 * max(1, len(self.cells) * len(self.all_pairs))
        self.count = min(count, max(FEWEST, LARGEST // size))
        self.scores = np.full((len(self.cells), len(self.all_pairs), self.count), np.nan, dtype=np.float32)
        self.values = np.full(self.scores.shape[:2], np.nan)
        for number, pair in enumerate(self.all_pairs):
            self._draw(number, pair)
        self.block_weights = cache(self._block_weights)

    def _draw(self, number: int, pair: Pair) -> None:
        """Fill in one task and language.

        Scores are made whole numbers small enough that float32 adds them up exactly: no two machines or numbers of
        threads give different replicates. Of a thousand examples that moves a score by 2^-15 at most.
        """
        having = [place for place, cell in enumerate(self.cells) if pair in cell.items]
        unit = 100.0 if pair[0] in self.judged else 1.0
        items = np.stack([self.cells[place].items[pair] for place in having], axis=1)  # [n, cells]
        n = len(items)
        grid = 2.0 ** np.floor(np.log2(EXACT / n))
        counted = ~np.isnan(items)
        whole = np.rint(np.where(counted, items, 0) / unit * grid).astype(np.float32)
        self.values[having, number] = np.nanmean(items, axis=0)
        random = np.random.default_rng([SEED, zlib.crc32(" ".join(pair).encode())])
        step = max(1, CHUNK // n)
        for start in range(0, self.count, step):
            weights = resampled(random, min(step, self.count - start), n)
            total = weights @ whole
            of = n if counted.all() else np.maximum(weights @ counted.astype(np.float32), 1)  # a verdict may be missing
            self.scores[having, number, start : start + step] = (total / of * (unit / grid)).T

    def pairs(self, tasks: Collection[str] | None = None, languages: Collection[str] | None = None) -> list[Pair]:
        """Tasks and languages that there are scores of, all or some.

        tasks   None: all that no judge scores; a win rate, from 0 to 100, stands by itself, as in the paper
        """
        return [
            (task, language)
            for task, language in self.all_pairs
            if (task not in self.judged if tasks is None else task in tasks)
            and (languages is None or language in languages)
        ]

    def shared(self, cells: Iterable[Cell], pairs: Sequence[Pair] | None = None) -> list[Pair]:
        """The pairs that all of the cells have, over which alone they can be compared."""
        kept = self.pairs() if pairs is None else pairs
        return [pair for pair in kept if all(pair in cell.items for cell in cells)]

    def mean(self, cells: Iterable[Cell], pairs: Sequence[Pair] | None = None) -> Mean:
        """Of cells that differ in their seed, or of any others: those that differ in their seed alone are taken first.

        pairs   None: all that no judge scores. Of them a cell's mean is taken over those it has.
        """
        pairs = self.pairs() if pairs is None else pairs
        wanted = [cell for cell in cells if any(pair in cell.items for pair in pairs)]
        value, replicates = 0.0, np.zeros(self.count)
        groups = self.study.groups(wanted)
        for group in groups:
            weights = self.block_weights(tuple(cell.seed for cell in group))
            for cell, weight in zip(group, weights, strict=True):
                one = self._of_one(cell, pairs)
                share = 1 / len(group) / len(groups)
                value += share * one.value
                replicates += share * (one.replicates + weight * one.value)
        return Mean(value, replicates) if groups else Mean(np.nan, np.full(self.count, np.nan))

    def value(self, cell: Cell, pairs: Sequence[Pair]) -> float:
        """The mean of one cell alone, without replicates."""
        weights, which = self._weights(cell, pairs)
        return float(weights @ self.values[self.place[cell], which])

    def _of_one(self, cell: Cell, pairs: Sequence[Pair]) -> Mean:
        weights, which = self._weights(cell, pairs)
        # einsum adds up in one order, which a product of matrices does not
        drawn = np.einsum("p,pb->b", weights, self.scores[self.place[cell], which])
        return Mean(self.value(cell, pairs), drawn)

    def _weights(self, cell: Cell, pairs: Sequence[Pair]) -> tuple[np.ndarray, list[int]]:
        """Of the pairs that a cell has, and their places: over languages within each task, then over tasks."""
        having = [pair for pair in pairs if pair in cell.items]
        languages = Counter(task for task, _ in having)
        weights = [1 / languages[task] / len(languages) for task, _ in having]
        return np.array(weights), [self.place_of_pair[pair] for pair in having]

    def _block_weights(self, names: tuple) -> np.ndarray:
        """What is added to the weight 1 of each block, [blocks, replicates]; it adds up to 0 in each replicate."""
        s = len(names)
        if s == 1:
            return np.zeros((1, self.count))
        random = np.random.default_rng([SEED, *(zlib.crc32(str(name).encode()) for name in names)])
        g = random.standard_normal((s, self.count))
        tails = np.sqrt((s - 1) / random.chisquare(s - 1, self.count))
        return np.sqrt(s / (s - 1)) * (g - g.mean(axis=0)) * tails

    def seeds_of(self, cells: Iterable[Cell]) -> int:
        """The fewest seeds of what differs in its seed alone; 1: the spread between seeds is in no interval."""
        return min((len(group) for group in self.study.groups(cells) if not group[0].is_base), default=0)


def resampled(random: np.random.Generator, count: int, n: int) -> np.ndarray:
    """How often each of n examples was drawn in n draws, float32 [count, n]: the multinomial distribution."""
    drawn = random.integers(0, n, size=(count, n), dtype=np.int32)
    drawn += (np.arange(count, dtype=np.int32) * n)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * n).astype(np.float32).reshape(count, n)


def interval(replicates: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle share of the replicates: a confidence interval."""
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def stderr(replicates: np.ndarray) -> float:
    """Half of the middle 68.27 %, which is a normal distribution's standard deviation; Student's t may have none."""
    low, high = interval(replicates, 0.6827)
    return (high - low) / 2


def p_above(replicates: np.ndarray, bound: float = 0.0) -> float:
    """One-sided p of "no more than the bound" (Davison and Hinkley 1997, 4.11): never 0, whatever was drawn."""
    return (1 + int(np.count_nonzero(replicates <= bound + TIE))) / (1 + len(replicates))


def holm(ps: Sequence[float]) -> list[float]:
    """Each p as it is after the step-down correction of Holm (1979) for having been one of several."""
    result, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        result[index] = largest
    return result


def _percent(row: dict) -> bool:
    return row["metric"] == "win_rate"


def _order(study: Study):
    return lambda pair: (study.tasks.index(pair[0]), pair[1])
