"""Examples per second of likelihood scoring, beside lm-evaluation-harness: the same model, items and templates.

    python -m benchmarks.evaluate               measure, print, append to benchmarks/ledger.csv
    python -m benchmarks.evaluate --dry         measure and print only

Both are timed from the rows of a task to their likelihoods, tokenising included, in 16 bits and float32. The harness is
given the best of its batch sizes, which a first round finds. The contestants take turns in one process; the ratio is
the median over the rounds. One model has random weights and 60 M parameters, so that products count; the other is
stories260k, hidden size 64, where what is around them does.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import ledger
from benchmarks.timing import paired_ratio
from benchmarks.train import seconds
from maple.evaluation.data import read_examples
from maple.evaluation.prompting import Prompter
from maple.evaluation.scoring import score
from maple.evaluation.task import Example, Task
from maple.model import load_model
from maple.quiet import quieten
from maple.tasks import find
from maple.tokenizer import load_tokenizer

CASES = {"xnli": "sw", "xcopa": "it", "belebele": "de"}
# Examples of each case: one to four seconds a round on two cores.
COUNTS = {"60 M": (16, 40, 6), "stories260k": (150, 400, 60)}
SHAPE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
BATCHES = (4, 16, 64)  # of the harness, in choices
OUR_BATCH = 32  # examples, the default of `maple.evaluate`
ROUNDS = 7
CPU = torch.device("cpu")
PEER = f"lm-evaluation-harness {importlib.metadata.version('lm_eval')}"


def main(argv: list[str] | None = None) -> None:
    """Measure every model and task, print a table, append to the ledger."""
    arguments = parse(argv)
    quieten()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    console, tokenizer = Console(width=118, highlight=False), load_tokenizer(arguments.model)
    table = Table(title=f"Likelihood scoring, examples/s, {ledger.device()}", caption="median (20-80 %); ratio: paired")
    for column in ("model", "task", "maple", PEER, "its batch", "ratio"):
        table.add_column(column, justify="left" if column in ("model", "task") else "right")
    for name, counts in COUNTS.items():
        ours, theirs = pair(name, arguments.model)
        for (task, language), count in zip(CASES.items(), counts, strict=True):
            console.print(f"{name}, {task}: {count} examples ...")
            examples, _ = read_examples(find(task), language, "test", str(arguments.data_dir), count)
            rates, batch = take_turns(find(task), examples, ours, theirs, tokenizer)
            cells = [f"{np.median(r):,.1f} ({np.quantile(r, 0.2):,.1f}-{np.quantile(r, 0.8):,.1f})" for r in rates]
            table.add_row(name, task, *cells, str(batch), f"{paired_ratio(*rates):.2f}")
            for provider, values in () if arguments.dry else zip(("maple", PEER), rates, strict=True):
                ledger.append(f"likelihood {task}", provider, f"{name} x {count}", "rate", "examples/s", values)
    console.print(table)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="do not write to the ledger")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/real/tasks"), help="<task>/<lang>.test.jsonl")
    parser.add_argument("--model", type=Path, default=Path("../shared/real/models/stories260k"), help="the small model")
    return parser.parse_args(argv)


def pair(name: str, folder: Path) -> tuple:
    """(our model, transformers') with the same weights."""
    if name == "stories260k":
        theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return load_model(str(folder), bits=16, rank=0).eval(), theirs.eval()
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(vocab_size=32000, max_position_embeddings=2048, **SHAPE))
    with tempfile.TemporaryDirectory() as saved:
        theirs.save_pretrained(saved)
        return load_model(saved, bits=16, rank=0).eval(), theirs.eval()


def take_turns(task: Task, examples: list[Example], ours, theirs, tokenizer) -> tuple[list[list[float]], int]:
    """(examples per second of ours and of theirs in each round, the batch size that suits them best)."""
    window, requests = theirs.config.max_position_embeddings, of_harness(task, examples)
    peers = {
        size: partial(
            HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=size, max_length=window).loglikelihood,
            requests,
            disable_tqdm=True,
        )
        for size in BATCHES
    }
    for call in peers.values():  # the first calls are slower
        call()
    best = min(peers, key=lambda size: seconds(peers[size], CPU))
    calls = partial(of_maple, task, examples, ours, tokenizer), peers[best]
    rates = [[], []]
    for _ in range(1 + ROUNDS):
        for side, call in zip(rates, calls, strict=True):
            side.append(len(examples) / seconds(call, CPU))
    return [side[1:] for side in rates], best


def of_harness(task: Task, examples: list[Example]) -> list[Instance]:
    """What it asks: a request for each choice."""
    setting = task.settings["harness"]
    asked = [setting.ask(example) for example in examples]
    return [
        Instance("loglikelihood", {}, (one.context, setting.delimiter + choice), place, ("", 0, 1))
        for one in asked
        for place, choice in enumerate(one.choices)
    ]


def of_maple(task: Task, examples: list[Example], model, tokenizer) -> None:
    """What `maple.evaluate` does of a task in a language, between its data and its files."""
    setting = task.settings["harness"]
    prompter = Prompter(task.name, setting, "plain", tokenizer, model.config)
    requests = [prompter.request(number, example, []) for number, example in enumerate(examples)]
    score(model, tokenizer, setting, examples[0].language, requests, OUR_BATCH)


if __name__ == "__main__":
    main()
