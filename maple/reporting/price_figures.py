"""What a point of the grid costs, and what it gives for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from maple.reporting import style
from maple.reporting.costs import about_memory, costs
from maple.reporting.figure import Figure
from maple.reporting.marks import legend
from maple.reporting.scores import Estimate, Scores
from maple.reporting.table import Table

PRICES = ("memory, GiB", "tokens/s", "training, s", "adapter, MiB")
POINT = ["model", "data", "rank", "bits"]


def figures(scores: Scores) -> Iterator[Figure | str]:
    """Each figure, or a sentence that says what it lacks."""
    yield trainable(scores)
    yield price(scores)
    yield pareto(scores, "memory, GiB", "memory")
    yield pareto(scores, "training, s", "time")


class Point(NamedTuple):
    """Of the grid: its place, its mean over tasks, what it cost."""

    model: str
    data: str
    rank: int
    bits: int
    mean: Estimate
    cost: dict[str, float | None]


def _points(scores: Scores) -> list[Point]:
    found = [(place, cells, scores.mean(cells, scores.in_mean)) for place, cells in scores.grid.items()]
    return [Point(*place, mean, costs(cells)) for place, cells, mean in found if mean]


def trainable(scores: Scores) -> Figure | str:
    """The mean over tasks over the share of parameters that are trained, the axis of the paper's analysis."""
    title = "Score over trainable parameters"
    points = [point for point in _points(scores) if point.cost["trainable, %"]]
    if not points:
        return f"{title}: no cell of the grid has both scores of all tasks and a summary of its training."
    caption = (
        "The mean over tasks without AlpacaEval and over seeds, over the trainable share of all parameters "
        f"(logarithmic; the rank below it). Marks of one rank are drawn side by side. {scores.about_intervals}"
    )
    with style.styled():
        drawing = _trainable(scores, title, points)
    rows = [[*point[:4], point.cost["trainable, %"], *point.mean.row] for point in points]
    table = Table("trainable", title, [*POINT, "trainable, %", "mean", "low", "high"], rows, caption)
    return Figure("trainable", title, caption, drawing, table)


def _trainable(scores: Scores, title: str, points: list[Point]):
    models = [model for model in scores.models if any(point.model == model for point in points)]
    drawing = style.sheet(title, style.WIDE if len(models) > 1 else 9.0, 4.6 * len(models) + 1.0)
    axes = drawing.subplots(len(models), 1, squeeze=False)[:, 0]
    short = style.names(scores.models) | style.names(scores.data)
    lines = list(dict.fromkeys((point.data, point.bits) for point in points))
    for axis, model in zip(axes, models, strict=True):
        some = [point for point in points if point.model == model]
        for number, (data, bits) in enumerate(lines):
            line = [point for point in some if (point.data, point.bits) == (data, bits)]
            aside = 1.02 ** (number - (len(lines) - 1) / 2)  # so that intervals stand side by side
            xs = [point.cost["trainable, %"] * aside for point in line]
            look = _look(scores, data, bits)
            for x, point in zip(xs, line, strict=True):
                if point.mean.low is not None:
                    axis.plot([x, x], [point.mean.low, point.mean.high], color=look["color"], alpha=0.4, linewidth=1.3)
            name = f"{bits} bits" if len(scores.data) == 1 else f"{short[data]}, {bits} bits"
            axis.plot(xs, [point.mean.value for point in line], markersize=6, label=name, **look)
        axis.set_xscale("log")
        ticks = {point.rank: point.cost["trainable, %"] for point in some}
        axis.set_xticks(list(ticks.values()), [f"{x:.2g} %\nrank {rank}" for rank, x in ticks.items()])
        axis.minorticks_off()
        axis.set(xlabel="trainable parameters", ylabel="mean over tasks, 0 to 1")
        axis.grid()
        if len(models) > 1:
            axis.set_title(short[model], loc="left")
    legend(drawing, axes, [label for axis in axes for label in axis.get_legend_handles_labels()[1]])
    return drawing


def _look(scores: Scores, data: str, bits: int) -> dict[str, str]:
    """The colour of the data (of the bits, where there is one), the mark and the dash of the bits."""
    of_bits, of_data = style.looks(map(str, scores.bits))[str(bits)], style.looks(scores.data)[data]
    colour = of_bits if len(scores.data) == 1 else of_data
    return {**style.of(of_bits, "marker", "linestyle"), "color": colour["color"]}


def price(scores: Scores) -> Figure | str:
    """Memory, speed, time and size over the rank, a line for each model and bits, the mean over data and seeds."""
    title = "The price of rank and bits"
    found = defaultdict(dict)
    for model in scores.models:
        whole = scores.whole_panels(model)  # another size of data at one point would look like a price of that point
        for bits in scores.bits:
            for rank in scores.ranks:
                cost = costs(cell for data in whole for cell in scores.grid.get((model, data, rank, bits), []))
                cost["adapter, MiB"] = cost["adapter, bytes"] and cost["adapter, bytes"] / 2**20
                if any(cost[name] is not None for name in PRICES):
                    found[model, bits][rank] = cost
    if not found:
        return f"{title}: no cell of the grid has a summary of its training."
    caption = (
        "Peak memory, tokens per second, seconds of training and size of the adapter, the mean over data and seeds. "
        f"{about_memory(scores.study.main)}"
    )
    with style.styled():
        drawing = _price(scores, title, found)
    rows = [
        [model, rank, bits, *(cost[name] for name in PRICES)]
        for (model, bits), line in found.items()
        for rank, cost in line.items()
    ]
    table = Table("price_by_rank", title, ["model", "rank", "bits", *PRICES], rows, caption)
    return Figure("price_by_rank", title, caption, drawing, table)


def _price(scores: Scores, title: str, found: dict[tuple[str, int], dict[int, dict[str, float | None]]]):
    drawing = style.sheet(title, style.WIDE, 8.2)
    axes = drawing.subplots(2, 2).flat
    short, looks = style.names(scores.models), style.looks(map(str, scores.bits))
    for axis, name in zip(axes, PRICES, strict=True):
        for (model, bits), line in found.items():
            points = [(scores.ranks.index(rank), cost[name]) for rank, cost in line.items() if cost[name] is not None]
            label = f"{bits} bits" if len(scores.models) == 1 else f"{short[model]}, {bits} bits"
            number = scores.models.index(model)
            look = {**style.of(looks[str(bits)], "color", "marker"), "linestyle": style.DASHES[number % 4]}
            axis.plot([x for x, _ in points], [y for _, y in points], markersize=7, label=label, **look)
        style.ticks(axis.xaxis, [str(rank) for rank in scores.ranks])
        axis.set(xlabel="LoRA rank", ylabel=name, title=TITLES[name])
        axis.margins(y=0.1)
        axis.set_ylim(bottom=0)
        axis.grid()
    legend(drawing, drawing.axes, [label for axis in drawing.axes for label in axis.get_legend_handles_labels()[1]])
    return drawing


TITLES = dict(zip(PRICES, ("peak memory", "speed of training", "time of training", "size of the adapter"), strict=True))


def pareto(scores: Scores, cost: str, name: str) -> Figure | str:
    """The mean over tasks against a cost, and the points that no other beats in both."""
    title = f"Mean over tasks against {'memory' if name == 'memory' else 'training time'}"
    points = [point for point in _points(scores) if point.cost[cost]]
    if not points:
        return f"{title}: no cell of the grid has both scores of all tasks and a summary of its training."
    fronts = {model: front([p for p in points if p.model == model], cost) for model in scores.models}
    caption = (
        "The mean over tasks without AlpacaEval and over seeds. The line joins the points that are better than all "
        "that cost no more; beside them stands their rank, and the table has their data and intervals."
        + (f" {about_memory(scores.study.main)}" if name == "memory" else "")
    )
    with style.styled():
        drawing = _pareto(scores, title, points, fronts, cost)
    on = {id(point) for some in fronts.values() for point in some}
    rows = [[*point[:4], point.cost[cost], *point.mean.row, "●" if id(point) in on else ""] for point in points]
    table = Table(f"pareto_{name}", title, [*POINT, cost, "mean", "low", "high", "front"], rows, caption)
    return Figure(f"pareto_{name}", title, caption, drawing, table)


def front(points: list[Point], cost: str) -> list[Point]:
    """From the cheapest on, each that is better than all before it."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost[cost], -point.mean.value)):
        if not found or point.mean.value > found[-1].mean.value:
            found.append(point)
    return found


def _pareto(scores: Scores, title: str, points: list[Point], fronts: dict[str, list[Point]], cost: str):
    models = [model for model, some in fronts.items() if some]
    drawing = style.sheet(title, style.WIDE if len(models) > 1 else 9.0, 6.0)
    axes = drawing.subplots(1, len(models), squeeze=False)[0]
    short, looks = style.names(scores.models), style.looks(map(str, scores.bits))
    for axis, model in zip(axes, models, strict=True):
        line = fronts[model]
        steps = {"color": "black", "linewidth": 1.2, "zorder": 1, "drawstyle": "steps-post"}
        axis.plot([point.cost[cost] for point in line], [point.mean.value for point in line], **steps)
        for bits in scores.bits:
            some = [point for point in points if (point.model, point.bits) == (model, bits)]
            look = {"linestyle": "", **style.of(looks[str(bits)], "color", "marker"), "label": f"{bits} bits"}
            axis.plot([p.cost[cost] for p in some], [p.mean.value for p in some], markersize=8, alpha=0.85, **look)
        for point in line:
            at = point.cost[cost], point.mean.value
            axis.annotate(str(point.rank), at, (-5, 6), textcoords="offset points", ha="right", fontsize=11)
        axis.margins(0.1)
        axis.grid()
        axis.set_xlabel(cost)
        if len(models) > 1:
            axis.set_title(short[model], loc="left")
    axes[0].set_ylabel("mean over tasks, 0 to 1")
    legend(drawing, axes, [f"{bits} bits" for bits in scores.bits])
    return drawing
