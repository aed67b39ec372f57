"""What a cell answered, a few examples of each task and language, short enough to read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice

from maple.evaluation.scores import PREDICTIONS
from maple.reporting.reading import Cell

MOST = 3  # of a task and language: forty languages of seven tasks are some 800 of them, a megabyte of text
LONGEST = 280  # characters of each text: a question with the end of its context, or an answer of three sentences


@dataclass(frozen=True)
class Cut:
    """A text that may be part of one, and how many characters of it were left away."""

    text: str
    left: int


@dataclass(frozen=True)
class Sample:
    """One example."""

    prompt: Cut  # its end, where the question is
    output: Cut
    target: Cut
    score: dict[str, float]


def read_samples(cell: Cell) -> dict[str, dict[str, list[Sample]]]:
    """By task and language the first examples of the file, which is not a choice by how good they are.

    Files that the study's reader found damaged, whose items it has not, are left out.
    """
    found: dict[str, dict[str, list[Sample]]] = {}
    for task, language in cell.items:
        with (cell.scores / PREDICTIONS / f"{task}.{language}.jsonl").open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in islice(file, MOST)]
        found.setdefault(task, {})[language] = [_sample(row) for row in rows]
    return found


def _sample(row: dict) -> Sample:
    prompt, output, target = (str(row.get(name) or "") for name in ("prompt", "output", "target"))
    score = {name: value for name, value in row["score"].items() if isinstance(value, int | float)}
    return Sample(Cut(prompt[-LONGEST:], max(0, len(prompt) - LONGEST)), _beginning(output), _beginning(target), score)


def _beginning(text: str) -> Cut:
    return Cut(text[:LONGEST], max(0, len(text) - LONGEST))
