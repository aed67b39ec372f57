"""The paper's claims as a forest: every estimate behind a verdict, with its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes

from maple.reporting import style
from maple.reporting.claims import CONTRADICTED, NOT_SHOWN, SUPPORTED, Claim
from maple.reporting.figure import Figure
from maple.reporting.scores import Scores
from maple.reporting.table import Table

COLOURS = {SUPPORTED: "#009E73", CONTRADICTED: "#D55E00", NOT_SHOWN: style.GREY}
MARKS = {SUPPORTED: "o", CONTRADICTED: "X", NOT_SHOWN: "s"}
LINE, HEAD = 0.3, 0.95  # inches of an estimate, and of what stands over and under those of a claim
LABEL = 52  # letters


def forest(claims: Sequence[Claim], scores: Scores) -> Figure | str:
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
        drawing = _draw(title, tested, style.names(scores.models) | style.names(scores.data))
    rows = [[claim.name, claim.verdict, *line] for claim in tested for line in claim.figure]
    columns = ["claim", "verdict", "of", "estimate", "low", "high"]
    return Figure("claims_forest", title, caption, drawing, Table("claims_forest", title, columns, rows, caption))


def _draw(title: str, claims: list[Claim], short: dict[str, str]):
    labels = {claim.name: [_label(line.label, short) for line in claim.figure] for claim in claims}
    longest = max(len(label) for some in labels.values() for label in some)
    per_line = int((style.WIDE - 0.5 - 0.085 * longest) / 0.106)  # inches a letter
    heights = [len(claim.figure) * LINE + HEAD for claim in claims]
    drawing = style.sheet(title, style.WIDE, sum(heights) + 0.5)
    axes = drawing.subplots(len(claims), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, claim in zip(axes, claims, strict=True):
        _panel(axis, claim, labels[claim.name], per_line)
    return drawing


def _panel(axis: Axes, claim: Claim, labels: list[str], per_line: int) -> None:
    look = {"color": COLOURS[claim.verdict]}
    for bound in claim.bounds:
        axis.axvline(bound, color="black", linewidth=1.2, linestyle="--", zorder=1)
    for place, line in enumerate(claim.figure):
        axis.plot([line.low, line.high], [place, place], linewidth=2, **look)
        axis.plot(line.estimate, place, MARKS[claim.verdict], markersize=7, **look)
    style.ticks(axis.yaxis, labels)
    axis.tick_params(axis="y", labelsize=10.5)
    axis.set_ylim(len(claim.figure) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    axis.set_title(textwrap.fill(f"{claim.text} {claim.verdict.capitalize()}.", per_line), loc="left", fontsize=12)


def _label(text: str, short: dict[str, str]) -> str:
    """With the names of the other figures."""
    for name in sorted(short, key=len, reverse=True):
        text = text.replace(name, short[name])
    return style.cut(text, LABEL)
