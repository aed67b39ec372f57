"""Tokens per second of greedy decoding at the shapes of Llama-2-7B, beside transformers' generate + bitsandbytes.

    python -m benchmarks.decode               measure, print, append to benchmarks/ledger.csv
    python -m benchmarks.decode --dry         measure and print only
    python -m benchmarks.decode --out DIR     ledger.csv and the table, decode.txt, go into DIR

Random weights, the same for both (`contestants.py`), prompts of one length, no token that stops. A round of each
contestant is a call for one new token and a call for all of them: the difference is steps of decoding only, without the
reading of the prompts. The contestants take turns, and the ratio is the median over the rounds.

The limit of a batch is that of its bytes: a step reads every packed weight and the output head once, at the rate of a
large copy, measured here. Keys and values come on top. A CPU is limited by arithmetic, and has no such column.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig, LlamaConfig, PreTrainedModel, StaticCache

from benchmarks import ledger
from benchmarks.contestants import Case, of_transformers, packed_by_maple, why_no_peers
from benchmarks.timing import limits, paired_ratio
from benchmarks.train import free, seconds
from maple.decoding import Decoder
from maple.device import choose_device
from maple.quantized import QuantizedLinear

BITS = (4, 8, 16)
WARM_UP, ROUNDS = 1, 5  # the first round compiles and captures
SIZES = {
    "Llama-2-7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    # 1408 and not 1376: on a CPU bitsandbytes 0.50.2 unpacks rows wrongly that are no multiple of the block size
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
}
BATCHES = {"Llama-2-7B": (1, 8, 32, 128), "small": (1, 8, 32)}
LENGTHS = {"Llama-2-7B": (128, 129), "small": (32, 33)}  # tokens of a prompt, and new ones


@dataclass
class Contestant:
    """A model, what generates `new` tokens for each prompt with it, and what its turns gave."""

    provider: str
    model: PreTrainedModel
    generate: Callable[[list[list[int]], int], object]
    rates: list[float] = field(default_factory=list)  # tokens/s of each round


def main(argv: list[str] | None = None) -> None:
    """Measure every case, print a table, append to the ledger."""
    arguments = parse(argv)
    device, dtype = choose_device("auto", "auto")
    size = arguments.size or ("Llama-2-7B" if device.type == "cuda" else "small")
    config = LlamaConfig(**SIZES[size], vocab_size=32000, rms_norm_eps=1e-5, max_position_embeddings=4096)
    console = Console(width=118, record=True, highlight=False)
    report = Report(size, device, arguments)
    no_peers = why_no_peers(device)
    if no_peers:
        console.print(f"bitsandbytes skipped: {no_peers}")
    for bits in BITS:
        case = Case(config, bits, device, dtype)
        contestants = {"maple": ours(case, max(BATCHES[size]), sum(LENGTHS[size]))}
        if bits == 16 or (bits == 4 and not no_peers):  # bitsandbytes' int8 is another method: it rounds x as well
            static = bits == 16 and device.type == "cuda"  # its quantizer of bitsandbytes says is_compileable False
            contestants["transformers"] = theirs(case, static, sum(LENGTHS[size]))
        for batch in BATCHES[size]:
            console.print(f"{bits} bits, batch {batch}: {' and '.join(contestants)} ...")
            take_turns(contestants, batch, *LENGTHS[size], config.vocab_size, device)
            report.add(bits, batch, contestants)
        del contestants
        free()
    console.print(report.table)
    if arguments.out:
        (arguments.out / "decode.txt").write_text(console.export_text(), encoding="utf-8")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; the folder of --out exists after it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), help="by default Llama-2-7B on a GPU, small on a CPU")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--dry", action="store_true", help="do not write to the ledger")
    where.add_argument("--out", type=Path, help="folder for ledger.csv and decode.txt, in place of the ledger here")
    arguments = parser.parse_args(argv)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def ours(case: Case, rows: int, length: int) -> Contestant:
    """maple's model, and one decoder for all batches, which keeps its graphs."""
    model = packed_by_maple(case).eval()
    return Contestant("maple", model, Decoder(model, rows, length).generate)


def theirs(case: Case, static: bool, length: int) -> Contestant:
    """transformers' generate; with a static cache that is kept between calls it compiles the steps on a GPU."""
    model = of_transformers(case).eval()
    model.generation_config = GenerationConfig(pad_token_id=0)  # no token stops
    caches = {}  # of each batch size

    def generate(prompts: list[list[int]], new: int) -> torch.Tensor:
        ids, kept = torch.tensor(prompts, device=case.device), {}
        if static:
            cache = caches.setdefault(len(prompts), StaticCache(model.config, max_cache_len=length))
            cache.reset()
            kept = {"past_key_values": cache}
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, **kept)

    packed_by = f" + bitsandbytes {importlib.metadata.version('bitsandbytes')}" if case.bits == 4 else ""
    how = ", static cache" if static else ""
    return Contestant(f"transformers {importlib.metadata.version('transformers')}{packed_by}{how}", model, generate)


def take_turns(
    contestants: dict[str, Contestant], batch: int, length: int, new: int, vocabulary: int, device: torch.device
) -> None:
    """WARM_UP + ROUNDS rounds of each; the warm-up is not in the rates."""
    prompts = np.random.default_rng(batch).integers(1, vocabulary, (batch, length)).tolist()
    for contestant in contestants.values():
        contestant.rates.clear()
    for _ in range(WARM_UP + ROUNDS):
        for contestant in contestants.values():
            one, all_ = (seconds(partial(contestant.generate, prompts, count), device) for count in (1, new))
            contestant.rates.append(batch * (new - 1) / (all_ - one))
    for contestant in contestants.values():
        del contestant.rates[:WARM_UP]


class Report:
    """The table and the rows of the ledger, filled case by case: what was measured before a failure is kept."""

    def __init__(self, size: str, device: torch.device, arguments: argparse.Namespace):
        prompt, new = LENGTHS[size]
        self.shape = f"{size} {prompt}+{new - 1}"
        self.path = None if arguments.dry else (arguments.out / "ledger.csv" if arguments.out else ledger.LEDGER)
        self.bandwidth = 1e9 * limits("cuda")["GB/s"] if device.type == "cuda" else None
        copied = f"; a copy at {self.bandwidth / 1e9:,.0f} GB/s" if self.bandwidth else ""
        self.table = Table(
            title=f"{self.shape} tokens, {ledger.device()}{copied}",
            caption=f"median (20-80 %) of {ROUNDS} rounds; ratio: our rate to transformers', the median of the rounds",
        )
        for column in ("bits", "batch", "", "tokens/s", "(20-80 %)", "of limit", "ratio"):
            self.table.add_column(column, justify="right" if column else "left", no_wrap=True)

    def add(self, bits: int, batch: int, contestants: dict[str, Contestant]) -> None:
        """A row for each contestant, and its figures in the ledger."""
        limit = self.bandwidth and batch * self.bandwidth / bytes_of_a_step(contestants["maple"].model)
        for name, contestant in contestants.items():
            rates, case = contestant.rates, f"decode {bits} bits, batch {batch}"
            self.write(case, contestant.provider, "rate", "tokens/s", rates)
            low, median, high = np.quantile(rates, [0.2, 0.5, 0.8])
            share = "-"
            if limit:
                share = f"{median / limit:.0%}"
                self.write(
                    case, contestant.provider, "share of the limit", "fraction", [rate / limit for rate in rates]
                )
            ratio = ""
            if name == "maple" and len(contestants) == 2:
                ratio = f"{paired_ratio(rates, contestants['transformers'].rates):.2f}"
            span = f"({low:,.0f}-{high:,.0f})"
            self.table.add_row(str(bits), str(batch), contestant.provider, f"{median:,.0f}", span, share, ratio)

    def write(self, case: str, provider: str, metric: str, unit: str, values: list[float]) -> None:
        """Append to the ledger, unless the run is dry."""
        if self.path:
            ledger.append(case, provider, self.shape, metric, unit, values, self.path)


def bytes_of_a_step(model: PreTrainedModel) -> int:
    """Of the weights that every step reads: all linear layers with the output head, of the embedding only rows."""
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    return sum(parameter.nbytes for layer in layers for parameter in layer.parameters())


if __name__ == "__main__":
    main()
