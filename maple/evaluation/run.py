"""An evaluation from its plan to its results: all data read, the model loaded once, one task and language at a time."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedModel

from maple import ranks
from maple.adapter import load_adapter
from maple.data.prompts import check_template
from maple.device import choose_device, with_room
from maple.durable import file_sha256
from maple.evaluation.data import read_examples
from maple.evaluation.judged import judged
from maple.evaluation.plan import Part, Plan
from maple.evaluation.prompting import Prompter, Request
from maple.evaluation.results import FOUND, Results
from maple.evaluation.scoring import score
from maple.evaluation.task import Choice, Example, Question
from maple.evaluation.view import View
from maple.hub import commit_of
from maple.jsonfile import read_object
from maple.loading import loading
from maple.metrics.example import Estimate
from maple.model import check_config, load_model, read_config
from maple.origin import CONFIG as ADAPTER_CONFIG
from maple.origin import WEIGHTS, find_origin
from maple.outputs import CONFIG, write_config
from maple.screen import Screen
from maple.shards import Shards
from maple.tokenizer import load_tokenizer

# Of the settings of a score those that the paper does not publish: they are this project's choice.
OURS = ("setting", "template", "shots", "max_new_tokens", "decoding", "split")
MEASURED = 500  # examples a language whose own text is tokenised to count tokens per character


@dataclass(frozen=True)
class Unit:
    """A task in one language, with its data."""

    part: Part
    language: str
    examples: list[Example]
    drawn: list[Example]  # few-shot examples, and one in reserve for an example that is among them
    data: str  # which file the examples are from
    shots_data: str | None  # and the few-shot ones


class Run:
    """Scores what is planned and not there yet; of several processes each does its share of every task."""

    def __init__(
        self,
        arguments: dict,
        plan: Plan,
        out: Path,
        load: Callable[..., PreTrainedModel] = load_model,
        view: View | None = None,
    ):
        """`load` is called as `load_model`."""
        self.arguments, self.plan, self.out = arguments, plan, out
        self.origin = find_origin(arguments["model"], arguments["adapter"], arguments["revision"])
        self.load_model, self.view = load, view or View(Screen(highlight=False, quiet=not ranks.is_first()))

    def go(self) -> None:
        """Do all of it. Raises InputError for whatever is wrong with model, data, settings or memory."""
        with_room(self.work, self.out_of_memory)

    def out_of_memory(self, reason: str) -> str:
        """The flag that would take less."""
        size = self.arguments["batch_size"]
        return (
            f"out of memory ({reason}); give a smaller --batch-size than {size}, with --resume where something is "
            "scored already"
        )

    def work(self) -> None:
        """Read the data, load the model, and score; what is finished is written at once."""
        self.results = Results(self.out)
        self.read_model()
        # Of several processes each reads: what is wrong each finds by itself, and a download locks its file.
        units = [self.read(part, language) for part in self.plan.parts for language in part.languages]
        left = [
            unit for unit in units if not self.results.has(unit.part.task.name, unit.language, self.settings_of(unit))
        ]
        for unit in left:  # what does not fit the window is told now; kept, they would take 124 MiB a language of XNLI
            self.requests(unit)
        if left:
            self.load()
            if ranks.is_first():
                self.results.begin()
                write_config(self.out / CONFIG, self.arguments)
        with self.view.progress(sum(len(unit.examples) for unit in left)):
            for unit in left:
                self.finish(unit)
        self.view.table(self.results.rows, self.out)

    def read_model(self) -> None:
        """What can be known of the model before its weights are read."""
        arguments, folder = self.arguments, self.origin.folder
        self.device, self.dtype = choose_device(arguments["device"], arguments["precision"])
        check_config(folder, arguments["bits"])
        self.config, self.tokenizer = read_config(folder), load_tokenizer(folder)
        if arguments["template"] != "plain":
            check_template(arguments["template"], self.tokenizer)
        self.prompters = {part.task.name: self.prompter(part) for part in self.plan.parts}
        self.common = {
            **{name: arguments[name] for name in ("model", "adapter", "bits", "template", "batch_size", "seed")},
            **self.of_base(),
            "trained_bits": self.origin.bits,
            **self.of_adapter(),
            "limit": arguments["limit"],
            "precision": str(self.dtype).removeprefix("torch."),
            "decoding": "greedy",
            "ours": list(OURS),
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
        }

    def of_base(self) -> dict:
        """Which base it is: of a hub id the commit, of a folder a hash of its tensors' beginnings."""
        commit = commit_of(self.origin.model, self.origin.folder)
        return {"revision": commit, "fingerprint": None if commit else Shards(self.origin.folder).fingerprint()}

    def of_adapter(self) -> dict:
        """Which adapter it is, whatever its folder is called."""
        if self.arguments["adapter"] is None:
            return {"rank": None, "adapter_sha256": None}
        folder = Path(self.arguments["adapter"]).expanduser()
        return {
            "rank": read_object(folder / ADAPTER_CONFIG).get("r"),
            "adapter_sha256": file_sha256(folder / WEIGHTS),
        }

    def prompter(self, part: Part) -> Prompter:
        """Raises InputError for answers that are longer than the model's window."""
        return Prompter(part.task.name, part.setting, self.arguments["template"], self.tokenizer, self.config)

    def read(self, part: Part, language: str) -> Unit:
        """All rows are checked, also those that --limit leaves away."""
        task, data_dir = part.task, self.plan.data_dir
        if part.setting.metric:
            part.setting.metric(language)  # a package that it lacks is told now
        examples, data = read_examples(task, language, task.split, data_dir)
        drawn, shots_data = [], None
        if part.setting.shots:
            pool, shots_data = examples, data
            if task.shots_split is not None:
                pool, shots_data = read_examples(task, language, task.shots_split, data_dir)
            rng = random.Random(f"{self.arguments['seed']} {task.name} {language}")
            drawn = rng.sample(pool, min(part.setting.shots + 1, len(pool)))
        return Unit(part, language, examples[: self.arguments["limit"]], drawn, data, shots_data)

    def settings_of(self, unit: Unit) -> dict:
        """All that its scores depend on."""
        setting = unit.part.setting
        return self.common | {
            "setting": unit.part.name,
            "source": setting.source,
            "shots": setting.shots,
            "max_new_tokens": setting.max_new_tokens,
            "split": unit.part.task.split,
            "data": unit.data,
            "shots_data": unit.shots_data,
            **({"judge": self.plan.judge and self.plan.judge.name} if unit.part.task.judged else {}),
        }

    def load(self) -> None:
        """The model, with its adapter."""
        arguments = self.arguments
        load_arguments = self.origin.load_arguments(arguments["bits"])
        with loading(self.view.console) as progress:
            self.model = self.load_model(
                **load_arguments, rank=0, device=self.device, dtype=self.dtype, progress=progress
            )
        if arguments["adapter"] is not None:
            load_adapter(self.model, arguments["adapter"])
        self.model.eval()

    def finish(self, unit: Unit) -> None:
        """Score a task in a language and write what was found."""
        task, language, setting = unit.part.task, unit.language, unit.part.setting
        start = time.perf_counter()
        self.view.begin(task.name, language)
        requests, settings = self.requests(unit), self.settings_of(unit)
        estimates, answers = {}, self.results.kept(task.name, language, requests, settings) if task.judged else None
        if answers is None:
            estimates, answers = score(
                self.model, self.tokenizer, setting, language, requests, self.arguments["batch_size"], self.view.advance
            )
        if task.judged and ranks.is_first():  # the others have no part in it
            self.results.write(task.name, language, requests, answers, settings)  # should the judge fail
            estimates, answers = judged(
                self.plan.judge,
                self.generator(),
                unit.examples,
                answers,
                self.results,
                task.name,
                language,
                self.view.judging,
            )
        estimates |= self.counted(requests)
        settings[FOUND] = hashlib.sha256("".join(request.digest for request in requests).encode()).hexdigest()
        if ranks.is_first():
            self.results.add(task.name, language, estimates, settings, requests, answers)
        self.view.end(task.name, language, estimates, len(requests), time.perf_counter() - start)

    def generator(self) -> str:
        """What AlpacaEval's files call the model."""
        adapter = f" + {self.arguments['adapter']}" if self.arguments["adapter"] else ""
        return f"{self.origin.model}{adapter} ({self.arguments['bits']} bits)"

    def requests(self, unit: Unit) -> list[Request]:
        """What the model is given, in the order of the data."""
        prompter, setting = self.prompters[unit.part.task.name], unit.part.setting
        return [
            prompter.request(
                number, example, [setting.ask(shot) for shot in unit.drawn if shot is not example][: setting.shots]
            )
            for number, example in enumerate(unit.examples)
        ]

    def counted(self, requests: Sequence[Request]) -> dict[str, Estimate]:
        """What the model's tokenizer and window made of the language."""
        count = len(requests)
        texts = [_own_text(request.asked) for request in requests[:MEASURED]]
        tokens = sum(map(len, self.tokenizer(texts, add_special_tokens=False)["input_ids"]))
        return {
            "prompts_cut": Estimate(sum(request.cut for request in requests) / count, None, count),
            "shots_kept": Estimate(sum(request.shots for request in requests) / count, None, count),
            "tokens_per_character": Estimate(tokens / sum(map(len, texts)), None, len(texts)),
        }


def _own_text(asked: Choice | Question) -> str:
    """What is in the language: with an empty context the choice is the whole text."""
    return f"{asked.context if isinstance(asked, Choice) else asked.prompt} {asked.target}"
