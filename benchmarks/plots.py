"""Two pictures of a run of benchmarks.kernels: a roofline, and the speed-up over 16 bits along M."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from benchmarks.peers import AO, BF16, BNB, FLOAT32, OURS, PEFT
from benchmarks.points import Point
from benchmarks.rows import Row

COLOURS = {OURS: "#d95f02", BF16: "#444444", FLOAT32: "#444444", BNB: "#1f78b4", PEFT: "#7570b3", AO: "#1b9e77"}
MARKERS = {"nf4 double": "o", "nf4": "^", "int8": "s", "16-bit": "D"}
DASHES = {"nf4 double": "-", "nf4": "--", "int8": ":", "16-bit": "-."}
PANELS = 3  # of the shapes with the most values of M


def draw(rows: list[Row], limits: dict[str, float], device: str, folder: Path) -> list[str]:
    """Write roofline.png and speedup.png; says what was written, or what is missing for it."""
    if importlib.util.find_spec("matplotlib") is None:
        return ["no pictures: matplotlib is not installed; pip install -e '.[plots]'"]
    os.environ.setdefault("MPLBACKEND", "Agg")
    paths = folder / "roofline.png", folder / "speedup.png"
    drawn = roofline(rows, limits, device, paths[0]), speedup(rows, device, paths[1])
    return [f"wrote {path}" for path, done in zip(paths, drawn, strict=True) if done]


def roofline(rows: list[Row], limits: dict[str, float], device: str, path: Path) -> bool:
    """TFLOP/s over FLOP a byte, log-log, under the two limits of the run; False where nothing multiplies."""
    import matplotlib.pyplot as plt

    products = [row for row in rows if row.base.flop]
    if not products:
        return False
    figure, axes = plt.subplots(figsize=(9, 5.6), layout="constrained")
    peak, slope = limits["TFLOP/s"], limits["GB/s"] / 1e3  # TB/s times FLOP a byte is TFLOP/s
    ridge = peak / slope
    left = min(row.intensity for row in products) / 1.6
    right = max(ridge * 2, max(row.intensity for row in products) * 1.6)
    axes.plot([left, ridge, right], [left * slope, peak, peak], color="black", linewidth=1.2, zorder=1)
    axes.axvline(ridge, color="black", linewidth=0.6, linestyle=":", zorder=1)
    beside = {"textcoords": "offset points", "fontsize": 9}
    middle = (left * ridge) ** 0.5
    axes.annotate(f"copy {limits['GB/s']:,.0f} GB/s", (middle, middle * slope), (-8, 4), ha="right", **beside)
    axes.annotate(f"product {peak:,.3g} TFLOP/s", (right, peak), (-4, 5), ha="right", **beside)
    for provider, bits in _series(products):
        some = [row for row in products if (row.provider, row.bits) == (provider, bits)]
        xs, ys = [row.intensity for row in some], [row.tflops for row in some]
        style = {"color": COLOURS[provider], "marker": MARKERS[bits], "label": _label(provider, bits)}
        axes.scatter(xs, ys, s=24, alpha=0.75, linewidths=0, zorder=3 if provider == OURS else 2, **style)
    axes.set(xscale="log", yscale="log", xlabel="FLOP a byte of operands and results", ylabel="TFLOP/s")
    axes.set_xlim(left, right)
    axes.set_title(f"Linear layers under the limits of the same run\n{device}", fontsize=10)
    axes.grid(alpha=0.25, which="major")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def speedup(rows: list[Row], device: str, path: Path) -> bool:
    """The time of the 16-bit product over a provider's, along M, a panel a shape; False where M never varies."""
    import matplotlib.pyplot as plt

    forward = [row for row in rows if row.base.flop and not row.point.rank and not row.point.train]
    dense = {row.point: row for row in forward if row.provider in (BF16, FLOAT32)}
    panels = {}
    for row in forward:
        if row.point in dense and row.provider not in (BF16, FLOAT32):
            panels.setdefault((row.point.outs[0], row.point.columns), []).append(row)
    values = {shape: len({row.point.m for row in some}) for shape, some in panels.items()}
    shapes = sorted((shape for shape in panels if values[shape] > 1), key=lambda shape: -values[shape])[:PANELS]
    if not shapes:
        return False
    figure, axes = plt.subplots(
        1, len(shapes), figsize=(2.4 + 3.6 * len(shapes), 4.4), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (out, columns) in zip(axes[0], shapes, strict=True):
        _speedup_panel(panel, panels[out, columns], dense)
        panel.set_title(f"{out} x {columns}", fontsize=10)
    axes[0][0].set_ylabel(f"speed-up over {next(iter(dense.values())).provider}")
    axes[0][0].set_ylim(bottom=0)
    handles = {label: h for panel in axes[0] for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    axes[0][-1].legend(handles.values(), handles.keys(), fontsize=8, loc="best")
    figure.suptitle(f"Forward product, {device}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _speedup_panel(panel, rows: list[Row], dense: dict[Point, Row]) -> None:
    for provider, bits in _series(rows):
        some = [row for row in rows if (row.provider, row.bits) == (provider, bits)]
        points = sorted((row.point.m, dense[row.point].median / row.median) for row in some)
        style = {"color": COLOURS[provider], "marker": MARKERS[bits], "linestyle": DASHES[bits]}
        panel.plot(*zip(*points, strict=True), markersize=4, label=_label(provider, bits), **style)
    panel.axhline(1, color="black", linewidth=1)
    panel.set_xscale("log", base=2)
    ms = sorted({row.point.m for row in rows})
    step = max(1, len(ms) // 7)  # about seven numbers fit under a panel
    panel.set_xticks(ms, ["" if i % step else str(m) for i, m in enumerate(ms)])
    panel.set_xlabel("M, rows of x")
    panel.grid(alpha=0.25)


def _label(provider: str, bits: str) -> str:
    return provider if provider in (BF16, FLOAT32) else f"{provider}, {bits}"


def _series(rows: list[Row]) -> list[tuple[str, str]]:
    """(provider, bits) that occur, in a fixed order, so that legends agree from run to run."""
    found = {(row.provider, row.bits) for row in rows}
    return [(provider, bits) for provider in COLOURS for bits in MARKERS if (provider, bits) in found]
