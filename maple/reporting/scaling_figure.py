"""The rank under each rule of scaling: alpha = rank, a fixed alpha, rsLoRA."""

from __future__ import annotations

import textwrap

from maple.reporting import style
from maple.reporting.figure import Figure
from maple.reporting.marks import legend
from maple.reporting.scores import Estimate, Scores
from maple.reporting.study import BY_RANK, Cell
from maple.reporting.table import Table

Lines = dict[str, dict[int, list[Cell]]]  # rule -> rank -> seeds


def slices(scores: Scores) -> Figure | str:
    """The mean over tasks by rank under each rule of scaling, where the study has a slice under another."""
    title = "Rank and the rule of scaling"
    panels = {}
    for cell in scores.study.cells:
        if cell.rows and not cell.is_base:
            panels.setdefault((cell.model, cell.source, cell.bits), {}).setdefault(cell.scaling, {}).setdefault(
                cell.rank, []
            ).append(cell)
    found = {}
    for place, lines in panels.items():
        drawn = {
            rule: {rank: mean for rank, cells in sorted(line.items()) if (mean := scores.mean(cells, scores.in_mean))}
            for rule, line in _whole(lines).items()
        }
        if len(lines) > 1 and any(drawn.values()):
            found[place] = {rule: line for rule, line in drawn.items() if line}
    if not found:
        return f"{title}: no finished cell has another rule than {BY_RANK}."
    caption = (
        "The adapter is scaled by alpha / rank, under rsLoRA by alpha / the root of the rank. Where alpha = rank the "
        "scale stays as the rank grows; under a fixed alpha it falls, so that rank and scale change together. The "
        f"mean over tasks and seeds. {scores.about_intervals}"
    )
    with style.styled():
        drawing = _slices(scores, title, found)
    rows = [
        [*place, rule, rank, *mean.row]
        for place, lines in found.items()
        for rule, line in lines.items()
        for rank, mean in line.items()
    ]
    columns = ["model", "data", "bits", "scaling", "rank", "mean", "low", "high"]
    return Figure("slices", title, caption, drawing, Table("slices", title, columns, rows, caption))


def _whole(lines: Lines) -> Lines:
    """The line of alpha = 8 goes through rank 8, where it is alpha = rank too."""
    found = {rule: dict(line) for rule, line in lines.items()}
    for rule, line in found.items():
        before, _, alpha = rule.rpartition("alpha = ")
        twin = lines.get(f"{before}{BY_RANK}", {})
        line.update({rank: cells for rank, cells in twin.items() if f"{rank:g}" == alpha})
    alone = f"rsLoRA, {BY_RANK}"  # a single rank of it is a part of another line
    return {rule: line for rule, line in found.items() if rule != alone or len(line) > 1 or len(found) == 1}


def _slices(scores: Scores, title: str, found: dict[tuple[str, str, int], dict[str, dict[int, Estimate]]]):
    across = min(3, len(found))
    down = -(-len(found) // across)
    drawing = style.sheet(title, style.WIDE if across > 1 else 9.0, 4.6 * down + 1.0)
    axes = drawing.subplots(down, across, squeeze=False, sharey=True).ravel()
    short = style.names(scores.models) | style.names(scores.data)
    rules = sorted({rule for lines in found.values() for rule in lines}, key=lambda rule: (rule != BY_RANK, rule))
    looks, ranks = style.looks(rules), sorted({rank for ls in found.values() for line in ls.values() for rank in line})
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    for axis, ((model, data, bits), lines) in zip(axes, found.items(), strict=False):
        for number, rule in enumerate(rule for rule in rules if rule in lines):
            aside = 0.06 * (number - (len(lines) - 1) / 2)
            points = [(ranks.index(rank) + aside, mean) for rank, mean in lines[rule].items()]
            look = style.of(looks[rule], "color", "marker", "linestyle")
            for x, mean in points:
                if mean.low is not None:
                    axis.plot([x, x], [mean.low, mean.high], color=look["color"], alpha=0.5, linewidth=1.5)
            axis.plot([x for x, _ in points], [mean.value for _, mean in points], markersize=7, label=rule, **look)
        style.ticks(axis.xaxis, [str(rank) for rank in ranks])
        named = [short[model]] * (len(scores.models) > 1) + [short[data]] * (len(scores.data) > 1)
        axis.set_title(textwrap.fill(", ".join([*named, f"{bits} bits"]), 84 // across), loc="left")
        axis.set_xlabel("LoRA rank")
        axis.grid()
    axes[0].set_ylabel("mean over tasks, 0 to 1")
    legend(drawing, axes[: len(found)], rules)
    return drawing
