"""One QLoRA training step at the shapes of Llama-2-7B: tokens per second and peak memory, beside peft + bitsandbytes.

    python -m benchmarks.train               measure, print, append to benchmarks/ledger.csv
    python -m benchmarks.train --dry         measure and print only
    python -m benchmarks.train --out DIR     ledger.csv and the table, train.txt, go into DIR

A step is forward, backward, clipping and AdamW on one micro-batch, every row of which is one sample and every token
supervised. Weights are random (`contestants.py`): speed does not depend on them. In 4 bits ours and peft take turns
step by step, and the ratio is the median of the ratios of neighbours. Without a GPU a small model exercises the code.

The ceiling is a step that only multiplies by the frozen weights of the decoder layers, at the rate measured here for
plain products of the same shapes: 2 FLOP a parameter and token forward, 2 for dX, 2 more where the forward is
recomputed. A frozen weight has no dW. LoRA, attention, norms and the output head come on top.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import LlamaConfig

from benchmarks import ledger
from benchmarks.contestants import STD, Contestant, ours, peers, why_no_peers
from maple.data.packing import Batch, collate
from maple.device import choose_device
from maple.model import empty_model

BITS = (4, 8, 16)
RECOMPUTE = ("none", "layer")  # the two values of --recompute of maple.fit
WARM_UP, STEPS = 2, 10  # the first step compiles and makes the optimizer's state
MATMUL_SECONDS = 1.0  # long enough for the clock under load to settle
SIZES = {
    "Llama-2-7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    # 704 and not 688: on a CPU bitsandbytes 0.50.2 unpacks rows wrongly that are no multiple of the block size
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "num_attention_heads": 4},
}
VOCABULARY = {"Llama-2-7B": 32000, "small": 1000}
ROWS = {"Llama-2-7B": (2, 2048), "small": (2, 256)}  # sequences, and tokens of each


@dataclass
class Result:
    """What the turns of one contestant gave."""

    seconds: list[float] = field(default_factory=list)  # of each step
    peak: int = 0  # bytes, without what the other contestant holds; 0 where it is not measured
    out_of_memory: bool = False


def main(argv: list[str] | None = None) -> None:
    """Measure every case, print a table, append to the ledger."""
    arguments = parse(argv)
    device, dtype = choose_device("auto", "auto")
    size = arguments.size or ("Llama-2-7B" if device.type == "cuda" else "small")
    sequences, length = arguments.sequences or ROWS[size][0], arguments.length or ROWS[size][1]
    config = LlamaConfig(**SIZES[size], vocab_size=VOCABULARY[size], rms_norm_eps=1e-5, max_position_embeddings=4096)
    console = Console(width=118, record=True, highlight=False)
    report = Report(f"{size} r{arguments.rank} {sequences}x{length}", sequences * length, config, dtype, arguments)
    report.measure_ceiling(device)
    no_peers = why_no_peers(device)
    if no_peers:
        console.print(f"peft + bitsandbytes skipped: {no_peers}")
    batch = make_batch(config, sequences, length, device)
    for bits in BITS:
        builders = {"maple": partial(ours, config, bits, arguments.rank, device, dtype)}
        if bits == 4 and not no_peers:
            builders["peft"] = partial(peers, config, arguments.rank, device, dtype)
        compare(bits, builders, batch, device, report, console)
        free()
    console.print(report.table)
    if arguments.out:
        (arguments.out / "train.txt").write_text(console.export_text(), encoding="utf-8")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; the folder of --out exists after it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), help="by default Llama-2-7B on a GPU, small on a CPU")
    parser.add_argument("--rank", type=int, default=16, help="of every LoRA pair")
    parser.add_argument("--sequences", type=int, help="rows of the micro-batch")
    parser.add_argument("--length", type=int, help="tokens of a row")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--dry", action="store_true", help="do not write to the ledger")
    where.add_argument("--out", type=Path, help="folder for ledger.csv and train.txt, in place of the ledger here")
    arguments = parser.parse_args(argv)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def compare(
    bits: int,
    builders: dict[str, Callable[[], Contestant]],
    batch: Batch,
    device: torch.device,
    report: Report,
    console: Console,
) -> None:
    """Both values of recompute at one bit-width; the models are gone when it returns."""
    contestants = {name: enter(builder) for name, builder in builders.items()}
    for recompute in RECOMPUTE:
        console.print(f"{bits} bits, recompute {recompute}: {' and '.join(contestants)} ...")
        if recompute == "layer":
            for contestant in filter(None, contestants.values()):
                contestant.recompute()
        report.add(bits, recompute, contestants, take_turns(contestants, batch, device))


def make_batch(config: LlamaConfig, sequences: int, length: int, device: torch.device) -> Batch:
    """Rows of one random sample each, as `maple.data.packing` collates them."""
    random = np.random.default_rng(0)
    rows = [[(random.integers(config.vocab_size, size=length + 1), 1)] for _ in range(sequences)]
    batch = collate(rows, length, pad=0)
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def enter(build: Callable[[], Contestant]) -> Contestant | None:
    """Build a contestant and note what it holds; None where the device is too small for it."""
    before = torch.cuda.memory_allocated()  # 0 without a GPU
    try:
        contestant = build()
        contestant.held = torch.cuda.memory_allocated() - before
        return contestant
    except torch.OutOfMemoryError:
        pass  # freed below: inside the handler the traceback still holds it
    free()
    return None


def take_turns(contestants: dict[str, Contestant | None], batch: Batch, device: torch.device) -> dict[str, Result]:
    """WARM_UP + STEPS steps of each, one after the other; the warm-up is not in the seconds, but in the peak."""
    results = {name: Result(out_of_memory=contestant is None) for name, contestant in contestants.items()}
    for _ in range(WARM_UP + STEPS):
        for name, result in results.items():
            if not result.out_of_memory:
                turn(contestants[name], result, batch, device)
    for result in results.values():
        del result.seconds[:WARM_UP]
    return results


def turn(contestant: Contestant, result: Result, batch: Batch, device: torch.device) -> None:
    """One step, its seconds and its peak. What others hold is on the device too, and is subtracted."""
    before = torch.cuda.memory_allocated()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        result.seconds.append(seconds(lambda: contestant.step(batch), device))
    except torch.OutOfMemoryError:
        result.out_of_memory = True
    if result.out_of_memory:  # outside the handler, whose traceback holds the activations
        contestant.model.zero_grad()
        free()
    elif device.type == "cuda":
        result.peak = max(result.peak, torch.cuda.max_memory_allocated() - before + contestant.held)
    contestant.held += torch.cuda.memory_allocated() - before


def free() -> None:
    """Give back what nothing refers to any more; models refer to themselves in circles."""
    gc.collect()
    torch.cuda.empty_cache()


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of one call: between two events on the GPU, by the clock on a CPU."""
    if device.type == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def matmul_rates(shapes: list[tuple[int, int]], tokens: int, dtype: torch.dtype, device: torch.device) -> list[float]:
    """FLOP/s of x W^T over weights of these shapes, [tokens] rows of x, again and again for MATMUL_SECONDS."""
    weights = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]
    inputs = [torch.randn(tokens, columns, dtype=dtype, device=device) for _, columns in shapes]

    def products() -> None:
        for x, weight in zip(inputs, weights, strict=True):
            x @ weight.T

    flop = 2 * tokens * sum(math.prod(shape) for shape in shapes)
    rates, start = [], time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - start < MATMUL_SECONDS:
        rates.append(flop / seconds(products, device))
    return rates[len(rates) // 2 :]  # what comes first is warm-up


class Report:
    """The table and the rows of the ledger, filled case by case: what was measured before a failure is kept."""

    def __init__(self, shape: str, tokens: int, config: LlamaConfig, dtype: torch.dtype, arguments: argparse.Namespace):
        self.shape, self.tokens, self.dtype = shape, tokens, dtype
        self.path = None if arguments.dry else (arguments.out / "ledger.csv" if arguments.out else ledger.LEDGER)
        model = empty_model(config)
        head = model.get_output_embeddings()
        linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
        self.parameters = sum(module.weight.numel() for module in linear)
        self.layer_shapes = [tuple(module.weight.shape) for module in linear[: len(linear) // config.num_hidden_layers]]
        # Logits of random weights behind a norm are normal, with the variance hidden * STD^2.
        self.expected_loss = math.log(config.vocab_size) + config.hidden_size * STD**2 / 2

    def measure_ceiling(self, device: torch.device) -> None:
        """Plain products of the shapes of one decoder layer; the table begins with them."""
        rates = matmul_rates(self.layer_shapes, self.tokens, self.dtype, device)
        self.matmul_rate = statistics.median(rates)
        name = str(self.dtype).removeprefix("torch.")
        self.write(f"matmul {name}, one layer", "torch", "rate", "TFLOP/s", [rate / 1e12 for rate in rates])
        products = f"products of a layer in {name}: {self.matmul_rate / 1e12:,.3g} TFLOP/s"
        self.table = Table(
            title=f"{self.shape}, {ledger.device()}; {products}",
            caption=f"median (20-80 %) of {STEPS} steps; ratio: peft's seconds to ours, the median of neighbours; "
            f"loss: before training, {self.expected_loss:.2f} is expected of random weights",
        )
        for column in ("bits", "recompute", "", "tokens/s", "(20-80 %)", "of ceiling", "peak GiB", "ratio", "loss"):
            self.table.add_column(column, justify="left" if column in ("", "recompute") else "right", no_wrap=True)

    def add(
        self, bits: int, recompute: str, contestants: dict[str, Contestant | None], results: dict[str, Result]
    ) -> None:
        """A row for each contestant, and its figures in the ledger."""
        ceiling = self.matmul_rate / ((6 if recompute == "layer" else 4) * self.parameters)  # tokens/s
        finished = [result for result in results.values() if not result.out_of_memory]
        for name, result in results.items():
            if result.out_of_memory:
                self.table.add_row(str(bits), recompute, name, "out of memory")
                continue
            rates = [self.tokens / second for second in result.seconds]
            case, provider = f"train step {bits} bits, recompute {recompute}", contestants[name].provider
            self.write(case, provider, "rate", "tokens/s", rates)
            self.write(
                case, provider, "share of the linear-layer ceiling", "fraction", [rate / ceiling for rate in rates]
            )
            if result.peak:
                self.write(case, provider, "peak memory", "GiB", [result.peak / 2**30])
            low, median, high = np.quantile(rates, [0.2, 0.5, 0.8])
            ratio = ""
            if name == "maple" and len(finished) == 2:
                ratio = f"{np.median(np.divide(results['peft'].seconds, result.seconds)):.2f}"
            peak = f"{result.peak / 2**30:.2f}" if result.peak else "-"
            span, share = f"({low:,.0f}-{high:,.0f})", f"{median / ceiling:.0%}"
            loss = f"{contestants[name].first_loss:.3f}"
            self.table.add_row(str(bits), recompute, name, f"{median:,.0f}", span, share, peak, ratio, loss)

    def write(self, case: str, provider: str, metric: str, unit: str, values: list[float]) -> None:
        """Append to the ledger, unless the run is dry."""
        if self.path:
            ledger.append(case, provider, self.shape, metric, unit, values, self.path)


if __name__ == "__main__":
    main()
