"""Two kinds of picture: rows of marks with their intervals, and groups of bars."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from maple.reporting import style
from maple.reporting.scores import Estimate

MOST = 42  # rows under each other; 122 languages make three columns
WIDEST = 0.26  # of a bar, where the groups are one apart

Series = Mapping[str, Mapping[str, Estimate]]  # {series: {row: estimate}}


def dots(
    title: str,
    panels: Mapping[str, Series],
    rows: Sequence[str],
    label: str,
    *,
    factor: float = 1.0,
    zero: bool = False,
) -> Drawing:
    """Rows downwards, a mark a series in each, its interval as a line; many rows stand in columns beside each other.

    zero   the values are differences: a line stands at none
    """
    series = style.looks(name for panel in panels.values() for name in panel)
    parts = [rows[start : start + _per_column(rows)] for start in range(0, len(rows), _per_column(rows))]
    across = len(parts) if len(parts) > 1 else min(len(panels), 2)
    down = -(-len(panels) * len(parts) // across)
    high = down * (len(parts[0]) * max(0.31, 0.13 * len(series) + 0.12) + 0.9)
    width = style.WIDE if across > 1 else 8.5
    drawing = style.sheet(title, width, max(high, 2.0) + 0.6 + legend_height(width, series))
    axes = drawing.subplots(down, across, squeeze=False, sharex=True).ravel()
    for axis in axes[len(panels) * len(parts) :]:
        axis.set_visible(False)
    places = [(name, part) for name in panels for part in parts]
    for axis, (name, part) in zip(axes, places, strict=False):
        _rows(axis, panels[name], part, series, factor)
        axis.tick_params(axis="x", labelbottom=True)
        axis.set_xlabel(label)
        if len(parts) > 1:
            axis.tick_params(axis="y", labelsize=10)
        if len(panels) > 1 and part is parts[0]:
            axis.set_title(textwrap.fill(name, int((width / across - 1.6) * 8.5)), loc="left")
        if zero:
            axis.axvline(0, color="black", linewidth=1.2, zorder=1)
    legend(drawing, axes, series)
    return drawing


def _per_column(rows: Sequence[str]) -> int:
    return max(1, ceil(len(rows) / ceil(len(rows) / MOST)))


def _rows(axis: Axes, panel: Series, rows: Sequence[str], series: Mapping, factor: float) -> None:
    step = min(0.8 / max(len(series), 1), 0.3)
    for number, (name, look) in enumerate(series.items()):
        shift = (number - (len(series) - 1) / 2) * step
        some = [(place + shift, panel[name][row]) for place, row in enumerate(rows) if row in panel.get(name, {})]
        for y, one in some:
            if one.low is not None:
                ends = [one.low * factor, one.high * factor]
                axis.plot(ends, [y, y], linewidth=1.6, alpha=0.75, color=look["color"])
        values = [one.value * factor for _, one in some]
        mark = {"linestyle": "", "markersize": 5.5, **style.of(look, "color", "marker")}
        axis.plot(values, [y for y, _ in some], label=name, **mark)
    style.ticks(axis.yaxis, rows)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    for place in range(1, len(rows), 2):
        axis.axhspan(place - 0.5, place + 0.5, color="#f5f5f5", zorder=0)


def bars(title: str, panels: Mapping[str, Series], groups: Sequence[str], label: str, *, form: str = ".2f") -> Drawing:
    """Groups of bars from zero, a bar a series, its interval as a line, its value over it; a panel below another."""
    series = style.looks(name for panel in panels.values() for name in panel)
    drawing = style.sheet(title, style.WIDE, 3.4 * len(panels) + 0.8 + legend_height(style.WIDE, series))
    axes = drawing.subplots(len(panels), 1, squeeze=False, sharey=True, sharex=True)[:, 0]
    width = min(0.84 / len(series), WIDEST)
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        for number, (one, look) in enumerate(series.items()):
            shift = (number - (len(series) - 1) / 2) * width
            some = [
                (place + shift, panel[one][group]) for place, group in enumerate(groups) if group in panel.get(one, {})
            ]
            _bars(axis, some, width, one, look, form)
        style.ticks(axis.xaxis, [textwrap.fill(group, max(8, int(style.WIDE / len(groups) * 7.5))) for group in groups])
        axis.tick_params(axis="x", length=0, labelbottom=True)
        axis.set_ylabel(label)
        axis.grid(axis="y")
        axis.margins(y=0.14)
        if len(panels) > 1:
            axis.set_title(textwrap.fill(name, 80), loc="left")
    legend(drawing, axes, series)
    return drawing


def _bars(axis: Axes, some: list[tuple[float, Estimate]], width: float, name: str, look: Mapping, form: str) -> None:
    look = {"edgecolor": "white", **style.of(look, "color", "hatch")}
    axis.bar([x for x, _ in some], [one.value for _, one in some], width * 0.94, label=name, **look)
    for x, one in some:
        if one.low is not None:
            axis.plot([x, x], [one.low, one.high], color="black", linewidth=1.4)
        top = one.value if one.high is None else max(one.value, one.high)
        text = f"{one.value:{form}}".removeprefix("0" if form == ".2f" else "")
        turned = {"rotation": 90} if width < 0.16 else {}
        axis.annotate(
            text, (x, top), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=9.5, **turned
        )


def legend(drawing: Drawing, axes: Iterable[Axes], series: Iterable[str]) -> None:
    """One for all panels, below them, where it hides no data."""
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    names = [name for name in dict.fromkeys(series) if name in found]
    if len(names) > 1:
        across = _across(drawing.get_figwidth(), names)
        drawing.legend([found[name] for name in names], names, loc="outside lower center", ncols=across)


def legend_height(width: float, series: Iterable[str]) -> float:
    """Inches that it takes below the panels."""
    names = list(dict.fromkeys(series))
    return 0.25 * -(-len(names) // _across(width, names)) + 0.2


def _across(width: float, names: list[str]) -> int:
    return min(len(names), max(1, int(width * 9.5 / (max(map(len, names)) + 6))))  # letters of 11 points
