"""Fine-tune a model with LoRA on instructions.

    python -m maple.fit --rank 32 --bits 4
    python -m maple.fit --model mistralai/Mistral-7B-v0.1 --data bactrian-x-22 --rank 32 --bits 4
    python -m maple.fit --config configs/mistral-7b.yaml --bits 8 --out runs/eight

Everything that can be wrong with flags, files and data is found before weights are read, and a run that ends before its
training begins leaves nothing behind. What a run leaves is listed in the README.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from maple import cli, ranks, tiny
from maple.choices import Bits, BlockSize, Device, Precision, Recompute, Strategy, Template
from maple.data.sources import check_data, open_source
from maple.errors import InputError
from maple.hub import check_model_name, commit_of, model_folder
from maple.outputs import check_out, claim, own_flags
from maple.terminal import without_controls

DEFAULT_MAX_LENGTH = 2048  # tokens; all of Alpaca and MultiAlpaca fits, and a row of it fits every GPU
DEFAULT_WARMUP = 0.03  # of the steps, as in QLoRA (arXiv 2305.14314, appendix B)
# Where a flag is not given: for models of billions of parameters, and for the embedded one of a million.
RECIPE = {"lr": 2e-4, "batch_tokens": 8192}  # lr: QLoRA's for 7B and 13B
# Mean exact match of seed 0: .30 in 42 s of one core; .28 at 1e-2, .27 at 2,048 tokens. Not taken: 512 tokens, .31,
# within the noise, and two epochs, .33 in 77 s.
TINY_RECIPE = {"lr": 5e-3, "batch_tokens": 1024}


def fit(
    model: str = "tiny",
    data: str = "tiny",
    rank: int = 32,
    bits: Bits = 4,
    out: str | None = None,
    alpha: float | None = None,
    rslora: bool = False,
    dropout: float = 0.0,
    targets: str = "all-linear",
    block_size: BlockSize = 64,
    double_quant: bool = True,
    lr: float | None = None,
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup_steps: int | None = None,
    max_steps: int | None = None,
    epochs: int = 1,
    batch_tokens: int | None = None,
    accumulate: int = 1,
    max_length: int | None = None,
    seed: int = 0,
    english_share: float | None = None,
    temperature: float = 1.0,
    language_cap: int | None = None,
    languages: str | None = None,
    template: Template = "alpaca",
    revision: str | None = None,
    device: Device = "auto",
    devices: int | None = None,
    strategy: Strategy = "auto",
    precision: Precision = "auto",
    compile: bool = False,
    recompute: Recompute | None = None,
    logger: Literal["csv", "tensorboard"] = "csv",
    checkpoint_every: int = 100,
    resume: bool = False,
) -> None:
    """Fine-tune a causal language model in 4, 8 or 16 bits with LoRA, on instructions in one or many languages.

    model: tiny (embedded), a folder with config.json and safetensors, or a hub id
    data: tiny, tiny-half, tiny-en, alpaca, multialpaca, bactrian-x-11, bactrian-x-22, a .jsonl file or a folder of them
    rank: of every LoRA pair, 8 to 128 in the MAPLE paper
    bits: of the frozen weights: 4 is NF4, 8 is int8 per row, 16 is the checkpoint as it is
    out: folder of the run; by default a fresh numbered one under runs/
    alpha: LoRA is scaled by alpha / rank; by default alpha is the rank
    rslora: scale by alpha / sqrt(rank) instead
    dropout: on the input of A, 0 to below 1
    targets: all-linear, attention, qv, names like q_proj,v_proj, or a regular expression of module paths
    block_size: weights that share one absmax in NF4
    double_quant: quantise the absmax to 8 bits too (4.127 instead of 4.5 bits a weight at block size 64)
    lr: peak learning rate of AdamW; by default 2e-4, for the embedded model 5e-3
    schedule: after the warm-up
    warmup_steps: linear warm-up; by default 3 % of the steps
    max_steps: optimizer steps; by default as many as the epochs take
    epochs: passes over the mixture of languages, where max-steps does not say otherwise
    batch_tokens: tokens of one micro-batch, padding included; by default 8192, for the embedded model 1024
    accumulate: micro-batches to one optimizer step
    max_length: tokens of the longest sample; by default 2048, or the model's positions where they are fewer
    seed: of the LoRA initialisation, the order of the data and dropout
    english_share: fraction of the records of an epoch that is English, 0 to 1; by default what the data has
    temperature: 1 keeps the languages' natural shares, larger flattens them: p ~ n^(1/temperature)
    language_cap: use at most this many records of each language
    languages: codes of the languages to use, as de,sw; by default all (of bactrian-x-22, which has 52, 22)
    template: prompt format; the adapter must be used with the same
    revision: branch, tag or commit of a hub id
    device: auto takes a GPU where there is one
    devices: GPUs, or processes on a CPU, that share each step; by default 1, or as many as torchrun or SLURM started
    strategy: of several devices; ddp has the whole model on each, fsdp a share of it; auto is ddp
    precision: what the model computes in; auto is float32 on a CPU and bfloat16 on a GPU that has it
    compile: let torch.compile fuse what lies between the products; the first steps take a minute more
    recompute: in the backward pass: none, selective (all but products and attention), layer (all but the input of each
        layer); by default the fastest that fits into memory
    logger: metrics.csv is always written; tensorboard adds its event files
    checkpoint_every: optimizer steps from one checkpoint to the next; one more is written when the run is stopped
    resume: go on with the run in --out from its last checkpoint; its own flags need not be given again
    """
    arguments = dict(locals())
    check_ranges(arguments)
    check_model_name(model, revision)
    check_data(data, languages)
    check_out(out, resume)
    check_logger(logger)
    apply_recipe(arguments)
    ranks.check_devices(arguments)
    if arguments["devices"] > 1 and ranks.here().world == 1:
        from maple.launch import launch

        names = without_controls(f"{arguments['model']} on {arguments['data']}")
        launch(arguments, "maple.fit", f"Fine-tuning {names}")
    else:
        run(arguments)


def check_logger(logger: str) -> None:
    """Raise InputError for a logger whose package is not there."""
    if logger == "tensorboard" and find_spec("tensorboard") is None:
        raise InputError("--logger tensorboard: the package is not installed; pip install tensorboard")


def apply_recipe(arguments: dict) -> None:
    """Fill in the flags that were not given and whose value depends on the model."""
    for name, value in (TINY_RECIPE if arguments["model"] == tiny.NAME else RECIPE).items():
        if arguments[name] is None:
            arguments[name] = value


def check_ranges(arguments: dict) -> None:
    """Refuse numbers that cannot be meant, all of them in one message."""
    at_least_one = ("rank", "max_steps", "epochs", "batch_tokens", "accumulate", "max_length", "language_cap")
    at_least_one += ("checkpoint_every", "devices")
    rules = [(name, lambda v: v >= 1, "at least 1") for name in at_least_one]
    rules += [(name, lambda v: v < 2**31, "below 2147483648") for name in at_least_one]
    rules += [
        ("rank", lambda v: v <= 4096, "at most 4096"),
        ("alpha", lambda v: 0 < v < math.inf, "above 0"),
        ("lr", lambda v: 0 < v <= 1, "above 0 and at most 1"),
        ("warmup_steps", lambda v: v >= 0, "at least 0"),
        ("seed", lambda v: 0 <= v < 2**32, "from 0 to 4294967295"),
        ("dropout", lambda v: 0 <= v < 1, "at least 0 and below 1"),
        ("english_share", lambda v: 0 <= v <= 1, "from 0 to 1"),
        ("temperature", lambda v: 1 <= v < math.inf, "at least 1"),
    ]
    wrong = [
        f"--{name.replace('_', '-')} is {arguments[name]}, must be {allowed}"
        for name, holds, allowed in rules
        if arguments[name] is not None and not holds(arguments[name])
    ]
    if wrong:
        raise InputError("; ".join(wrong))


def run(arguments: dict) -> None:
    """Claim the folder of the run, read the data, and train there; of several processes each its part."""
    names = without_controls(f"{arguments['model']} on {arguments['data']}")
    if arguments["devices"] == 1:
        with claim(arguments["out"], arguments["resume"]) as out:
            print(f"Fine-tuning {names}; loading PyTorch, Lightning and transformers ...", flush=True)
            work(arguments, out)
    else:
        from maple.devices import joined

        with joined(arguments, "maple.fit") as out:
            work(arguments, out)


def work(arguments: dict, out: Path) -> None:
    """Read the data, and train in the folder of the run."""
    from maple.quiet import quieten
    from maple.screen import Screen

    quieten()
    prepare(arguments, out, Screen(highlight=False, quiet=not ranks.is_first())).go()


def prepare(arguments: dict, out: Path, console, **more):
    """The Run that trains in `out`, its data read; `more` is what Run takes beside."""
    from maple.devices import first_then_others
    from maple.run import Run
    from maple.summary import show_data

    folder = model_folder(arguments["model"], arguments["revision"], weights=False)
    arguments["revision"] = commit_of(arguments["model"], folder)
    with first_then_others():
        tokenizer, instructions = read_data(arguments, folder)
    show_data(console, instructions)
    arguments["alpha"] = arguments["alpha"] or arguments["rank"]
    prepared = Run(arguments, out, console, tokenizer, instructions, **more)
    if arguments["warmup_steps"] is None:
        arguments["warmup_steps"] = math.ceil(DEFAULT_WARMUP * prepared.total_steps)
    return prepared


def read_data(arguments: dict, folder: Path):
    """(tokenizer, Instructions) of a model folder and --data."""
    from maple.data.instructions import Instructions
    from maple.model import check_config, read_config
    from maple.tokenizer import load_tokenizer

    check_config(folder, arguments["bits"])
    config = read_config(folder)
    limits = limits_of(arguments, config.max_position_embeddings)
    tokenizer = load_tokenizer(folder)
    source, devices = open_source(arguments["data"], arguments["languages"]), arguments["devices"]
    arguments["data"] = source.data
    instructions = Instructions(
        source,
        tokenizer,
        template=arguments["template"],
        limits=limits,
        batch_tokens=arguments["batch_tokens"],
        seed=arguments["seed"],
        temperature=arguments["temperature"],
        english_share=arguments["english_share"],
        language_cap=arguments["language_cap"],
        epochs=arguments["epochs"],
        micro_batches=arguments["max_steps"] and arguments["max_steps"] * arguments["accumulate"] * devices,
    )
    instructions.deal(ranks.here().number, devices)
    instructions.check_vocabulary(config.vocab_size)
    return tokenizer, instructions


def limits_of(arguments: dict, window: int):
    """How long a sample may be, with --max-length filled in. Raises InputError with all that does not go together."""
    from maple.data.tokens import Limits

    asked, batch = arguments["max_length"], arguments["batch_tokens"]
    longest = min(asked or DEFAULT_MAX_LENGTH, window)
    wrong = []
    if asked and asked > window:
        wrong.append(f"--max-length {asked} is more than the {window} positions of the model")
    if batch < longest:
        wrong.append(f"--batch-tokens {batch} is less than one row of --max-length {longest} tokens")
    if wrong:
        raise InputError("; ".join(wrong))
    arguments["max_length"] = longest
    return Limits(longest, window)


if __name__ == "__main__":
    cli.main(fit, under=own_flags)
