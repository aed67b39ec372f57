"""The paper's claims as a forest: every estimate behind a verdict, with its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes

from maple.reporting import style
from maple.reporting.claims import CONTRADICTED, NOT_SHOWN, SUPPORTED, Claim
from maple.reporting.figure import Figure
from maple.reporting.table import Table

COLOURS = {SUPPORTED: "#009E73", CONTRADICTED: "#D55E00", NOT_SHOWN: style.GREY}
MARKS = {SUPPORTED: "o", CONTRADICTED: "X", NOT_SHOWN: "s"}
LINE, HEAD = 0.3, 0.95  # inches of an estimate, and of what stands over and under those of a claim
LETTERS = 46  # of a label


def forest(claims: Sequence[Claim]) -> Figure | str:
    """A panel a claim, each on its own scale, or a sentence that says why there is none."""
    title = "The paper's claims"
    tested = [claim for claim in claims if claim.figure]
    if not tested:
        return f"{title} as a forest: none of them can be tested here."
    caption = (
        "Each estimate behind a claim with its 95 % interval; differences are of scores from 0 to 1. The dashed lines "
        "are the bounds that a claim is tested against."
    )
    left = [claim.name for claim in claims if not claim.figure]
    if left:
        caption += f" Not testable here: {', '.join(left)}."
    with style.styled():
        drawing = _draw(title, tested)
    rows = [[claim.name, claim.verdict, *line] for claim in tested for line in claim.figure]
    columns = ["claim", "verdict", "of", "estimate", "low", "high"]
    return Figure("claims_forest", title, caption, drawing, Table("claims_forest", title, columns, rows, caption))


def _draw(title: str, claims: list[Claim]):
    heights = [len(claim.figure) * LINE + HEAD for claim in claims]
    drawing = style.sheet(title, style.WIDE, sum(heights) + 0.5)
    axes = drawing.subplots(len(claims), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, claim in zip(axes, claims, strict=True):
        _panel(axis, claim)
    return drawing


def _panel(axis: Axes, claim: Claim) -> None:
    look = {"color": COLOURS[claim.verdict]}
    for bound in claim.bounds:
        axis.axvline(bound, color="black", linewidth=1.2, linestyle="--", zorder=1)
    for place, line in enumerate(claim.figure):
        axis.plot([line.low, line.high], [place, place], linewidth=2, **look)
        axis.plot(line.estimate, place, MARKS[claim.verdict], markersize=7, **look)
    style.ticks(axis.yaxis, [textwrap.shorten(line.label, LETTERS, placeholder="…") for line in claim.figure])
    axis.set_ylim(len(claim.figure) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    axis.set_title(textwrap.fill(f"{claim.text} {claim.verdict.capitalize()}.", 88), loc="left", fontsize=12)
