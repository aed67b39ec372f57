"""A heat map over rank and bits for each model and data, the mean and its interval written in each field."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from maple.reporting import style
from maple.reporting.figure import Figure
from maple.reporting.scores import Estimate, Scores
from maple.reporting.study import Cell
from maple.reporting.table import Table

ACROSS = 4  # panels side by side: as many as the paper has data sets
FIELD = 0.95, 0.62  # inches at most, and high: two lines of text
NARROW = 0.85  # inches, that two numbers of four digits with signs take
DARK = 0.5  # a field whose luminance is less has white letters


@dataclass(frozen=True)
class Unit:
    """How a number is written in a field, and what a colour bar says."""

    label: str
    value: str
    end: str  # of an interval
    narrow: str  # the same where fields are
    factor: float = 1.0
    diverging: bool = False  # around zero: a difference

    def text(self, estimate: Estimate, width: float) -> tuple[str, str]:
        """The mean, and the interval or nothing."""
        value, *ends = (None if x is None else x * self.factor for x in estimate.row)
        form = self.narrow if width < NARROW else self.end
        written = "" if ends[0] is None else "–".join(_short(end, form) for end in ends)
        return _short(value, self.value), written.replace("–", "…") if self.diverging else written


SHARE = Unit("score, 0 to 1", ".3f", ".2f", ".2f")
PERCENT = Unit("win rate, %", ".1f", ".1f", ".0f")
POINTS = Unit("percentage points over the base", "+.1f", "+.1f", "+.0f", factor=100.0, diverging=True)


def rank_by_bits(
    scores: Scores, name: str, title: str, caption: str, unit: Unit, estimate: Callable[[list[Cell]], Estimate | None]
) -> Figure | None:
    """The figure with its data; None where no point of the grid has an estimate."""
    found = {}
    for point, cells in scores.grid.items():
        if (one := estimate(cells)) is not None:
            found[point] = one
    if not found:
        return None
    columns = ["model", "data", "rank", "bits", "seeds", "mean", "low", "high"]
    seeds = {point: sum(bool(cell.rows) for cell in scores.grid[point]) for point in found}
    rows = [[*point, seeds[point], *one.row] for point, one in found.items()]
    panels = _panels(scores, found)
    single = [f"{data} ({model})" for model, data in scores.panels if (model, data) not in panels]
    if single:
        caption += f" Run at one rank and bit-width, or not yet, and so only in the table: {', '.join(single)}."
    with style.styled():
        drawing = _draw(scores, title, unit, found, panels)
    return Figure(name, title, caption, drawing, Table(name, title, columns, rows, caption))


def _panels(scores: Scores, found: dict) -> list[tuple[str, str]]:
    """The models and data to draw: those with more than one point, if any has more."""
    counts = {panel: sum(point[:2] == panel for point in found) for panel in scores.panels}
    more = [panel for panel, count in counts.items() if count > 1]
    return more or [panel for panel, count in counts.items() if count]


def _draw(scores: Scores, title: str, unit: Unit, found: dict, panels: list[tuple[str, str]]):
    models = [model for model in scores.models if model in dict(panels)]
    across = min(ACROSS, max(sum(of == model for of, _ in panels) for model in models))
    lines = {model: ceil(sum(of == model for of, _ in panels) / across) for model in models}
    width = min(FIELD[0], (style.WIDE - 2.2 - 0.25 * across) / (across * len(scores.bits)))
    size = across * (len(scores.bits) * width + 0.25) + 2.2, sum(lines.values()) * (len(scores.ranks) * FIELD[1] + 1.1)
    drawing = style.sheet(title, max(size[0], 6.0), size[1] + 0.5)
    axes = drawing.subplots(sum(lines.values()), across, squeeze=False)
    short = style.names(scores.models) | style.names(scores.data)
    first = 0
    for model in models:
        of_model = axes[first : first + lines[model]]
        first += lines[model]
        norm = _norm([one.value * unit.factor for point, one in found.items() if point[0] == model], unit)
        data = [by for of, by in panels if of == model]
        for panel in of_model.flat[len(data) :]:
            panel.set_visible(False)
        for panel, by in zip(of_model.flat, data, strict=False):
            fields = {point[2:]: one for point, one in found.items() if point[:2] == (model, by)}
            mesh = _panel(panel, fields, scores, norm, unit, width)
            heading = short[by] if len(models) == 1 else f"{short[model]}\n{short[by]}"
            per_line = int(len(scores.bits) * width * 9)
            panel.set_title("\n".join(textwrap.fill(part, per_line) for part in heading.split("\n")), fontsize=11.5)
        for line in of_model:
            line[0].set_ylabel("LoRA rank")
        drawing.colorbar(mesh, ax=of_model.ravel().tolist(), label=unit.label, pad=0.02, aspect=25)
    return drawing


def _norm(values: list[float], unit: Unit) -> Normalize:
    """The range of the colours; of a model, since between two of them there is more than within one."""
    if unit.diverging:
        most = max(map(abs, values)) or 1.0
        return Normalize(-most, most)
    return Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1e-3)


def _panel(panel: Axes, fields: dict[tuple[int, int], Estimate], scores: Scores, norm, unit: Unit, size: float):
    colours = colormaps["PuOr" if unit.diverging else "viridis"]
    ranks, bits = scores.ranks, scores.bits
    values = np.full((len(ranks), len(bits)), np.nan)
    for (rank, width), one in fields.items():
        values[ranks.index(rank), bits.index(width)] = one.value * unit.factor
    panel.set_facecolor("#eeeeee")  # of what was not run
    mesh = panel.pcolormesh(values, cmap=colours, norm=norm, edgecolors="white", linewidth=1.5)
    for (rank, width), one in fields.items():
        x, y = bits.index(width) + 0.5, ranks.index(rank) + 0.5
        red, green, blue, _ = colours(norm(one.value * unit.factor))
        ink = "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < DARK else "black"
        value, ends = unit.text(one, size)
        inside = {"ha": "center", "va": "center", "color": ink, "in_layout": False}  # it needs no room of its own
        panel.text(x, y + (0.14 if ends else 0), value, fontsize=12.5, **inside)
        panel.text(x, y - 0.24, ends, fontsize=8.5, **inside)
    style.ticks(panel.xaxis, [str(width) for width in bits], offset=0.5)
    style.ticks(panel.yaxis, [str(rank) for rank in ranks], offset=0.5)
    panel.tick_params(length=0)
    panel.set_xlabel("bits")
    for side in panel.spines.values():
        side.set_visible(False)
    return mesh


def _short(value: float, form: str) -> str:
    """As the paper writes them: .53 of 0.53; and a minus sign as long as the plus."""
    text = f"{value:{form}}"
    if float(text) == 0:
        text = text.lstrip("+-")
    if form.endswith(("2f", "3f")):
        text = text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text
    return text.replace("-", "−")
