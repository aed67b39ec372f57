"""What an evaluation leaves: scores.json, and of each task and language its predictions.

    scores.json                              [{task, language, metric, value, stderr, n, settings}, ...]
    predictions/<task>.<language>.jsonl      {number, prompt, output, target, score, ...} of each example

Both grow by one task and language at a time, predictions first: what scores.json names is whole, and a run that was
killed goes on behind it.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

from maple.data.records import lines, parse
from maple.durable import replace_file
from maple.errors import InputError, InputWarning, readable, shown
from maple.evaluation.prompting import Request
from maple.evaluation.scores import PREDICTIONS, SCORES, read_rows
from maple.evaluation.scoring import Answer
from maple.evaluation.task import Choice
from maple.metrics.example import Estimate

FOUND = "prompts_sha256"  # the one setting that is known only when the prompts are made
# What a run may go on without: scores do not depend on the batch size, and the adapter has a hash beside its path.
FREE = (FOUND, "batch_size", "adapter")
TOLD = ("model", "versions")  # for the model stands its revision or fingerprint; other versions are a warning


class Results:
    """The results of a run in its folder, those of an earlier start included."""

    def __init__(self, out: Path):
        self.out, self.rows = out, read_rows(out / SCORES)

    def begin(self) -> None:
        """Make room for predictions; not before, so that a run that is refused leaves nothing."""
        (self.out / PREDICTIONS).mkdir(exist_ok=True)

    def path(self, task: str, language: str, ending: str = "jsonl") -> Path:
        """The file of predictions."""
        return self.out / PREDICTIONS / f"{task}.{language}.{ending}"

    def has(self, task: str, language: str, settings: dict) -> bool:
        """Whether they are there already. Raises InputError where they were made with other settings."""
        rows = self.of(task, language)
        if not rows or not self.path(task, language).is_file():
            return False
        before = rows[0]["settings"]
        if before.get("judge") is None and settings.get("judge") is not None:
            return False  # its answers are there (`kept`), and are judged now
        names = (before.keys() | settings) - {*FREE, *TOLD}
        if other := sorted(
            name for name in names if _without_path(before.get(name)) != _without_path(settings.get(name))
        ):
            raise InputError(
                f"--resume: {task} in {language} was scored with "
                + ", ".join(f"{name} {shown(before.get(name))} and not {shown(settings.get(name))}" for name in other)
                + "; go on with the same, or give another --out"
            )
        if before.get("versions") != settings.get("versions"):
            message = f"--resume: {task} in {language} was scored with other versions: {shown(before.get('versions'))}"
            warnings.warn(message, InputWarning, stacklevel=2)
        return True

    def of(self, task: str, language: str) -> list[dict]:
        """The rows of scores.json of one task and language."""
        return [row for row in self.rows if (row["task"], row["language"]) == (task, language)]

    def add(
        self,
        task: str,
        language: str,
        estimates: dict[str, Estimate],
        settings: dict,
        requests: Sequence[Request],
        answers: Sequence[Answer],
    ) -> None:
        """Write the predictions of a task and language, then its scores."""
        self.write(task, language, requests, answers, settings)
        self.rows = [row for row in self.rows if (row["task"], row["language"]) != (task, language)]
        for metric, estimate in estimates.items():
            # JSON has no NaN, which is what a mean of nothing is
            value = None if math.isnan(estimate.value) else estimate.value
            found = {"value": value, "stderr": estimate.stderr, "n": estimate.n}
            self.rows.append({"task": task, "language": language, "metric": metric, **found, "settings": settings})
        replace_file(self.out / SCORES, json.dumps(self.rows, indent=1, ensure_ascii=False) + "\n")

    def write(
        self, task: str, language: str, requests: Sequence[Request], answers: Sequence[Answer], settings: dict
    ) -> None:
        """Write the predictions of a task and language alone."""
        asked = _asked(settings)
        lines = [_prediction(*one) | {"asked_sha256": asked} for one in zip(requests, answers, strict=True)]
        replace_file(self.path(task, language), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def kept(self, task: str, language: str, requests: Sequence[Request], settings: dict) -> list[Answer] | None:
        """The answers that an earlier start wrote for its judge, if they were asked for alike; else None."""
        path = self.path(task, language)
        if not path.is_file():
            return None
        with readable(path), path.open("rb") as file:
            rows = [parse(line, f"{path}:{number}") for number, line in enumerate(lines(file, str(path)), start=1)]
        expected = [(request.digest, _asked(settings)) for request in requests]
        if [(row.get("prompt_sha256"), row.get("asked_sha256")) for row in rows] != expected:
            return None
        return [Answer(request.number, row["output"], [], {}) for request, row in zip(requests, rows, strict=True)]


def _without_path(value: object) -> object:
    """Of a file that was read its SHA-256: it may lie elsewhere since."""
    return value.rpartition(" sha256:")[2] if isinstance(value, str) else value


def _asked(settings: dict) -> str:
    """SHA-256 of all that answers depend on beside their prompts: not of who judges them."""
    kept = {name: value for name, value in settings.items() if name not in (*FREE, "judge")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _prediction(request: Request, answer: Answer) -> dict:
    line = {"number": answer.number, "prompt": request.prompt, "output": answer.output, "target": request.asked.target}
    if isinstance(request.asked, Choice):
        line |= {"choices": request.asked.choices, "log_likelihoods": answer.log_likelihoods}
    else:
        line |= {"answers": request.asked.answers}
    return line | {"score": answer.scores, "shots": request.shots, "cut": request.cut, "prompt_sha256": request.digest}
