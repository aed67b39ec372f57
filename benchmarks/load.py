"""From a folder of bf16 shards to a model in 4 bits: seconds and memory, beside transformers + bitsandbytes.

    python -m benchmarks.load               measure, print, append to benchmarks/ledger.csv
    python -m benchmarks.load --dry         measure and print only
    python -m benchmarks.load --out DIR     ledger.csv and the table, load.txt, go into DIR

The checkpoint is random and written here, to a temporary folder. Each start is a process of its own (`loaders.py`), the
contestants take turns: ours without a packed copy (which it then writes), ours from the copy, transformers. *Cold* asks
the system to forget the files first, which it may decline; *warm* finds them in its cache. Ratios compare neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

from benchmarks import ledger
from benchmarks.contestants import random_weight, why_no_peers
from maple import packed_copy
from maple.model import empty_model
from maple.shards import write_shards
from maple.weights import linear_shapes, packing

SHARD = 10**9  # bytes of one file: several, as published models have
REPEATS = 3
COLD = (True, False)  # whether the system is asked to forget the files before each start
SIZES = {
    "Llama-2-7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "Llama-1.1B": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    # large enough for a packed copy, and no larger: what the tests run
    "small": {"hidden_size": 2048, "intermediate_size": 8448, "num_hidden_layers": 2, "num_attention_heads": 32},
}
VOCABULARY = {"Llama-2-7B": 32000, "Llama-1.1B": 32000, "small": 1000}
FIRST, SECOND, THEIRS = STARTS = "maple, first start", "maple, packed copy", "transformers"


def main(argv: list[str] | None = None) -> None:
    """Write a checkpoint, let every contestant start from it, print a table, append to the ledger."""
    arguments = parse(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = arguments.size or ("Llama-2-7B" if device == "cuda" else "Llama-1.1B")
    console = Console(width=118, record=True, highlight=False)
    no_peers = why_no_peers(torch.device(device))
    if no_peers:
        console.print(f"transformers + bitsandbytes skipped: {no_peers}")
    with tempfile.TemporaryDirectory(prefix="maple-load-") as place:
        folder = Path(place) / "model"
        console.print(f"Writing {size} in bf16 to {folder} ...")
        write_checkpoint(folder, LlamaConfig(**SIZES[size], vocab_size=VOCABULARY[size], dtype="bfloat16"))
        report = Report(size, device, arguments)
        for cold in COLD:
            results = {name: [] for name in STARTS[: 2 if no_peers else 3]}
            for repeat in range(arguments.repeats):
                for name, result in turns(Path(place), device, cold, not no_peers):
                    console.print(f"{'cold' if cold else 'warm'} {repeat + 1}: {name}, {result['seconds']:.1f} s")
                    results[name].append(result)
            report.add(cold, results)
    console.print(report.table)
    if arguments.out:
        (arguments.out / "load.txt").write_text(console.export_text(), encoding="utf-8")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; the folder of --out exists after it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), help="by default Llama-2-7B on a GPU, Llama-1.1B on a CPU")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="starts of each, cold and warm")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--dry", action="store_true", help="do not write to the ledger")
    where.add_argument("--out", type=Path, help="folder for ledger.csv and load.txt, in place of the ledger here")
    arguments = parser.parse_args(argv)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def write_checkpoint(folder: Path, config: LlamaConfig) -> None:
    """Random shards and the config.json that goes with them, with never two tensors in memory."""
    folder.mkdir()
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    shapes = {name: parameter.shape for name, parameter in empty_model(config).named_parameters()}
    bf16, cpu = torch.bfloat16, torch.device("cpu")
    lists = {name: list(shape) for name, shape in shapes.items()}
    write_shards(folder, lists, bf16, lambda name: random_weight(name, shapes[name], cpu, bf16), SHARD)


def turns(place: Path, device: str, cold: bool, peers: bool) -> Iterator[tuple[str, dict]]:
    """One start of each contestant, in this order: the second of ours reads what the first one has written."""
    for name in STARTS[: 3 if peers else 2]:
        if name == FIRST:
            empty(place / "cache")
        if cold:
            forget(place)
        yield name, start(name, place, device)


def start(name: str, place: Path, device: str) -> dict:
    """One process; what it printed, and the bytes of the files that it needs."""
    command = [sys.executable, "-m", "benchmarks.loaders", name.split(",")[0], str(place / "model"), device]
    environment = os.environ | {"XDG_CACHE_HOME": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def empty(cache: Path) -> None:
    """No packed copy is there."""
    for path in sorted(cache.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def forget(place: Path) -> None:
    """Ask the system to drop these files from its cache; Linux does where they are on the disk already."""
    for path in filter(Path.is_file, place.rglob("*")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Report:
    """The table and the rows of the ledger."""

    def __init__(self, size: str, device: str, arguments: argparse.Namespace):
        self.size = size
        self.path = None if arguments.dry else (arguments.out / "ledger.csv" if arguments.out else ledger.LEDGER)
        config = LlamaConfig(**SIZES[size], vocab_size=VOCABULARY[size])
        self.read = bytes_of_each(config)
        self.table = Table(
            title=f"{size}, bf16 shards to NF4 with double quantisation; {ledger.device()}",
            caption="medians; peak and what stays: anonymous memory above the imports; ratio: seconds of transformers "
            "to ours, the median of neighbours",
        )
        for column in (
            "cache",
            "",
            "seconds",
            "GB read",
            "GB/s",
            "peak MiB",
            "stays MiB",
            "peak/stays",
            "GPU",
            "ratio",
        ):
            self.table.add_column(column, justify="left" if column in ("cache", "") else "right", no_wrap=True)

    def add(self, cold: bool, results: dict[str, list[dict]]) -> None:
        """A row for each contestant, and its figures in the ledger."""
        state = "cold" if cold else "warm"
        for name, starts in results.items():
            columns = {key: np.array([one[key] for one in starts]) for key in starts[0]}
            seconds, peak, stays = columns["seconds"], columns["peak"] / 2**20, columns["stays"] / 2**20
            ratio = ""
            if name != THEIRS and THEIRS in results:
                paired = [theirs["seconds"] for theirs in results[THEIRS]] / seconds
                ratio = f"{np.median(paired):.2f}"
                self.write(f"{name}, {state}", name, "seconds of transformers to ours", "ratio", paired)
            rate, gpu = self.read[name] / seconds / 1e9, columns["gpu_peak"] / 2**20
            self.write(f"{name}, {state}", name, "time", "s", seconds)
            self.write(f"{name}, {state}", name, "bytes read", "GB", [self.read[name] / 1e9])
            self.write(f"{name}, {state}", name, "peak anonymous memory", "MiB", peak)
            self.write(f"{name}, {state}", name, "anonymous memory that stays", "MiB", stays)
            if gpu.any():
                self.write(f"{name}, {state}", name, "peak memory", "MiB", gpu)
            cells = [f"{np.median(seconds):.2f}", f"{self.read[name] / 1e9:.2f}", f"{np.median(rate):.2f}"]
            cells += [f"{np.median(peak):,.0f}", f"{np.median(stays):,.0f}", f"{np.median(peak / stays):.2f}"]
            self.table.add_row(state, name, *cells, f"{np.median(gpu):,.0f}" if gpu.any() else "-", ratio)

    def write(self, case: str, name: str, metric: str, unit: str, values: list[float]) -> None:
        """Append to the ledger, unless the run is dry."""
        if self.path:
            ledger.append(f"load {case}", name.split(",")[0], self.size, metric, unit, values, self.path)


def bytes_of_each(config: LlamaConfig) -> dict[str, int]:
    """What each of them has to read of the files: all weights in 16 bits, or the packed ones and the rest."""
    model = empty_model(config)
    shapes = linear_shapes(model)
    copy = packed_copy.PackedCopy(None, None, shapes, packing(4, 64, True))
    everything = 2 * sum(parameter.numel() for parameter in model.parameters())
    linear = 2 * sum(out * columns for out, columns in shapes.values())
    return {FIRST: everything, SECOND: everything - linear + copy.nbytes, THEIRS: everything}


if __name__ == "__main__":
    main()
