"""What a rank and a bit-width cost: tokens per second and memory of a training step, beside peft + bitsandbytes.

    python -m benchmarks.train                             ranks 8 to 128 in 4, 8 and 16 bits; a table and two pictures
    python -m benchmarks.train --ranks 32 --bits 4 --recompute layer
    python -m benchmarks.train --data DIR --tokenizer DIR  batches of real samples: theirs padded, ours packed
    python -m benchmarks.train --dry                       measure and print only; --out DIR keeps all files there

A step is forward, backward, clipping and AdamW on one micro-batch. Without --data its rows are full and every token is
supervised, so that all contestants do the same work. With --data each batch is so many samples of real instructions,
the same for all: padded to the longest as transformers' Trainer does it, packed without padding as maple does.
Contestants take turns step by step, and a ratio is the median of the ratios of neighbours. Weights are random
(`contestants.py`): speed does not depend on them. The shape is that of a 7B model on a GPU, of 60 M on a CPU.

MFU is the useful work over what plain products of the layers' shapes reach here, in the same run: 4 FLOP a token and
frozen weight (forward and dX; a frozen weight has no dW), 6 a LoRA weight; the output head's only where a token is
supervised. Recomputation is no useful work.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from transformers import LlamaConfig

from benchmarks import ledger
from benchmarks.contestants import BLOCK_SIZE, MAPLE, PROVIDERS, Case, Contestant, why_no_peers
from benchmarks.train_report import Report, Row
from maple.choices import RECOMPUTE
from maple.data.packing import Batch, collate
from maple.device import choose_device
from maple.live import LiveBytes
from maple.memory import MicroBatch, Setting, predict

RANKS = (8, 16, 32, 64, 128)  # the MAPLE paper's
BITS = (4, 8, 16)
WARM_UP, STEPS = 2, 5  # the first step compiles and makes the optimizer's state
MATMUL_SECONDS = 1.0  # long enough for the clock under load to settle
SIZES = {
    "Llama-2-7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "Mistral-7B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "60M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
    "wide": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "num_attention_heads": 16},
}  # fmt: skip
ROWS = {"Llama-2-7B": (4, 2048), "Mistral-7B": (4, 2048)}  # sequences, and tokens of each
SMALL_ROWS = (1, 1024)
BATCHES = 12  # of real samples


def main(argv: list[str] | None = None) -> None:
    """Measure every cell, print tables, append to the ledger, draw."""
    arguments = parse(argv)
    device, dtype = choose_device("auto", "auto")
    size = arguments.size or ("Llama-2-7B" if device.type == "cuda" else "60M")
    config = LlamaConfig(**SIZES[size], vocab_size=32000, rms_norm_eps=1e-5, max_position_embeddings=4096)
    console = Console(width=130, record=True, highlight=False)
    names = contestants(arguments, device, console)
    batches, shape = make_batches(arguments, config, ROWS.get(size, SMALL_ROWS), device)
    settings = f"recompute {arguments.recompute}{', compiled' if arguments.compile else ''}"
    report = Report(f"{size} {shape}", settings, config, layer_rate(config, batches, dtype, device))
    for bits in arguments.bits:
        case = Case(config, bits, device, dtype, arguments.recompute, arguments.compile)
        found = [name for name in names if bits in PROVIDERS[name].bits]
        console.print(f"{bits} bits, {settings}: {', '.join(found)} ...")
        measure(case, found, arguments.ranks, batches, report)
    where = None if arguments.dry else arguments.out or ledger.LEDGER.parent
    for table in report.tables():
        console.print(table)
    if where:
        report.write(where / ledger.LEDGER.name)
        for line in report.draw(where):
            console.print(line)
    if arguments.out:
        (arguments.out / "train.txt").write_text(console.export_text(), encoding="utf-8")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; the folder of --out exists after it."""

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), help="by default Llama-2-7B on a GPU, 60M on a CPU")
    parser.add_argument("--ranks", type=numbers, default=RANKS, help="as 8,16,32")
    parser.add_argument("--bits", type=numbers, default=BITS, help="as 4,8,16")
    parser.add_argument("--recompute", choices=RECOMPUTE, default="none", help="selective is maple's alone")
    parser.add_argument("--compile", action="store_true", help="torch.compile of maple's decoder layers")
    parser.add_argument("--only", choices=list(PROVIDERS), help="measure one contestant")
    parser.add_argument("--sequences", type=int, help="full rows of a micro-batch")
    parser.add_argument("--length", type=int, help="tokens of a full row")
    parser.add_argument("--data", type=Path, help="folder of <lang>.jsonl: batches of real samples")
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer for --data")
    parser.add_argument("--samples", type=int, default=8, help="samples of a batch of --data")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--dry", action="store_true", help="write nothing")
    where.add_argument("--out", type=Path, help="folder for ledger.csv, table and pictures, in place of benchmarks/")
    arguments = parser.parse_args(argv)
    if (arguments.data is None) != (arguments.tokenizer is None):
        parser.error("--data and --tokenizer go together")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def contestants(arguments: argparse.Namespace, device: torch.device, console: Console) -> list[str]:
    """Those that can be measured here; what cannot is said."""
    names = [arguments.only] if arguments.only else list(PROVIDERS)
    if arguments.recompute == "selective":
        names = [MAPLE]
    if names != [MAPLE] and (reason := why_no_peers(device)):
        console.print(f"peft + bitsandbytes skipped: {reason}")
        names = [MAPLE]
    return names


# ----------------------------------------------------------------------------------------------------------------------
# Batches
# ----------------------------------------------------------------------------------------------------------------------

Pair = tuple[Batch, Batch]  # the same samples for maple and for the others


def make_batches(
    arguments: argparse.Namespace, config: LlamaConfig, rows: tuple[int, int], device: torch.device
) -> tuple[list[Pair], str]:
    """(batches, what they are in a word)."""
    if arguments.data:
        batches = real_batches(arguments.data, arguments.tokenizer, arguments.samples)
        shape = f"{arguments.data.name} {arguments.samples} samples"
    else:
        sequences, length = arguments.sequences or rows[0], arguments.length or rows[1]
        random = np.random.default_rng(0)
        full = [[(random.integers(config.vocab_size, size=length + 1), 1)] for _ in range(sequences)]
        one = collate(full, length, pad=0)
        batches, shape = [(one, one)] * (WARM_UP + STEPS), f"{sequences}x{length}"
    return [tuple(to_device(batch, device) for batch in pair) for pair in batches], shape


def real_batches(folder: Path, tokenizer: Path, count: int) -> list[Pair]:
    """BATCHES of `count` samples, drawn from all languages of a folder."""
    from maple.data.sources import open_source
    from maple.data.tokens import Limits, tokenize
    from maple.tokenizer import load_tokenizer

    source, reader = open_source(str(folder), None), load_tokenizer(tokenizer)
    table = [
        tokenize(language, source.read(language)[0], "alpaca", reader, Limits(2048, 4096))
        for language in source.languages
    ]
    samples = [(language, index) for language in table for index in range(len(language))]
    chosen = np.random.default_rng(0).permutation(len(samples))[: BATCHES * count]
    drawn = [samples[i][0][samples[i][1]] for i in chosen]
    groups = [drawn[i : i + count] for i in range(0, len(drawn), count)]
    return [(packed(group), padded(group)) for group in groups]


def packed(samples: list[tuple[np.ndarray, int]]) -> Batch:
    """One behind the other in one row, as long as they are."""
    return collate([samples], sum(len(ids) - 1 for ids, _ in samples), pad=0)


def padded(samples: list[tuple[np.ndarray, int]]) -> Batch:
    """A row for each, padded to the longest, and the mask that says so (transformers' DataCollatorForSeq2Seq)."""
    longest = max(len(ids) - 1 for ids, _ in samples)
    batch = collate([[sample] for sample in samples], longest, pad=0)
    lengths = torch.tensor([len(ids) - 1 for ids, _ in samples])
    mask = (torch.arange(longest) < lengths[:, None]).long()
    del batch["position_ids"]  # transformers counts them itself; ours would say that the padding is a sample
    return batch | {"attention_mask": mask}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Its tensors there."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


# ----------------------------------------------------------------------------------------------------------------------
# Turns
# ----------------------------------------------------------------------------------------------------------------------


def measure(case: Case, names: list[str], ranks: list[int], batches: list[Pair], report: Report) -> None:
    """All ranks at one bit-width; the models are gone when it returns."""
    bases = {name: attempt(lambda name=name: PROVIDERS[name].base(case)) for name in names}
    for rank in ranks:
        running = {
            name: attempt(lambda name=name, rank=rank: PROVIDERS[name].attach(case, bases[name], rank))
            for name in names
            if bases[name] is not None
        }
        seconds = take_turns(running, batches, case.device)
        peaks = {name: peak(running[name], name, batches, case.device) for name in seconds}
        for name in names:
            if name not in seconds:
                report.add(Row(case.bits, rank, name))
                continue
            one = running[name]
            row = Row(
                case.bits,
                rank,
                name,
                one.provider,
                seconds=seconds[name],
                ours=seconds.get(MAPLE),
                counts=[(b["tokens"], int((b["labels"] >= 0).sum())) for b, _ in batches[WARM_UP:]],
                peak=peaks[name],
                trained=sum(parameter.numel() for parameter in one.parameters),
                loss=one.first_loss,
                parts=predicted(case, rank, largest(batches, name)) if name == MAPLE else {},
            )
            report.add(row)
        for name, base in bases.items():
            if base is not None:
                PROVIDERS[name].detach(base)
        del running
        free()


def attempt(build: Callable):
    """What `build` gives; None where the device is too small for it."""
    try:
        return build()
    except torch.OutOfMemoryError:
        pass  # freed below: inside the handler the traceback still holds it
    free()
    return None


def take_turns(
    running: dict[str, Contestant | None], batches: list[Pair], device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each step but the warm-up, of those that never ran out of memory."""
    found = {name: [] for name, contestant in running.items() if contestant is not None}
    for pair in batches:
        for name in list(found):
            batch = pair[0 if name == MAPLE else 1]
            taken = attempt(lambda name=name, batch=batch: seconds(lambda: running[name].step(batch), device))
            if taken is None:
                running[name].model.zero_grad()
                del found[name]
                continue
            found[name].append(taken)
    return {name: times[WARM_UP:] for name, times in found.items()}


def peak(contestant: Contestant, name: str, batches: list[Pair], device: torch.device) -> int:
    """Bytes of the tensors of a contestant at the peak of a step: on a GPU those that PyTorch has allocated, without
    what others hold; on a CPU living tensors, counted."""
    batch, state = largest(batches, name), 2 * sum(p.nbytes for p in contestant.parameters)  # AdamW's two averages
    if device.type == "cuda":
        before, own = torch.cuda.memory_allocated(), sum(held(contestant).values())
        torch.cuda.reset_peak_memory_stats()
        contestant.step(batch)
        return torch.cuda.max_memory_allocated() - before + own + state
    with LiveBytes() as counter:
        held(contestant, counter.count)
        contestant.step(batch)
    return counter.peak.total() + state


def largest(batches: list[Pair], name: str) -> Batch:
    """The batch of a contestant that has most tokens, padding included."""
    return max((pair[0 if name == MAPLE else 1] for pair in batches), key=lambda batch: batch["labels"].numel())


def predicted(case: Case, rank: int, batch: Batch) -> dict[str, int]:
    """Bytes by part at the peak of a step of maple's, as `maple.check` predicts them."""
    lora = {"rank": rank, "alpha": None, "dropout": 0.0, "targets": "all-linear", "rslora": False}
    packing = {"bits": case.bits, "block_size": BLOCK_SIZE, "double_quant": True}
    step = {"accumulate": 1, "recompute": case.recompute, "strategy": "auto"}
    counts = int((batch["labels"] >= 0).sum()), int((batch["position_ids"] == 0).sum())
    shape = MicroBatch(*batch["labels"].shape, *counts)
    return predict(Setting(lora | packing | step, case.config, shape, case.device.type, case.dtype)).parts


def held(contestant: Contestant, look: Callable[[torch.Tensor], None] = lambda _: None) -> dict[int, int]:
    """{storage: bytes} of a model, of what bitsandbytes keeps beside its parameters, and of gradients."""
    model, tensors = contestant.model, [p.grad for p in contestant.parameters if p.grad is not None]
    tensors += [*model.parameters(), *model.buffers()]
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None) or getattr(module, "state", None)
        for owner in filter(None, (module, state, getattr(state, "state2", None))):
            tensors += [value for value in vars(owner).values() if isinstance(value, torch.Tensor)]
    for tensor in tensors:
        look(tensor)
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


def free() -> None:
    """Give back what nothing refers to any more; models refer to themselves in circles."""
    gc.collect()
    torch.cuda.empty_cache()


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def layer_rate(config: LlamaConfig, batches: list[Pair], dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of plain products x W^T with the weights of one decoder layer, again and again for MATMUL_SECONDS."""
    hidden, wide = config.hidden_size, config.intermediate_size
    kv = config.num_key_value_heads * config.head_dim
    shapes = [(hidden, hidden)] * 2 + [(kv, hidden)] * 2 + [(wide, hidden)] * 2 + [(hidden, wide)]
    tokens = int(np.median([batch["input_ids"].numel() for batch, _ in batches]))
    weights = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]
    inputs = {columns: torch.randn(tokens, columns, dtype=dtype, device=device) for columns in (hidden, wide)}

    def products() -> None:
        for weight in weights:
            inputs[weight.shape[1]] @ weight.T

    flop = 2 * tokens * sum(weight.numel() for weight in weights)
    rates, start = [], time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - start < MATMUL_SECONDS:
        rates.append(flop / seconds(products, device))
    return float(np.median(rates[len(rates) // 2 :]))  # what comes first is warm-up


if __name__ == "__main__":
    main()
