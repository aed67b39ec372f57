"""What a run says of itself: its data and model before it begins, summary.json and a short table at its end."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback
from rich.console import Console
from rich.table import Table

from maple.data.instructions import Instructions
from maple.durable import replace_file
from maple.lora import base_bytes, lora_parameters, parameter_counts
from maple.loss import Score
from maple.meters import Meters
from maple.outputs import SUMMARY
from maple.recompute import uncompiled
from maple.screen import printable
from maple.sharded import is_sharded

PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "safetensors", "datasets")


def show_data(console: Console, instructions: Instructions) -> None:
    """One line a language: how much there is, how much is cut, how much of it is used."""
    table = Table(title="Data", title_justify="left")
    for column in ("language", "records", "held out", "an epoch", "tokens", "supervised", "cut"):
        table.add_column(column, justify="left" if column == "language" else "right")
    for language, samples in instructions.samples.items():
        table.add_row(
            language,
            f"{len(samples):,}",
            f"{len(instructions.validation[language]):,}",
            f"{instructions.batches.counts[language]:,}",
            f"{samples.lengths.sum():,}",
            f"{samples.supervised:,}",
            f"{samples.truncated_percent:.1f} %",
        )
    console.print(table)
    if any(samples.truncated_percent for samples in instructions.samples.values()):
        console.print(
            f"Cut: samples longer than {instructions.limits.max_length} tokens, of which some tokens are lost."
        )


def show_model(console: Console, model, arguments: dict) -> None:
    """One line: what is frozen and what is trained."""
    trainable, total = parameter_counts(model)
    console.print(
        f"Model: {printable(arguments['model'])}, {total - trainable:,} parameters frozen in {arguments['bits']} bits "
        f"({base_bytes(model) / 1e6:,.1f} MB); LoRA of rank {arguments['rank']} on "
        f"{printable(arguments['targets'])}: {trainable:,} trainable ({100 * trainable / total:.2f} %)."
    )


GREEDY = {"do_sample": False, "pad_token_id": 0}  # one prompt at a time needs no padding; the id only ends a warning


class Sample(Callback):
    """At each validation, while the model is on its device: its greedy answer to one prompt, and what was expected."""

    def __init__(self, console: Console, tokenizer, instructions: Instructions, tokens: int):
        self.console, self.tokenizer, self.tokens = console, tokenizer, tokens
        self.language, self.prompt, self.answer = instructions.an_example(room=tokens)

    def on_validation_end(self, trainer, pl_module) -> None:
        """Generate and print: rank 0, and where the model is shared all together."""
        model, shared = pl_module.model, is_sharded(pl_module.model)
        if self.console.quiet and not shared:
            return
        ids = torch.tensor(self.prompt.astype(np.int64)[None], device=pl_module.device)
        mask = torch.ones_like(ids)
        with uncompiled():  # a cache that grows would make graphs for each layer and length
            found = model.generate(ids, attention_mask=mask, max_new_tokens=self.tokens, synced_gpus=shared, **GREEDY)
        self.console.print(f"[dim]A validation sample ({self.language}): ...{self._text(self.prompt, 120)}[/]")
        self.console.print(f"[dim]  expected:[/] {self._text(self.answer)}")
        self.console.print(f"[dim]  answered:[/] {self._text(found[0, ids.shape[1] :])}")

    def _text(self, ids, last: int = 0) -> str:
        text = " ".join(self.tokenizer.decode(ids, skip_special_tokens=True).split())
        return printable(text[-last:])


def collect(
    arguments: dict,
    records: dict[str, int],
    model,
    meters: Meters,
    before: dict[str, Score],
    after: dict[str, Score],
    out: Path,
) -> dict:
    """summary.json: written, and returned; `records` are those of each language in an epoch."""
    trainable, total = parameter_counts(model)
    settings = ("model", "data", "rank", "bits", "alpha", "targets", "seed")
    record = {
        **{name: arguments[name] for name in settings},
        "training_records": {language: count for language, count in records.items() if count},
        "steps": meters.steps,
        "tokens": meters.tokens,
        "seconds": meters.seconds,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "trainable_percent": 100 * trainable / total,
        "base_bytes": base_bytes(model),
        "adapter_bytes": sum(parameter.nbytes for _, parameter in lora_parameters(model)),
        "peak_memory_bytes": meters.peak_memory,
        "tokens_per_second": meters.tokens / meters.seconds,
        "train_loss_first": meters.first_loss,
        "train_loss_last": meters.last_loss,
        "val_loss_before": macro_mean(before, "mean_loss"),
        "val_loss_after": macro_mean(after, "mean_loss"),
        "val_loss_by_language": by_language(before, after, "mean_loss"),
        "exact_match_before": macro_mean(before, "exact_match"),
        "exact_match_after": macro_mean(after, "exact_match"),
        "exact_match_by_language": by_language(before, after, "exact_match"),
        "versions": versions(),
    }
    replace_file(out / SUMMARY, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def versions() -> dict[str, str]:
    """Of Python and of the libraries that results depend on."""
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES}


def macro_mean(scores: dict[str, Score], name: str) -> float:
    """Every language counts the same, however much of it there is."""
    return sum(getattr(score, name) for score in scores.values()) / len(scores)


def by_language(before: dict[str, Score], after: dict[str, Score], name: str) -> dict[str, dict[str, float]]:
    """{"es": {"before": 3.1, "after": 2.2}}."""
    return {lang: {"before": getattr(before[lang], name), "after": getattr(after[lang], name)} for lang in before}


def show_end(console: Console, record: dict, out: Path) -> None:
    """What was trained, what it cost, what it gained per language, where the adapter lies."""
    cost = Table(title="Trained", title_justify="left", show_header=False)
    cost.add_row("LoRA", f"rank {record['rank']}, alpha {record['alpha']:g}, on {printable(record['targets'])}")
    cost.add_row("trainable", f"{record['trainable_parameters']:,} of {record['total_parameters']:,} parameters")
    cost.add_row("frozen weights", f"{record['bits']} bits, {record['base_bytes'] / 1e6:,.1f} MB")
    cost.add_row("time", f"{record['steps']} steps in {record['seconds']:.0f} s")
    cost.add_row("speed", f"{record['tokens_per_second']:,.0f} tokens/s")
    cost.add_row("peak memory", f"{record['peak_memory_bytes'] / 2**30:.2f} GiB")
    console.print(cost)
    gain = Table(title="Validation", title_justify="left")
    for column in ("language", "loss before", "after", "exact match before", "after"):
        gain.add_column(column, justify="left" if column == "language" else "right")
    for language, loss in record["val_loss_by_language"].items():
        match = record["exact_match_by_language"][language]
        gain.add_row(language, *_gain(loss["before"], loss["after"], match["before"], match["after"]))
    losses = record["val_loss_before"], record["val_loss_after"]
    gain.add_row("mean", *_gain(*losses, record["exact_match_before"], record["exact_match_after"]))
    console.print(gain)
    console.print(
        f"Before is the {record['bits']}-bit base alone: between 4, 8 and 16 bits it is the cost of quantisation."
    )
    adapter = printable(str(out / "adapter"))
    console.print(f"Adapter: {adapter}\nTalk to it: python -m maple.chat --adapter {adapter}", soft_wrap=True)


def _gain(loss_before: float, loss_after: float, match_before: float, match_after: float) -> tuple[str, ...]:
    return f"{loss_before:.4f}", f"{loss_after:.4f}", f"{100 * match_before:.0f} %", f"{100 * match_after:.0f} %"
