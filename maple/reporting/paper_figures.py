"""Figures 1 to 4 of the paper, redrawn of what a study holds (its own images could not be had, only their captions)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from maple.data.published import PUBLISHED
from maple.languages import language_of
from maple.reporting import published, style
from maple.reporting.figure import Figure
from maple.reporting.heat import SHARE, rank_by_bits
from maple.reporting.marks import bars, dots
from maple.reporting.scores import OF_MANY, Estimate, Scores
from maple.reporting.table import Table

ENDS = ["mean", "low", "high"]


def figures(scores: Scores) -> Iterator[Figure | str]:
    """Each figure, or a sentence that says what it lacks."""
    yield figure_1(scores)
    yield figure_1_belebele(scores)
    yield figure_2(scores)
    yield figure_3(scores)
    yield figure_4(scores)


def figure_1(scores: Scores) -> Figure | str:
    """The mean over tasks."""
    title = "Figure 1: mean over tasks by rank and bits"
    caption = f"The mean over tasks without AlpacaEval, over the seeds. {scores.about_intervals} {COLOURS}"
    made = rank_by_bits(
        scores, "figure_1_mean", title, caption, SHARE, lambda cells: scores.mean(cells, scores.in_mean)
    )
    return made or "Figure 1 (mean over tasks by rank and bits): no cell of the grid has scores of all tasks."


COLOURS = "The colours span the range of each model by itself."


def figure_1_belebele(scores: Scores) -> Figure | str:
    """The same of Belebele, which the heading of the paper's figure names."""
    title = "Figure 1: Belebele by rank and bits"
    caption = f"Accuracy, the mean over languages and seeds; one answer of four is right. {scores.about_intervals} "
    pairs = scores.of_task("belebele")
    made = rank_by_bits(
        scores, "figure_1_belebele", title, caption + COLOURS, SHARE, lambda cells: scores.mean(cells, pairs)
    )
    return made or "Figure 1 (Belebele by rank and bits): no cell of the grid has scores of Belebele."


def figure_2(scores: Scores) -> Figure | str:
    """Task by task the best adapter of each model, beside the published baselines."""
    tasks = [task for task in scores.study.tasks if task != published.WIN_RATE]
    short, rows = style.names(scores.models), []
    series: dict[str, dict[str, Estimate]] = {}
    for model in scores.models:
        for task in tasks:
            found = [(scores.mean(cells, scores.of_task(task)), point) for point, cells in _points(scores, model)]
            best = max(((mean, point) for mean, point in found if mean), key=lambda one: one[0].value, default=None)
            if best:
                series.setdefault(f"{short[model]}, best adapter", {})[task] = best[0]
                rows.append([model, OURS, task, *best[1], *best[0].row])
    if not series:
        return "Figure 2 (the best adapter task by task): no cell of the grid has scores of a whole task."
    for row in () if scores.is_tiny else published.TABLE_1:
        if row.data is None:
            known = {task: row.scores[task] for task in tasks if row.scores.get(task) is not None}
            series[f"{row.model} (published)"] = {task: Estimate(value) for task, value in known.items()}
            rows += [[row.model, "paper", task, None, None, None, value, None, None] for task, value in known.items()]
    title = "Figure 2: the best adapter of each model, task by task"
    caption = (
        "The mean over a task's languages, of the data, rank and bits that are best in it, which differ from task to "
        f"task (the table says which). {OF_MANY} {scores.about_intervals} "
        + ("" if scores.is_tiny else "The published baselines were asked with other prompts.")
    )
    with style.styled():
        drawing = bars(title, {"": series}, tasks, "score, 0 to 1")
    columns = ["model", "source", "task", "data", "rank", "bits", *ENDS]
    return Figure("figure_2", title, caption, drawing, Table("figure_2", title, columns, rows, caption))


OURS = "this study"


def _points(scores: Scores, model: str):
    return [(point[1:], cells) for point, cells in scores.grid.items() if point[0] == model]


def figure_3(scores: Scores) -> Figure | str:
    """Belebele by groups of languages, a bar a data set and one of the base."""
    languages = {language for _, language in scores.of_task("belebele")}
    short = style.names(scores.models) | style.names(scores.data)
    panels, rows, groups = {}, {}, {}
    series = [(model, *one) for model in scores.models for one in scores.series_of(model, short)]
    for model, name_of, data, cells in series:
        for group, codes in _groups(scores, data, name_of, languages).items():
            groups[group] = len(codes)
            pairs = {("belebele", code) for code in codes}
            bits = scores.bits if _is_paper(scores) else {cell.bits for cell in cells}
            bases = [base for base in scores.bases_of(model) if base.bits in bits]
            shown = name_of if _is_paper(scores) else "adapters"
            for name, of, some in ((shown, data, cells), (style.BASE, None, bases)):
                if mean := scores.mean(some, pairs):
                    panels.setdefault(short[model], {}).setdefault(name, {})[group] = mean
                    where = [group, len({(cell.rank, cell.bits) for cell in some}), len(codes)]
                    rows[model, name, group] = [model, of, *where, *mean.row]
    if not rows:
        return "Figure 3 (Belebele by training languages): no cell of the grid has scores of Belebele."
    title = "Figure 3: Belebele by training languages"
    caption = (
        "Accuracy on Belebele, the mean over the languages of a group (how many they are stands below it) and over "
        "the ranks, bits and seeds that were run; the base is the model before training in the same bits. "
        f"{scores.about_intervals}"
    )
    with style.styled():
        labels = {group: f"{group} ({count})" for group, count in groups.items()}
        named = {
            model: {name: {labels[group]: one for group, one in found.items()} for name, found in panel.items()}
            for model, panel in panels.items()
        }
        drawing = bars(title, named, list(labels.values()), "accuracy")
    columns = ["model", "data", "languages", "points", "how many", *ENDS]
    return Figure("figure_3", title, caption, drawing, Table("figure_3", title, columns, [*rows.values()], caption))


def _is_paper(scores: Scores) -> bool:
    return bool({"multialpaca", "bactrian-x-22"} & set(scores.data))


def _groups(scores: Scores, data: str, name: str, languages: set[str]) -> dict[str, set[str]]:
    """The paper's three groups for its data; else of each data set the languages it trains on and the others."""
    if _is_paper(scores):
        eleven, more = (set(PUBLISHED[of].languages) for of in ("multialpaca", "bactrian-x-22"))
        found = {
            "in MultiAlpaca": languages & eleven,
            "added by Bactrian-X-22": languages & more - eleven,
            "in neither": languages - more - eleven,
        }
    else:
        inside = {code for code in languages if language_of(code) in scores.trained(data)}
        found = {f"{name}: trained on": inside, f"{name}: others": languages - inside} if scores.trained(data) else {}
    return {group: codes for group, codes in found.items() if codes}


def figure_4(scores: Scores) -> Figure | str:
    """XQuAD by language, of the best point of each model and data, and the base."""
    codes = sorted(language for _, language in scores.of_task("xquad"))
    short = style.names(scores.models) | style.names(scores.data)
    rows, panels = {}, {}
    widths = defaultdict(set)
    for (model, _), best in scores.best_points.items():
        widths[model].add(best[0].bits)
    for (model, data), best in scores.best_points.items():
        bits = best[0].bits
        before = [base for base in scores.bases_of(model) if base.bits == bits]
        base = style.BASE if len(widths[model]) == 1 else f"{style.BASE}, {bits} bits"
        for name, of, cells in ((short[data], data, best), (base, None, before)):
            for code in codes:
                if mean := scores.mean(cells, {("xquad", code)}):
                    panels.setdefault(short[model], {}).setdefault(name, {})[style.language(code)] = mean
                    point = [best[0].rank if of else 0, bits]
                    rows[model, name, code] = [model, of, *point, code, *mean.row]
    if not rows:
        return "Figure 4 (XQuAD by language): no cell of the grid has scores of XQuAD and of all other tasks."
    title = "Figure 4: XQuAD by language"
    caption = (
        "F1 at the rank and bits that are best in the mean over tasks (the table says which), the mean over seeds; "
        "the base is the model before training, in the adapter's bits. Of the baselines nothing is published by "
        f"language. {scores.about_intervals}"
    )
    with style.styled():
        drawing = dots(title, panels, [style.language(code) for code in codes], "F1, 0 to 1")
    columns = ["model", "data", "rank", "bits", "language", *ENDS]
    return Figure("figure_4", title, caption, drawing, Table("figure_4", title, columns, [*rows.values()], caption))
