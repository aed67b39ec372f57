"""ledger.csv: append-only, one row a measurement, with what is needed to take it again."""

from __future__ import annotations

import contextlib
import csv
import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

LEDGER = Path(__file__).with_name("ledger.csv")
COLUMNS = "kernel provider shape metric unit median q20 q80 device versions commit date".split()  # noqa: SIM905


def append(
    kernel: str, provider: str, shape: str, metric: str, unit: str, values: list[float], path: Path = LEDGER
) -> None:
    """Add the median and the 20 and 80 % quantiles of the repetitions of one measurement."""
    new = not path.exists()
    q20, median, q80 = np.quantile(values, [0.2, 0.5, 0.8])
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        row = (kernel, provider, shape, metric, unit, f"{median:.5g}", f"{q20:.5g}", f"{q80:.5g}")
        writer.writerow(dict(zip(COLUMNS, row + _context(), strict=True)))


@functools.cache
def _context() -> tuple[str, str, str, str]:
    """Once a process: its rows are many, and the first of them already changes the tree that `commit` looks at."""
    return device(), versions(), commit(), datetime.date.today().isoformat()


def device() -> str:
    """The GPU's name, or the processor's with the threads that PyTorch uses."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def versions() -> str:
    """Of what was measured, as far as it is installed."""
    found = {}
    for name in ("torch", "triton", "transformers", "bitsandbytes", "peft", "torchao"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return " ".join(f"{name} {version}" for name, version in found.items())


def commit() -> str:
    """The commit of this tree, with a + where it is not clean."""
    describe = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(describe, cwd=LEDGER.parent, capture_output=True, text=True).stdout.strip()
