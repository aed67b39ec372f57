"""Quantise, dequantise and multiply on this machine's CPU, beside bitsandbytes on the same tensors in the same run.

    python -m benchmarks.kernels              measure, print, append to benchmarks/ledger.csv
    python -m benchmarks.kernels --dry        measure and print only

Each figure is the median of rounds in which the two take turns, the ratio the median of the ratios of the rounds: on a
machine whose speed drifts, only neighbours in time can be compared. Above 1 we are faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import kernels
from benchmarks.ledger import append

ROUNDS = 11
SHAPE = (4096, 4096)  # the q, k, v and o projections of a 7B model
ROWS = 1024  # of x in the products


def cases() -> dict[str, tuple[Callable, Callable | None, float]]:
    """name -> (ours, theirs, amount per call in millions: weights, or weights x rows)."""
    import bitsandbytes.functional as bnb

    weight = torch.randn(SHAPE).bfloat16()
    x = torch.randn(ROWS, SHAPE[1])
    millions = weight.numel() / 1e6
    found = {}
    for double in (False, True):
        name = "nf4 double" if double else "nf4"
        w = kernels.quantize(weight, 4, 64, double)
        codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=double)
        state.dtype = torch.float32

        def theirs_linear(codes=codes, state=state):
            return x @ bnb.dequantize_4bit(codes, state).T

        found |= {
            f"quantize {name}": (
                lambda double=double: kernels.quantize(weight, 4, 64, double),
                lambda double=double: bnb.quantize_4bit(
                    weight, blocksize=64, quant_type="nf4", compress_statistics=double
                ),
                millions,
            ),
            f"dequantize {name}": (
                lambda w=w: w.dequantize(torch.float32),
                lambda codes=codes, state=state: bnb.dequantize_4bit(codes, state),
                millions,
            ),
            f"linear {name}": (lambda w=w: kernels.linear(x, w), theirs_linear, millions * ROWS),
        }
    w = kernels.quantize(weight, 8)
    codes, absmax, _ = bnb.int8_vectorwise_quant(weight)
    return found | {
        "quantize int8": (lambda: kernels.quantize(weight, 8), lambda: bnb.int8_vectorwise_quant(weight), millions),
        "dequantize int8": (lambda: w.dequantize(), lambda: bnb.int8_vectorwise_dequant(codes, absmax), millions),
        "linear int8": (
            lambda: kernels.linear(x, w),
            lambda: x @ bnb.int8_vectorwise_dequant(codes, absmax).T,
            millions * ROWS,
        ),
    }


def measure(ours: Callable, theirs: Callable) -> tuple[list[float], list[float]]:
    """Seconds of each in ROUNDS rounds, taking turns, the first of which is thrown away."""
    seconds = ([], [])
    for _ in range(ROUNDS + 1):
        for function, times in zip((ours, theirs), seconds, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return seconds[0][1:], seconds[1][1:]


def main() -> None:
    """Measure every case, print a table, append to the ledger."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dry", action="store_true", help="do not write to the ledger")
    dry = parser.parse_args().dry
    table = Table(title=f"{SHAPE[0]} x {SHAPE[1]}, {torch.get_num_threads()} threads; products with {ROWS} rows of x")
    for column in ("operation", "ours", "bitsandbytes", "ratio"):
        table.add_column(column, justify="left" if column == "operation" else "right")
    for name, (ours, theirs, millions) in cases().items():
        unit = "G multiply-adds/s" if name.startswith("linear") else "M weights/s"
        scale = millions / 1e3 if name.startswith("linear") else millions
        seconds = measure(ours, theirs)
        rates = [[scale / second for second in times] for times in seconds]
        ratio = statistics.median(their / our for our, their in zip(*seconds, strict=True))
        medians = [statistics.median(rate) for rate in rates]
        table.add_row(name, *(f"{median:,.0f} {unit}" for median in medians), f"{ratio:.2f}")
        if not dry:
            shape = "x".join(map(str, SHAPE)) + (f" M={ROWS}" if name.startswith("linear") else "")
            append(name, "maple", shape, "rate", unit, rates[0])
            append(name, "bitsandbytes", shape, "rate", unit, rates[1])
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
