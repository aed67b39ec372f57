"""Every table of a report that is not the data of a figure, in the order of the page."""

from __future__ import annotations

from collections.abc import Sequence

from maple.languages import fact, groups
from maple.reporting.bootstrap import Replicates
from maple.reporting.claims import Claim
from maple.reporting.costs import about_memory, costs, present
from maple.reporting.paper_tables import grid, table_1, table_2
from maple.reporting.scores import Scores, macro
from maple.reporting.study import Cell, Pair, Study
from maple.reporting.table import Table, Value

__all__ = ["Table", "tables"]

POINT = ["model", "data", "rank", "bits", "scaling"]


def tables(study: Study, replicates: Replicates | None = None, verdicts: Sequence[Claim] = ()) -> list[Table]:
    """Those of the paper, all cells, the scores by language, the price, the claims."""
    scores = Scores(study, replicates)
    made = [table_1(scores), table_2(scores), grid(scores), cells(scores), by_language(scores), price(scores)]
    return [*made, *([claims(verdicts)] if verdicts else [])]


def cells(scores: Scores) -> Table:
    """A row a cell."""
    tasks = scores.study.tasks
    measured = ["trainable, %", "mean", *tasks, "memory, GiB", "tokens/s", "training, s", "all, s", "adapter, bytes"]
    rows: list[list[Value]] = []
    for cell in scores.study.cells:
        found = [_mean(cell, pairs) for pairs in (scores.in_mean, *map(scores.of_task, tasks))]
        cost = costs([cell])
        paid = [cost["memory, GiB"], cost["tokens/s"], cost["training, s"], cell.seconds, cost["adapter, bytes"]]
        rows.append([*_point(cell), cell.seed, cell.state, cost["trainable, %"], *found, *paid, cell.name])
    note = (
        "Rank 0 is the base, with nothing trained. A task is the mean over its languages; the mean over tasks is "
        "without AlpacaEval, as in the paper. The last column is the cell's folder."
    )
    return Table("cells", "All cells", [*POINT, "seed", "state", *measured, "cell"], rows, note)


def by_language(scores: Scores) -> Table:
    """A row a point and language, the mean over seeds."""
    tasks = scores.study.tasks
    rows: list[list[Value]] = []
    for seeds in scores.study.groups():
        trained = seeds[0].trained
        for code in scores.study.languages:
            pairs = {pair for pair in scores.in_mean if pair[1] == code}
            found = [_mean_of(seeds, {(task, code)}) for task in tasks]
            gain = _gain(scores, seeds, pairs)
            about = [code, fact(code).name, fact(code).own, _trained(code, trained), fact(code).resources]
            rows.append([*_point(seeds[0]), len(seeds), *about, *found, _mean_of(seeds, pairs), gain])
    columns = [*POINT, "seeds", "language", "name", "own name", "trained", "resources", *tasks, "mean", "over the base"]
    note = (
        "The mean over a language's tasks is without AlpacaEval. Over the base: that mean less the one of the same "
        "model in the same bits before training. Resources are the classes of Joshi et al. (2020): high 4 and 5, mid "
        "3, low 0 to 2."
    )
    return Table("languages", "Scores by language", columns, rows, note)


def price(scores: Scores) -> Table:
    """A row a point: what it cost, the mean over seeds."""
    rows: list[list[Value]] = []
    for seeds in scores.study.groups(cell for cell in scores.study.cells if not cell.is_base):
        cost = costs(seeds)
        whole = present(cell.seconds for cell in seeds)
        paid = [cost["memory, GiB"], cost["tokens/s"], cost["training, s"], whole, cost["adapter, bytes"]]
        rows.append([*_point(seeds[0]), len(seeds), *paid, _mean_of(seeds, scores.in_mean)])
    columns = [*POINT, "seeds", "memory, GiB", "tokens/s", "training, s", "all, s", "adapter, bytes", "mean"]
    note = (
        f"{about_memory(scores.study.cells)} Tokens per second and seconds are of training; all, s is the whole cell "
        "with its scoring, all attempts together."
    )
    return Table("price", "What each point costs", columns, rows, note)


def claims(verdicts: Sequence[Claim]) -> Table:
    """A row a claim of the paper."""
    columns = [
        "claim",
        "in words",
        "verdict",
        "estimate",
        "low",
        "high",
        "p",
        "p (Holm)",
        "p of the opposite (Holm)",
        "estimate of",
        "test",
        "note",
    ]
    rows: list[list[Value]] = [
        [
            *(c.name, c.text, c.verdict, c.estimate, c.low, c.high),
            *(c.p, c.p_holm, c.p_opposite, c.part, c.test, c.note),
        ]
        for c in verdicts
    ]
    note = (
        "The estimate is of the part of a claim that is hardest to show, with its 95 % interval. p is one-sided, by "
        "bootstrap, corrected after Holm for the claims that could be tested; a claim is supported at .05, and "
        "contradicted where the opposite of one of its parts is shown at .05."
    )
    return Table("claims", "The paper's claims", columns, rows, note)


def _gain(scores: Scores, seeds: list[Cell], pairs: set[Pair]) -> float | None:
    """Of the seeds of a point over its base; None of a base itself."""
    base = scores.study.base_of(seeds[0])
    mean, before = _mean_of(seeds, pairs), base and _mean(base, pairs)
    return None if seeds[0].is_base or mean is None or before is None else mean - before


def _point(cell: Cell) -> list[Value]:
    return [cell.model, cell.source, cell.rank, cell.bits, cell.scaling]


def _mean(cell: Cell, pairs: set[Pair]) -> float | None:
    """None where a score is missing: a mean of fewer would be one of something else."""
    return macro({pair: cell.rows[pair]["value"] for pair in pairs}) if pairs and cell.rows.keys() >= pairs else None


def _mean_of(seeds: list[Cell], pairs: set[Pair]) -> float | None:
    return present(_mean(cell, pairs) for cell in seeds)


def _trained(code: str, trained: frozenset[str]) -> str | None:
    """Of a base, and of a cell that does not say what it trained on, nothing."""
    return ("yes" if "trained" in groups(code, trained) else "no") if trained else None
