"""Examples per second of likelihood scoring, beside lm-evaluation-harness: the same model, items and templates.

    python -m benchmarks.evaluate               measure, print, append to benchmarks/ledger.csv
    python -m benchmarks.evaluate --dry         measure and print only

Both are timed from the rows of a task to their likelihoods, tokenising included, in 16 bits and float32. The harness is
given the best of its batch sizes here, which a first round finds. The contestants take turns in one process; the ratio
is the median over the rounds. The models are stories260k, where what is around the products counts, and a random one of
60 M parameters, where the products do.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import time
from collections.abc import Callable
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
from maple.evaluation.data import read_examples
from maple.evaluation.prompting import Prompter
from maple.evaluation.scoring import score
from maple.evaluation.task import Example, Task
from maple.model import load_model
from maple.quiet import quieten
from maple.tasks import find
from maple.tokenizer import load_tokenizer

CASES = {"xnli": "sw", "xcopa": "it", "belebele": "de"}
SIZES = {"stories260k": (200, 500, 60), "60 M": (24, 60, 6)}  # examples of each case: seconds a round
BATCHES = (4, 16, 64)  # of the harness, in choices; ours is the default of `maple.evaluate`, in examples
OUR_BATCH = 32
ROUNDS = 5
PEER = f"lm-evaluation-harness {importlib.metadata.version('lm_eval')}"


def main(argv: list[str] | None = None) -> None:
    """Measure every model and task, print a table, append to the ledger."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="do not write to the ledger")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/real/tasks"), help="<task>/<lang>.test.jsonl")
    parser.add_argument("--model", type=Path, default=Path("../shared/real/models/stories260k"), help="the small model")
    arguments = parser.parse_args(argv)
    quieten()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    console = Console(width=110, highlight=False)
    table = Table(title=f"Likelihood scoring, {ledger.device()}", caption="examples/s: median (20-80 %); ratio: paired")
    for column in ("model", "task", "maple", PEER, "its batch", "ratio"):
        table.add_column(column, justify="left" if column in ("model", "task") else "right")
    tokenizer = load_tokenizer(arguments.model)
    for name, counts in SIZES.items():
        ours, theirs = pair(name, arguments.model)
        for (task, language), count in zip(CASES.items(), counts, strict=True):
            console.print(f"{name}, {task}: {count} examples ...")
            examples, _ = read_examples(find(task), language, "test", str(arguments.data_dir), count)
            rates, batch = take_turns(find(task), examples, ours, theirs, tokenizer)
            cells = [f"{np.median(r):,.1f} ({np.quantile(r, 0.2):,.1f}-{np.quantile(r, 0.8):,.1f})" for r in rates]
            ratio = paired_ratio(*([1 / rate for rate in side] for side in reversed(rates)))
            table.add_row(name, task, *cells, str(batch), f"{ratio:.2f}")
            if not arguments.dry:
                for provider, values in zip(("maple", PEER), rates, strict=True):
                    ledger.append(f"likelihood {task}", provider, f"{name} {count}", "rate", "examples/s", values)
    console.print(table)


def pair(name: str, folder: Path) -> tuple[object, LlamaForCausalLM]:
    """(our model, transformers') with the same weights."""
    if name == "stories260k":
        theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return load_model(str(folder), bits=16, rank=0).eval(), theirs.eval()
    torch.manual_seed(0)
    shape = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
    theirs = LlamaForCausalLM(LlamaConfig(vocab_size=32000, max_position_embeddings=2048, **shape)).eval()
    import tempfile

    with tempfile.TemporaryDirectory() as saved:
        theirs.save_pretrained(saved)
        return load_model(saved, bits=16, rank=0).eval(), theirs


def take_turns(task: Task, examples: list[Example], ours, theirs, tokenizer) -> tuple[list[list[float]], int]:
    """(examples per second of ours and theirs in each round, the batch size that suits them best)."""
    peers = {size: HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=size, max_length=2048) for size in BATCHES}
    for peer in peers.values():
        peer._max_length = theirs.config.max_position_embeddings
    requests = instances(task, examples)
    warm = {
        size: seconds(lambda peer=peer: peer.loglikelihood(requests, disable_tqdm=True)) for size, peer in peers.items()
    }
    best = min(warm, key=warm.get)
    calls = [
        lambda: of_maple(task, examples, ours, tokenizer),
        lambda: peers[best].loglikelihood(requests, disable_tqdm=True),
    ]
    calls[0]()
    rates = [[], []]
    for _ in range(ROUNDS):
        for side, call in zip(rates, calls, strict=True):
            side.append(len(examples) / seconds(call))
    return rates, best


def instances(task: Task, examples: list[Example]) -> list[Instance]:
    """What the harness asks: a request for each choice."""
    setting, requests = task.settings["harness"], []
    for example in examples:
        asked = setting.ask(example)
        for place, choice in enumerate(asked.choices):
            requests.append(
                Instance("loglikelihood", {}, (asked.context, setting.delimiter + choice), place, ("", 0, 1))
            )
    return requests


def of_maple(task: Task, examples: list[Example], model, tokenizer) -> None:
    """What `maple.evaluate` does of a task in a language, between its data and its files."""
    setting = task.settings["harness"]
    prompter = Prompter(task.name, setting, "plain", tokenizer, model.config)
    requests = [prompter.request(number, example, []) for number, example in enumerate(examples)]
    score(model, tokenizer, setting, examples[0].language, requests, OUR_BATCH)


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
