"""lm-evaluation-harness without a network and without a model: what it would ask a model about rows of our own."""

import json
from dataclasses import dataclass
from pathlib import Path

import lm_eval.tasks
from datasets import Dataset, DatasetDict
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from maple.evaluation.task import Choice, Example

FOLDER = Path(lm_eval.tasks.__file__).parent


@dataclass(frozen=True)
class Asked:
    """What it asks about one row."""

    context: str
    continuations: list[str]  # of the choices, each with what joins it to the context; none where it generates
    gold: object  # place of the right choice, or what is to be written
    until: list[str]


class _Offline(ConfigurableTask):
    def __init__(self, config, splits):
        self.splits = splits
        super().__init__(config=config)

    def download(self, *_, **__):
        self.dataset = DatasetDict({name: Dataset.from_list(rows) for name, rows in self.splits.items()})


def harness(config, rows, shot=None, change=None):
    """What its task of a config file, e.g. xnli/xnli_de.yaml, asks about each row, with one few-shot example or none.

    change   of what the file says, before the task is made of it
    """
    # Its function that scores XQuAD imports what transformers had until its version 5; it asks without it.
    read = load_yaml(FOLDER / config, resolve_func=not config.startswith("xquad"))
    (change or (lambda _: None))(read)
    splits = {"train": [shot or rows[0]], "validation": [shot or rows[0]], "test": rows}
    if "test_split" not in read and "training_split" not in read:  # XQuAD: the rows and the examples are of one split
        splits["validation"] = [*rows, shot] if shot else rows
    task = _Offline(read, splits)
    docs = task.test_docs() if task.has_test_docs() else splits["test"]
    return [_asked(task, doc, int(shot is not None)) for doc in docs]


def _asked(task, doc, shots):
    context = task.fewshot_context(doc, num_fewshot=shots)
    requests = task.construct_requests(doc, context, metadata=("", 0, 1))
    if task.OUTPUT_TYPE == "multiple_choice":
        return Asked(context, [request.args[1] for request in requests], task.doc_to_target(doc), [])
    return Asked(context, [], task.doc_to_target(doc), requests.args[1]["until"])


def ours(task, setting, language, rows, shot=None):
    """What we ask, as the same."""
    setting = task.settings[setting]
    asked = []
    before = ""
    if shot is not None:
        example = setting.ask(Example(shot, language, "shot"))
        before = f"{_context(example)}{setting.delimiter}{example.target}{setting.between}"
    for row in rows:
        one = setting.ask(Example(row, language, "row"))
        choices = [setting.delimiter + choice for choice in one.choices] if isinstance(one, Choice) else []
        gold = one.gold if isinstance(one, Choice) else one.target
        asked.append(Asked(before + _context(one), choices, gold, list(setting.stop)))
    return asked


def _context(asked):
    return asked.context if isinstance(asked, Choice) else asked.prompt


def rows_of(file, every=1):
    """The rows of a file of the real data."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()][::every]
