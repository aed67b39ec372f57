"""What `python -m maple.check` looks at, one thing after the other; what fails hides nothing else."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from maple import ranks
from maple.checkpoint import KEPT
from maple.choices import RECOMPUTE
from maple.data.prompts import check_template
from maple.data.sources import check_data, open_source
from maple.data.tokens import Limits, tokenize
from maple.device import check_count, choose_device
from maple.errors import InputError
from maple.fit import DEFAULT_MAX_LENGTH, apply_recipe, check_logger, check_ranges, fit, limits_of, read_data
from maple.hub import check_model_name, commit_of, looks_like_folder, model_folder
from maple.lora import lora_parameters, match_targets
from maple.memory import MicroBatch, Prediction, Setting, largest, model_without_memory, predict
from maple.model import build_empty, check_config, check_keys, empty_model, read_config
from maple.outputs import RUNS, check_out
from maple.packed_copy import PackedCopy, cache_root, is_worth
from maple.room import advice, available_bytes, choose_recompute, size
from maple.screen import printable
from maple.shards import Shards, announced_bytes
from maple.tokenizer import load_tokenizer
from maple.trips import differences
from maple.weights import linear_shapes, packing

AT_ONCE = KEPT + 1  # checkpoints on the disk: those that are kept, and one that is being written
CHECKPOINT = 3  # of the adapter's size: the adapter, and AdamW's two averages of every number of it
TRIPS = 200  # answers a language that go through the tokenizer and back
LOST = 0.01  # of a language's characters: more than that is no odd emoji but a script the tokenizer cannot write
SHOWN = 400  # characters of a sample's prompt and of its answer
MARGIN = " " * 14
NO_LIMIT = 10**9  # tokens


class Skip(Exception):
    """A check that cannot be made, and why."""


def passes(look: Callable, *values) -> bool:
    """Whether a check finds nothing wrong."""
    try:
        look(*values)
    except InputError:
        return False
    return True


def nearest_folder(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


class Checks:
    """The checks in their order; what one finds out the later ones use."""

    def __init__(self, arguments: dict, quiet: bool = False):
        self.arguments = arguments
        self.console = Console(highlight=False, soft_wrap=True, quiet=quiet)
        self.problems: list[str] = []
        self.device, self.dtype, self.there = "cpu", torch.float32, True  # what the run computes on; is it in here?
        self.folder = self.config = self.shards = self.tokenizer = self.instructions = None
        self.here = True  # the weights
        self.records: dict[str, list] = {}
        self.predicted: Prediction | None = None  # the memory of a step
        self.recompute: str | None = None  # the fastest that fits
        self.adapter_bytes = 0

    def run(self) -> list[str]:
        """Make all checks; the problems that were found."""
        checks: list[tuple[str, Callable[[], list[str]]]] = [
            ("flags", self.flags),
            ("config", self.model_config),
            ("weights", self.weights),
            ("data", self.data),
            ("tokenizer", self.round_trip),
            ("tokens", self.tokens),
            ("a sample", self.sample),
            ("disk", self.disk),
            ("memory", self.memory),
        ]
        for number, (title, look) in enumerate(checks, 1):
            before, mark, lines = len(self.problems), "[green]✓[/]", []
            try:
                lines = look()
            except InputError as error:
                self.problem(error)
            except Skip as reason:
                mark, lines = "[yellow]–[/]", [f"not checked: {reason}"]
            found = self.problems[before:]
            if found:
                mark = "[red]✗[/]"
            first, *others = [*map(printable, found), *lines] or [""]
            self.console.print(f"{mark} {number} {title:<10}{first}")
            for line in others:
                self.console.print(f"{MARGIN}{line}")
        return self.problems

    def problem(self, error: Exception | str) -> None:
        """Note one; the same is not told twice."""
        if str(error) not in self.problems:
            self.problems.append(str(error))

    def attempt(self, function: Callable, *values):
        """Call a check whose failure hides nothing else; None where it fails."""
        try:
            return function(*values)
        except InputError as error:
            self.problem(error)

    def need(self, **things) -> None:
        """Skip what cannot be checked without them."""
        if missing := [name for name, thing in things.items() if not thing]:
            raise Skip(f"needs the {' and the '.join(missing)}")

    # ------------------------------------------------------------------------------------------------------------------

    def flags(self) -> list[str]:
        """Numbers in their ranges, the device, the logger. A number out of range is its default from here on."""
        defaults = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
        self.attempt(check_ranges, self.arguments)
        for name, default in defaults.items():
            if not passes(check_ranges, defaults | {name: self.arguments[name]}):
                self.arguments[name] = default
        apply_recipe(self.arguments)
        self.attempt(ranks.check_devices, self.arguments)
        self.arguments["devices"] = self.arguments["devices"] or 1
        self.attempt(check_count, self.arguments["device"], self.arguments["devices"])
        self.attempt(check_logger, self.arguments["logger"])
        asked = self.arguments["device"], self.arguments["precision"]
        chosen = self.attempt(choose_device, *asked)
        if chosen:
            self.device, self.dtype = chosen[0].type, chosen[1]
        else:  # a GPU was asked for where there is none: what it would need can be said all the same
            self.there, self.device = False, "cuda"
            self.dtype = torch.float32 if self.arguments["precision"] == "fp32" else torch.bfloat16
        return [f"computes on {self.device} in {str(self.dtype).removeprefix('torch.')}"]

    def model_config(self) -> list[str]:
        """config.json; of a hub id the small files are fetched first."""
        name, revision = self.arguments["model"], self.arguments["revision"]
        check_model_name(name, revision)
        self.folder = model_folder(name, revision, weights=False)
        try:
            check_config(self.folder, self.arguments["bits"])
        except InputError as error:
            self.problem(error)
            would_do = [bits for bits in (4, 8) if passes(check_config, self.folder, bits)]
            if not would_do:
                return []
            self.arguments["bits"] = would_do[0]  # a checkpoint that is quantised already, to other bits
        self.config = config = read_config(self.folder)
        return [
            f"{printable(config.model_type)}, {config.num_hidden_layers} layers of {config.hidden_size}, vocabulary "
            f"{config.vocab_size:,}, {config.max_position_embeddings:,} positions"
        ]

    def weights(self) -> list[str]:
        """Keys and shapes of the files' headers against the model of config.json; the layers that --targets names."""
        self.need(config=self.config)
        self.here = looks_like_folder(self.arguments["model"]) or any(self.folder.glob("*.safetensors"))
        self.shards = self.attempt(Shards, self.folder) if self.here else None
        model = build_empty(self.folder, self.shards) if self.shards else empty_model(self.config)
        head = model.get_output_embeddings()
        linear = [
            path for path, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
        ]
        targets = self.attempt(match_targets, linear, self.arguments["targets"])
        if targets is None:
            self.arguments["targets"] = "all-linear"
        if not self.here:
            raise Skip("not downloaded yet; fit compares keys and shapes before it reads a weight")
        if self.shards:
            try:
                check_keys(model, self.shards, hasattr(self.config, "quantization_config"))
            except InputError:
                self.shards = None  # no tensors to be relied on
                raise
            return [f"{len(self.shards.names)} tensors as in config.json; LoRA on {len(targets or [])} layers"]
        return []

    def data(self) -> list[str]:
        """Every record of every language; a wrong line in one language does not hide one in another."""
        check_data(self.arguments["data"], self.arguments["languages"])
        source = open_source(self.arguments["data"], self.arguments["languages"])
        for language in source.languages:
            if records := self.attempt(source.read, language):
                self.records[language] = records[0] + (records[1] or [])
        total = sum(map(len, self.records.values()))
        return [f"{total:,} records in {len(self.records)} languages: {printable(' '.join(self.records))}"]

    def round_trip(self) -> list[str]:
        """Whether the tokenizer writes each language so that it can be read again."""
        self.need(config=self.config)
        self.tokenizer = load_tokenizer(self.folder)
        if not passes(check_template, self.arguments["template"], self.tokenizer):
            self.attempt(check_template, self.arguments["template"], self.tokenizer)
            self.arguments["template"] = "alpaca"
        self.need(data=self.records)
        lines = []
        for language, records in self.records.items():
            found = differences(self.tokenizer, [record.output for record in records[:TRIPS]])
            if found.lost > LOST * found.characters:
                self.problem(
                    f"--model: its tokenizer loses {found.lost:,} of {found.characters:,} characters of {language}, "
                    f"{found.example}; it was not made for that script"
                )
            elif found.lost or found.respelt:
                lines.append(
                    f"{language}: {found.lost} of {found.characters:,} characters do not come back, {found.respelt} of "
                    f"{found.texts} answers come back with other spaces or forms of letters"
                    + (f", {printable(found.example)}" if found.example else "")
                )
        return lines or ["what it writes it reads back, to the letter, in every language"]

    def tokens(self) -> list[str]:
        """Tokens of each language and what is cut of them, as fit would read them; --max-length and --batch-tokens."""
        self.need(config=self.config)
        window = self.config.max_position_embeddings
        if self.attempt(limits_of, self.arguments, window) is None:
            longest = min(DEFAULT_MAX_LENGTH, window)
            self.arguments |= {"max_length": longest, "batch_tokens": max(self.arguments["batch_tokens"], longest)}
        if read := self.attempt(read_data, self.arguments, self.folder):
            self.instructions = read[1]
        self.need(tokenizer=self.tokenizer, data=self.records)
        template = self.arguments["template"]
        limits, unlimited = Limits(self.arguments["max_length"], window), Limits(NO_LIMIT, NO_LIMIT)
        lines = []
        for language, records in self.records.items():
            samples = self.attempt(tokenize, language, records, template, self.tokenizer, limits)
            if samples is None:
                continue
            cut = samples.table["truncated"][:].nonzero()[0]
            kept = int((samples.lengths[cut] - samples.table["prompt_length"][:][cut]).sum())
            whole = (
                tokenize(language, [records[i] for i in cut], template, self.tokenizer, unlimited) if len(cut) else None
            )
            lost = whole.supervised - kept if whole else 0
            lines.append(
                f"{language:<8}{samples.lengths.sum():>12,}{samples.supervised:>12,}"
                f"{samples.truncated_percent:>12.1f} %{100 * lost / (samples.supervised + lost):>14.1f} %"
            )
        header = f"{'':8}{'tokens':>12}{'supervised':>12}{'samples cut':>14}{'of them lost':>16}"
        return [f"at most {limits.max_length:,} of each sample", header, *lines]

    def sample(self) -> list[str]:
        """The first training sample as the model sees it: «what is supervised» and what is not."""
        self.need(tokens=self.instructions)
        language, indices = next(pair for pair in self.instructions.training.items() if len(pair[1]))
        ids, prompt_length = self.instructions.samples[language][indices[0]]
        prompt, answer = (self.tokenizer.decode(part) for part in (ids[:prompt_length], ids[prompt_length:]))
        prompt, answer = (
            text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} [...] {text[-SHOWN // 2 :]}"
            for text in (prompt, answer)
        )
        shown = f"[dim]{printable(prompt)}[/][bold green]«{printable(answer)}»[/]".replace("\n", f"\n{MARGIN}")
        return [f"of {language}; «supervised», {len(ids) - prompt_length} of its {len(ids)} tokens", shown]

    def disk(self) -> list[str]:
        """Where the run writes, and whether what it leaves there has room."""
        self.attempt(check_out, self.arguments["out"], self.arguments["resume"])
        self.need(config=self.config)
        model = model_without_memory(self.arguments, self.config, self.dtype, self.shards)
        self.adapter_bytes = adapter = sum(parameter.nbytes for _, parameter in lora_parameters(model))
        place = nearest_folder(Path(os.path.expanduser(self.arguments["out"] or RUNS)))
        run = adapter * (1 + AT_ONCE * CHECKPOINT)
        needed = {place: run}
        copy, lines = self.packed_copy(), []
        if copy:
            root = nearest_folder(cache_root())
            if lack := copy.lack(root):
                lines.append(f"{printable(lack)}: every start will pack the weights again")
            else:
                lines.append(f"{size(copy.nbytes)} for a packed copy of the model in {printable(str(cache_root()))}")
                disk = place if place.stat().st_dev == root.stat().st_dev else root
                needed[disk] = needed.get(disk, 0) + copy.nbytes
        if not self.here:
            needed[self.folder] = announced_bytes(self.folder)
        for folder, count in needed.items():
            free = shutil.disk_usage(folder).free
            if count > free:
                self.problem(f"{folder}: {size(free)} free, {size(count)} needed; make room or give another --out")
        first = (
            f"{size(run)} for the adapter ({size(adapter)}) and {AT_ONCE} checkpoints, "
            f"{size(shutil.disk_usage(place).free)} free in {printable(str(place))}"
        )
        return [first, *lines]

    def packed_copy(self) -> PackedCopy | None:
        """What the first start would keep of this model; None where there is nothing, or already a copy."""
        shapes, bits = linear_shapes(empty_model(self.config)), self.arguments["bits"]
        if hasattr(self.config, "quantization_config") or not is_worth(shapes, bits):
            return None
        settings = packing(bits, self.arguments["block_size"], self.arguments["double_quant"])
        copy = PackedCopy(self.shards, commit_of(self.arguments["model"], self.folder), shapes, settings)
        return None if copy.exists else copy

    def memory(self) -> list[str]:
        """What a training step takes by part, and whether there is as much."""
        self.need(config=self.config)
        if self.instructions:
            batch = largest(self.instructions.batches)
        else:  # no data to look at: full rows, everything supervised
            longest = min(self.arguments["max_length"] or DEFAULT_MAX_LENGTH, self.config.max_position_embeddings)
            rows = max(self.arguments["batch_tokens"] // longest, 1)
            batch = MicroBatch(rows, longest, rows * longest, rows)
            self.arguments["max_length"] = longest
        setting = Setting(self.arguments, self.config, batch, self.device, self.dtype, self.shards)
        available = available_bytes(torch.device(self.device), self.arguments["devices"]) if self.there else None
        if self.arguments["recompute"] is None:
            fastest = RECOMPUTE[0] if available is None else choose_recompute(setting, available)
            setting = setting.changed(recompute=fastest)
        self.recompute = setting.arguments["recompute"]
        self.predicted = found = predict(setting)
        lines = [f"{part:<22}{size(count):>12}" for part, count in found.parts.items()]
        lines.append(f"{'all tensors':<22}{size(found.total):>12}")
        if self.device == "cpu":
            lines.append(f"{'holes between them':<22}{size(found.holes):>12}")
        first = (
            f"predicted for the largest micro-batch, {batch.rows} x {batch.length} tokens, "
            f"--recompute {setting.arguments['recompute']}"
        )
        if available is None:
            return [f"{first}, on a GPU that is not here", *lines]
        lines.append(f"{'available':<22}{size(available):>12}")
        if found.needed > available:
            self.problem(
                f"the run needs {size(found.needed)} of memory, {size(available)} are available; {advice(setting)}"
            )
        return [first, *lines]
