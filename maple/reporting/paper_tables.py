"""Tables 1 and 2 of the paper, with what a study found under each published row; and what of the grid was run."""

from __future__ import annotations

from collections.abc import Iterator

from maple.reporting import published
from maple.reporting.published import TABLE_1, TABLE_2, WIN_RATE
from maple.reporting.scores import OF_MANY, Scores
from maple.reporting.table import Table, Value

PAPER, OURS, NA = "paper", "this study", "NA"


def table_1(scores: Scores) -> Table:
    """The best point of each model and data, and the score of each task there."""
    tasks = [*published.TASKS, *(task for task in scores.study.tasks if task not in (*published.TASKS, WIN_RATE))]
    columns = ["model", "data", "source", "rank", "bits", "seeds", *tasks, "mean", "scored cells"]

    def of_paper(row: published.Row) -> list[Value]:
        found = [NA if row.scores[task] is None else row.scores[task] for task in published.TASKS]
        others: list[Value] = [None] * (len(tasks) - len(found))
        return [row.model, row.data or NA, PAPER, None, None, None, *found, *others, row.mean, None]

    def of_study(panel: tuple[str, str]) -> list[Value]:
        best = scores.best_points.get(panel, [])
        means = [scores.mean(best, pairs) for pairs in (*map(scores.of_task, tasks), scores.in_mean)]
        values = [None if mean is None else mean.value for mean in means]
        return [*panel, OURS, *_point(best), *values, _run(scores, panel)]

    note = (
        "Scores from 0 to 1: of each task the mean over its languages, in the last column the mean over the tasks that "
        "are not NA. The paper shows the best rank and bits of each row and does not say which they are; ours are the "
        "point of the grid whose mean over tasks is best, of all seeds. What was not measured is empty. "
        f"The baselines have other prompts. {OF_MANY}"
    )
    rows = list(_beside(scores, [(row.model, row.data, of_paper(row)) for row in TABLE_1], of_study))
    return Table("table_1", "Table 1: the best rank and bits for each model and data", columns, rows, note)


def table_2(scores: Scores) -> Table:
    """The best win rate of each model and data, and where it is."""
    columns = ["model", "data", "source", "rank", "bits", "seeds", "win rate", "low", "high", "scored cells"]
    pairs = scores.of_task(WIN_RATE)

    def of_study(panel: tuple[str, str]) -> list[Value]:
        point = scores.best(*panel, pairs)
        best = scores.grid[*panel, *point] if point else []
        mean = scores.mean(best, pairs)
        return [*panel, OURS, *_point(best), *(mean.row if mean else [None] * 3), _run(scores, panel)]

    judges = {c.rows[p]["settings"].get("judge") for c in scores.study.cells for p in pairs if p in c.rows} - {None}
    note = (
        f"AlpacaEval's win rate over the reference answers, in percent, with its 95 % interval. {OF_MANY} The paper's "
        "judge was most likely GPT-4; "
        + (f"ours was {', '.join(sorted(judges))}." if judges else "this study names none.")
    )
    paper = [(w.model, w.data, [w.model, w.data or NA, PAPER, w.rank, w.bits, None, w.win_rate]) for w in TABLE_2]
    rows = list(_beside(scores, [(model, data, [*row, None, None, None]) for model, data, row in paper], of_study))
    return Table("table_2", "Table 2: the best win rate for each model and data", columns, rows, note)


def grid(scores: Scores) -> Table:
    """A mark for each point of the grid that was run."""
    rows: list[list[Value]] = []
    for model, data in scores.panels:
        for rank in scores.ranks:
            marks = [_mark(scores.grid.get((model, data, rank, width), [])) for width in scores.bits]
            rows += [[model, data, rank, *marks]] if any(marks) else []
    note = "● all seeds have scores; else how many of how many have. Empty: no part of the study."
    columns = ["model", "data", "rank", *(f"{width} bits" for width in scores.bits)]
    return Table("grid", "What was run", columns, rows, note)


def _mark(cells: list) -> str:
    done = sum(bool(cell.rows) for cell in cells)
    return "●" if cells and done == len(cells) else f"{done} of {len(cells)}" if cells else ""


def _beside(scores: Scores, paper: list[tuple[str, str | None, list[Value]]], of_study) -> Iterator[list[Value]]:
    """Each published row, under it that of the study; at the end what the paper has no row for."""
    ours = {panel: published.names(*panel) for panel in scores.panels}
    for model, data, row in paper:
        yield row
        yield from (of_study(panel) for panel, name in ours.items() if name == (model, data))
    yield from (of_study(panel) for panel, name in ours.items() if name is None)


def _point(cells: list) -> list[Value]:
    return [cells[0].rank, cells[0].bits, sum(bool(cell.rows) for cell in cells)] if cells else [None] * 3


def _run(scores: Scores, panel: tuple[str, str]) -> str:
    cells = scores.of_panel(*panel)
    return f"{sum(bool(cell.rows) for cell in cells)} of {len(cells)}"
