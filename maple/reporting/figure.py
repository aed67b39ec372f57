"""A figure of a report, and its two files: a PNG, and an SVG whose text stays text."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maple.reporting.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Figure:
    """A drawing, what it says in words, and its data."""

    name: str  # of its files
    title: str
    caption: str
    figure: Drawing
    table: Table


def save(figure: Figure, folder: Path) -> str:
    """Write folder/NAME.png; returns the SVG, of which two runs over the same study make the same text."""
    from matplotlib import rc_context

    from maple.reporting.style import choose_fonts, drawable, relabel, styled

    folder.mkdir(parents=True, exist_ok=True)
    drawing = figure.figure
    with styled(), rc_context({"svg.hashsalt": figure.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # a name may be longer than the sheet
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has other fonts than this machine
        restore = relabel(drawing, drawable)
        with rc_context({"font.family": choose_fonts(drawing)}):
            drawing.savefig(folder / f"{figure.name}.png", format="png", metadata={"Software": None})
        drawing.set_layout_engine("none")  # both are laid out alike, and once
        restore()
        file = io.StringIO()
        drawing.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    # The list of fonts is this machine's, and stands beside every word: three quarters of a heat map's text
    return re.sub(r"font-family: 'DejaVu Sans'[^;\"]*", "font-family: 'DejaVu Sans', sans-serif", file.getvalue())
