"""Two kinds of picture: rows of marks with their intervals, and groups of bars."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from maple.reporting import style
from maple.reporting.scores import Estimate

MOST = 42  # rows under each other; 122 languages make three columns

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
    """Rows downwards, a mark a series in each, its interval as a line; a panel or, of many rows, some for each panel.

    zero   the values are differences: a line stands at none
    """
    series = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    parts = [rows[start : start + _per_column(rows)] for start in range(0, len(rows), _per_column(rows))]
    across = len(panels) * len(parts)
    high = len(parts[0]) * max(0.31, 0.13 * len(series) + 0.12)
    drawing = style.sheet(title, style.WIDE if across > 1 else 8.5, max(high, 1.2) + 2.1)
    axes = drawing.subplots(1, across, squeeze=False, sharex=True)[0]
    places = [(name, part) for name in panels for part in parts]
    for axis, (name, part) in zip(axes, places, strict=True):
        _rows(axis, panels[name], part, series, factor)
        if len(panels) > 1 and part is parts[0]:
            axis.set_title(textwrap.fill(name, 44 // len(panels) * 2), loc="left")
        if zero:
            axis.axvline(0, color="black", linewidth=1.2, zorder=1)
    drawing.supxlabel(label, fontsize=12)
    legend(drawing, axes, series)
    return drawing


def _per_column(rows: Sequence[str]) -> int:
    return max(1, ceil(len(rows) / ceil(len(rows) / MOST)))


def _rows(axis: Axes, panel: Series, rows: Sequence[str], series: list[str], factor: float) -> None:
    step = min(0.8 / max(len(series), 1), 0.3)
    for number, name in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * step
        some = [(place + shift, panel[name][row]) for place, row in enumerate(rows) if row in panel.get(name, {})]
        look = {"color": style.COLOURS[number % len(style.COLOURS)]}
        for y, one in some:
            if one.low is not None:
                axis.plot([one.low * factor, one.high * factor], [y, y], linewidth=1.6, alpha=0.75, **look)
        values = [one.value * factor for _, one in some]
        mark = style.MARKS[number % len(style.MARKS)]
        axis.plot(values, [y for y, _ in some], mark, markersize=5.5, label=name, **look)
    style.ticks(axis.yaxis, rows)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    for place in range(1, len(rows), 2):
        axis.axhspan(place - 0.5, place + 0.5, color="#f5f5f5", zorder=0)


def bars(title: str, panels: Mapping[str, Series], groups: Sequence[str], label: str, *, form: str = ".2f") -> Drawing:
    """Groups of bars from zero, a bar a series, its interval as a line, its value over it; a panel below another."""
    series = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    drawing = style.sheet(title, style.WIDE, 3.4 * len(panels) + 1.3)
    axes = drawing.subplots(len(panels), 1, squeeze=False, sharey=True, sharex=True)[:, 0]
    width = 0.84 / len(series)
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        for number, one_series in enumerate(series):
            shift = (number - (len(series) - 1) / 2) * width
            _bars(axis, panel.get(one_series, {}), groups, shift, width, number, one_series, form)
        style.ticks(axis.xaxis, groups)
        axis.tick_params(axis="x", length=0, labelbottom=True)
        axis.set_ylabel(label)
        axis.grid(axis="y")
        axis.margins(y=0.14)
        if len(panels) > 1:
            axis.set_title(textwrap.fill(name, 80), loc="left")
    legend(drawing, axes, series)
    return drawing


def _bars(axis: Axes, values: Mapping[str, Estimate], groups, shift, width, number: int, name: str, form: str) -> None:
    some = [(place + shift, values[group]) for place, group in enumerate(groups) if group in values]
    look = {"color": style.COLOURS[number % len(style.COLOURS)], "hatch": style.HATCHES[number % len(style.HATCHES)]}
    axis.bar([x for x, _ in some], [one.value for _, one in some], width * 0.94, label=name, edgecolor="white", **look)
    for x, one in some:
        if one.low is not None:
            axis.plot([x, x], [one.low, one.high], color="black", linewidth=1.4)
        top = one.value if one.high is None else max(one.value, one.high)
        text = f"{one.value:{form}}".removeprefix("0" if form == ".2f" else "")
        turned = {"rotation": 90} if width < 0.16 else {}
        axis.annotate(
            text, (x, top), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=9.5, **turned
        )


def legend(drawing: Drawing, axes, series: Sequence[str]) -> None:
    """One for all panels, below them, where it hides no data."""
    if len(series) < 2:
        return
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    names = [name for name in series if name in found]
    across = max(1, int(drawing.get_figwidth() * 9.5 / (max(map(len, names)) + 6)))  # letters of 11 points
    drawing.legend([found[name] for name in names], names, loc="outside lower center", ncols=min(across, len(names)))
