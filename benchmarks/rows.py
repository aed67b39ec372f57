"""What was measured, as lines of a table and as rows of the ledger."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import ledger
from benchmarks.points import Elementwise, Point

HEADING = f"  {'':22}{'us':>10}{'20 %':>10}{'80 %':>10}{'GB/s':>8}{'limit':>7}{'TFLOP/s':>9}{'limit':>7}{'MB':>8}"
HEADING += f"{'/ maple':>9}  how"


@dataclass(frozen=True)
class Row:
    """One provider at one point. `ratio`: its time over ours."""

    point: Point | Elementwise
    provider: str
    bits: str  # of the weights it reads
    micros: list[float]
    how: str  # graph, eager, turns
    memory: int | None = None  # workspace, bytes
    ratio: float | None = None
    error: float | None = None  # relative RMS of y
    size: int = 2  # bytes of a number of x

    @property
    def base(self) -> Point | Elementwise:
        """What it computes: plain weights do a LoRA layer's base alone."""
        return dataclasses.replace(self.point, rank=0) if self.bits != self.point.bits else self.point

    @property
    def median(self) -> float:
        """Microseconds."""
        return statistics.median(self.micros)

    @property
    def bytes(self) -> int:
        """The fewest that its call can move."""
        return self.base.bytes(self.bits, self.size)

    @property
    def tflops(self) -> float:
        """Of its matrix products."""
        return self.base.flop / self.median / 1e6

    @property
    def intensity(self) -> float:
        """FLOP a byte."""
        return self.base.flop / self.bytes

    def line(self, limits: dict[str, float]) -> str:
        """Of the table; empty what says nothing."""
        q20, q80 = np.quantile(self.micros, [0.2, 0.8])
        rate, flops = self.bytes / self.median / 1e3, self.tflops
        times = f"{self.median:10.2f}{q20:10.2f}{q80:10.2f}{rate:8.1f}{rate / limits['GB/s']:7.0%}"
        products = f"{flops:9.2f}{flops / limits['TFLOP/s']:7.0%}" if flops else " " * 16
        memory = f"{'':8}" if self.memory is None else f"{self.memory / 1e6:8.1f}"
        ratio = f"{'':9}" if self.ratio is None else f"{self.ratio:9.2f}"
        error = "" if self.error is None else f"  error {self.error:.2e}"
        return f"  {self.provider:22}{times}{products}{memory}{ratio}  {self.how}{error}"

    def append(self, limits: dict[str, float], whole: bool, path: Path) -> None:
        """To the ledger: the time, which with the limits gives the rest; of a target's points all of it."""
        micros = np.array(self.micros)
        rate, flops = self.bytes / micros / 1e3, self.base.flop / micros / 1e6
        values = [("time", "us", micros)]
        if whole:
            values += [("bandwidth", "GB/s", rate), ("share of bandwidth limit", "1", rate / limits["GB/s"])]
            values += [("bytes moved", "B", [self.bytes])]
            if self.base.flop:
                values += [("rate", "TFLOP/s", flops), ("share of matrix limit", "1", flops / limits["TFLOP/s"])]
            if self.memory is not None:
                values += [("workspace", "B", [self.memory])]
            if self.error is not None:
                values += [("relative RMS error", "1", [self.error])]
        how = f" ({self.how})" if self.how == "eager" else ""
        for metric, unit, repetitions in values:
            ledger.append(self.point.name, self.provider + how, self.point.shape, metric, unit, repetitions, path)
