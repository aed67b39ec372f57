"""What `train.py` measured: tables, rows of the ledger, and two pictures."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import nn
from transformers import LlamaConfig

from benchmarks import ledger
from benchmarks.contestants import MAPLE, PEFT, UNSLOTH
from maple.model import empty_model

COLOURS = {4: "#d95f02", 8: "#1f78b4", 16: "#444444"}  # of the bits
STYLES = {MAPLE: ("-", "o"), PEFT: ("--", "s"), UNSLOTH: (":", "^")}  # of the contestant


@dataclass(frozen=True)
class Row:
    """One contestant at one rank and bit-width; without seconds it ran out of memory."""

    bits: int
    rank: int
    name: str
    provider: str = ""
    seconds: list[float] = field(default_factory=list)  # of each step
    ours: list[float] | None = None  # maple's seconds of the same turns
    counts: list[tuple[int, int]] = field(default_factory=list)  # (tokens, supervised tokens) of each step
    peak: int = 0  # bytes
    trained: int = 0  # parameters
    loss: float = 0.0  # before training
    parts: dict[str, int] = field(default_factory=dict)  # bytes at the peak as predicted, of maple

    @property
    def tokens(self) -> list[float]:
        """Tokens a second of each step, padding not counted."""
        return [count / second for (count, _), second in zip(self.counts, self.seconds, strict=True)]

    @property
    def supervised(self) -> list[float]:
        """Supervised tokens a second of each step."""
        return [count / second for (_, count), second in zip(self.counts, self.seconds, strict=True)]

    @property
    def ratio(self) -> float | None:
        """The median of its seconds over maple's in the same turn."""
        if self.name == MAPLE or not self.ours or not self.seconds:
            return None
        return float(np.median(np.divide(self.seconds, self.ours)))


class Report:
    """The rows of a run, and what they are compared with."""

    def __init__(self, shape: str, settings: str, config: LlamaConfig, rate: float):
        self.shape, self.settings, self.rate, self.rows = shape, settings, rate, []
        model = empty_model(config)
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self.head = model.get_output_embeddings().weight.numel()
        self.frozen = sum(module.weight.numel() for module in linear) - self.head
        self.parameters = sum(parameter.numel() for parameter in model.parameters())

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows.append(row)

    def mfu(self, row: Row) -> float:
        """Useful FLOP/s over those of plain products."""
        layers, head = 4 * self.frozen + 6 * row.trained, 4 * self.head
        return (layers * float(np.median(row.tokens)) + head * float(np.median(row.supervised))) / self.rate

    def tables(self) -> list[Table]:
        """One of all rows, and one of maple's memory by part."""
        table = Table(
            title=f"{self.shape}, {self.settings}; {ledger.device()}; products {self.rate / 1e12:,.3g} TFLOP/s",
            caption="medians; times maple: seconds of a step over maple's in the same turn; loss: before training",
        )
        for column in (
            "bits",
            "rank",
            "",
            "supervised/s",
            "tokens/s",
            "MFU",
            "times maple",
            "peak MiB",
            "trained",
            "loss",
        ):
            table.add_column(column, justify="left" if not column else "right", no_wrap=True)
        for row in self.rows:
            if not row.seconds:
                table.add_row(str(row.bits), str(row.rank), row.name, "out of memory")
                continue
            table.add_row(
                str(row.bits),
                str(row.rank),
                row.name,
                f"{np.median(row.supervised):,.0f}",
                f"{np.median(row.tokens):,.0f}",
                f"{self.mfu(row):.0%}",
                "" if row.ratio is None else f"{row.ratio:.2f}",
                f"{row.peak / 2**20:,.0f}",
                f"{100 * row.trained / (self.parameters + row.trained):.2f} %",
                f"{row.loss:.3f}",
            )
        return [table, *self._parts()]

    def _parts(self) -> list[Table]:
        rows = [row for row in self.rows if row.parts]
        if not rows:
            return []
        table = Table(title="maple's memory at the peak of a step by part, MiB: predicted, and the whole as measured")
        for name in ("bits", "rank", *rows[0].parts, "sum", "measured"):
            table.add_column(name, justify="right")
        for row in rows:
            sizes = [*row.parts.values(), sum(row.parts.values()), row.peak]
            table.add_row(str(row.bits), str(row.rank), *(f"{size / 2**20:,.0f}" for size in sizes))
        return [table]

    def write(self, path: Path) -> None:
        """Append every row to a ledger."""
        for row in self.rows:
            case = f"train step {row.bits} bits r{row.rank}, {self.settings}"
            if not row.seconds:
                continue
            ledger.append(case, row.provider, self.shape, "rate", "tokens/s", row.tokens, path)
            ledger.append(case, row.provider, self.shape, "supervised", "tokens/s", row.supervised, path)
            ledger.append(case, row.provider, self.shape, "MFU", "fraction", [self.mfu(row)], path)
            ledger.append(case, row.provider, self.shape, "peak memory", "MiB", [row.peak / 2**20], path)
            for part, size in row.parts.items():
                ledger.append(case, row.provider, self.shape, f"predicted {part}", "MiB", [size / 2**20], path)
            if row.ratio is not None:
                ratios = list(np.divide(row.seconds, row.ours))
                ledger.append(case, row.provider, self.shape, "seconds over maple's", "ratio", ratios, path)

    def draw(self, folder: Path) -> list[str]:
        """Write train_speed.png and train_memory.png; says what was written, or what is missing for it."""
        if len({row.rank for row in self.rows}) < 2:
            return []
        if importlib.util.find_spec("matplotlib") is None:
            return ["no pictures: matplotlib is not installed; pip install -e '.[plots]'"]
        os.environ.setdefault("MPLBACKEND", "Agg")
        speed, memory = folder / "train_speed.png", folder / "train_memory.png"
        self._picture(speed, "supervised tokens a second", lambda row: float(np.median(row.supervised)))
        self._picture(memory, "peak of tensors, GiB", lambda row: row.peak / 2**30)
        return [f"wrote {speed}", f"wrote {memory}"]

    def _picture(self, path: Path, label: str, value) -> None:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        for name, bits in dict.fromkeys((row.name, row.bits) for row in self.rows):
            some = [row for row in self.rows if (row.name, row.bits) == (name, bits) and row.seconds]
            line, marker = STYLES[name]
            points = [row.rank for row in some], [value(row) for row in some]
            axes.plot(*points, line, marker=marker, markersize=4, color=COLOURS[bits], label=f"{name}, {bits} bits")
        ranks = sorted({row.rank for row in self.rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, [str(rank) for rank in ranks])
        axes.set(xlabel="LoRA rank", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.set_title(f"{self.shape}, {self.settings}\n{ledger.device()}, torch {torch.__version__}", fontsize=10)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="best")
        figure.savefig(path, dpi=110)
        plt.close(figure)
