"""The one picture that a lesson ends in, in the letters and colours of a report."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib import rc_context
from matplotlib.figure import Figure

from maple.reporting.style import styled

FOLDER = Path("runs/lessons")
EXPONENTS = {"text.parse_math": True}  # those of a logarithmic axis; here no name comes from data
PANEL = 5.5, 4.2  # inches: two side by side are as wide as a slide


def panels(title: str, count: int = 1):
    """(figure, its axes): so many panels side by side under a title; a notebook shows it at the end of its cell."""
    with styled(), rc_context(EXPONENTS):
        figure, axes = plt.subplots(
            1, count, figsize=(max(PANEL[0] * count, 7), PANEL[1]), layout="constrained", squeeze=False
        )
        figure.suptitle(title, weight="bold", fontsize=14)
        for axis in axes[0]:
            axis.grid(True)
    return figure, axes[0]


def save(figure: Figure, name: str) -> None:
    """Write it to runs/lessons/<name>.png."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with styled(), rc_context(EXPONENTS):
        figure.savefig(FOLDER / f"{name}.png")
    print(f"The picture: {FOLDER / name}.png")
