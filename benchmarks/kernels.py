"""The kernels beside their peers, on the same tensors in the same run.

    python -m benchmarks.kernels              measure, print, append to benchmarks/ledger.csv; on a GPU draw pictures
    python -m benchmarks.kernels --out DIR    table, rows and pictures go to DIR, the ledger stays as it is
    python -m benchmarks.kernels --dry        measure and print only
    python -m benchmarks.kernels --full       every shape, format, M and rank instead of the fixed list

On a GPU: at most 400 points in four minutes, each provider timed over copies of the weight that the L2 cannot hold, in
one CUDA graph (see timing.py). On a CPU: sizes that end in two and a half minutes; each figure is the median of rounds
in which the providers take turns, the ratio the median of the ratios of the rounds: on a machine whose speed drifts,
only neighbours in time can be compared. Above 1 we are faster. No time is reported for a wrong result (see correct.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import elementwise, ledger, points, timing
from benchmarks.correct import wrong
from benchmarks.peers import BF16, FLOAT32, OURS, SETTINGS, Operands, available, operands
from benchmarks.points import Elementwise, Point
from benchmarks.rows import HEADING, Row
from benchmarks.targets import TARGETS, judged

SECONDS = {"cuda": 225, "cpu": 130}  # for the whole list; the point that is under way may end later


def main() -> None:
    """Measure every point, print a table, keep the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="print only")
    parser.add_argument("--full", action="store_true", help="the full grid, which takes hours; a GPU is needed")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write table, rows and pictures there")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.full and device == "cpu":
        parser.error("--full needs a GPU, and PyTorch sees none; without it the CPU path is measured")
    # PyTorch says once that this mode is a prototype; timing.py relies on it only to choose how to time.
    warnings.filterwarnings("ignore", message="Synchronization debug mode")
    chosen = points.full_grid() if arguments.full else points.gpu_points() if device == "cuda" else points.cpu_points()
    rows, limits, lines, red = report(chosen, device, float("inf") if arguments.full else SECONDS[device])
    if not arguments.dry:
        keep(rows, limits, lines, device, arguments.out)
    if red:
        raise SystemExit(f"{red} of {len(chosen)} points are wrong or failed")


def report(
    chosen: list[Point | Elementwise], device: str, seconds: float
) -> tuple[list[Row], dict[str, float], list[str], int]:
    """(rows, limits, the lines that were printed, points where our result was wrong or raised)."""
    lines, rows, red, begin = [], [], 0, time.monotonic()

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    providers, missing = available(device)
    limits = timing.limits(device)
    say(f"{ledger.device()}, {ledger.versions()}")
    say(f"limits in this run: copy {limits['GB/s']:,.0f} GB/s, matrix product {limits['TFLOP/s']:,.2f} TFLOP/s")
    settings = {name: SETTINGS[name] for name in providers} | elementwise.SETTINGS
    for line in [*(f"{name}: {words}" for name, words in settings.items()), *missing]:
        say(line)
    say(HEADING)
    dense = {}
    for i, point in enumerate(chosen):
        if time.monotonic() - begin > seconds:
            say(f"left out, because {seconds:.0f} seconds are over: {len(chosen) - i} of {len(chosen)} points")
            for other in chosen[i:]:
                say(f"  {other.name} {other.shape}")
            break
        say(f"{point.name} {point.shape}")
        able = elementwise.PROVIDERS if isinstance(point, Elementwise) else providers
        found, notes = measure(point, device, able, dense)
        red += not any(row.provider == OURS for row in found)
        for line in [*(row.line(limits) for row in found), *(f"  {note}" for note in notes)]:
            say(line)
        rows += found
    if device == "cuda":
        say("targets")
        medians = {(row.point, row.provider): row.median for row in rows}
        errors = {row.point: row.error for row in rows if row.error is not None}
        for what, bound, found, verdict in judged(medians, errors):
            say(f"  {what:95}{bound:>9}{found:>10}  {verdict}")
    say(f"{time.monotonic() - begin:.0f} seconds")
    return rows, limits, lines, red


def measure(
    point: Point | Elementwise, device: str, providers: dict[str, Callable], dense: dict
) -> tuple[list[Row], list[str]]:
    """(a row for each provider that has the operation, what went wrong); of a wrong result of ours no row at all."""
    make, judge = (elementwise.operands, elementwise.wrong) if isinstance(point, Elementwise) else (operands, wrong)
    try:
        o = make(point, device)
        fault, error = judge(point, o, providers[OURS](point, o, 1)[0]())
    except Exception as exception:
        return [], [f"{OURS} failed: {_sentence(exception)}"]
    if fault:
        return [], [f"{OURS} is wrong, no time is reported: {fault}"]
    rows, notes = (_on_gpu if device == "cuda" else _on_cpu)(point, o, providers, dense)
    ours = next((row for row in rows if row.provider == OURS), None)
    if ours is None:
        return [], notes
    compared = [dataclasses.replace(ours, error=error)]
    for row in rows:
        if row is not ours:
            paired = timing.paired_ratio(row.micros, ours.micros) if device == "cpu" else row.median / ours.median
            compared.append(dataclasses.replace(row, ratio=paired))
    return compared, notes


def _on_gpu(point: Point, o: Operands, providers: dict[str, Callable], dense: dict) -> tuple[list[Row], list[str]]:
    """One provider after the other, its copies freed before the next. cuBLAS is measured once for all formats."""
    rows, notes = [], []
    for name, function in providers.items():
        bits = "16-bit" if name == BF16 else point.bits
        same = dataclasses.replace(point, bits=bits, rank=0) if name == BF16 else None
        try:
            if same in dense:
                rows.append(dataclasses.replace(dense[same], point=point))
                continue
            calls = function(point, o, timing.copies(point.weight_bytes(bits), "cuda"))
            if calls:
                row = Row(point, name, bits, *timing.on_gpu(calls), timing.workspace(calls[0]))
                rows.append(row)
                if same:
                    dense[same] = row
        except Exception as exception:  # a peer that fails must not end the run, nor one kernel of ours
            notes.append(f"{name} failed: {_sentence(exception)}")
        calls = None  # the copies go before those of the next provider come
    torch.cuda.empty_cache()
    return rows, notes


def _on_cpu(point: Point, o: Operands, providers: dict[str, Callable], dense: dict) -> tuple[list[Row], list[str]]:
    """All providers at once, taking turns."""
    calls, notes = {}, []
    for name, function in providers.items():
        bits = "16-bit" if name == FLOAT32 else point.bits
        try:
            rotation = function(point, o, timing.copies(point.weight_bytes(bits, 4), "cpu"))
            if rotation:
                rotation[0]()
                calls[name] = rotation
        except Exception as exception:
            notes.append(f"{name} failed: {_sentence(exception)}")
    times = timing.taking_turns(calls)
    bits = {name: "16-bit" if name == FLOAT32 else point.bits for name in times}
    return [Row(point, name, bits[name], micros, "turns", size=4) for name, micros in times.items()], notes


def _sentence(exception: Exception) -> str:
    return f"{type(exception).__name__}: {' '.join(str(exception).split())[:200]}"


def keep(rows: list[Row], limits: dict[str, float], lines: list[str], device: str, folder: Path | None) -> None:
    """Rows to the ledger and on a GPU pictures beside it; with a folder everything there, the table too."""
    path = ledger.LEDGER
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kernels.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        path = folder / "ledger.csv"
    for name, value in limits.items():
        ledger.append("limit", "PyTorch", "", {"GB/s": "copy", "TFLOP/s": "matrix product"}[name], name, [value], path)
    aimed = {target[0] for target in TARGETS}
    for row in rows:
        row.append(limits, row.point in aimed, path)
    if folder or device == "cuda":
        from benchmarks import plots

        for sentence in plots.draw(rows, limits, ledger.device(), folder or ledger.LEDGER.parent):
            print(sentence)


if __name__ == "__main__":
    main()
