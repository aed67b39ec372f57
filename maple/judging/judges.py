"""Who says which of two answers is better, and how a model's answers are put before them.

A win rate means nothing without the name of its judge, so each has one, which stands in every annotation.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from maple.errors import InputError, nearest, shown
from maple.judging.annotations import DRAW, Annotation, Output, read_annotations
from maple.judging.styles import RANKING, STYLES
from maple.judging.threads import in_threads


@dataclass(frozen=True, slots=True)
class Verdict:
    """A preference: 1 for the first answer, 2 for the second, None where the judge's words hold none; and its words."""

    preference: float | None
    raw: str | None
    seconds: float | None
    price: float | None = None


class Judge(Protocol):
    """Prefers one of two answers. It is asked by several threads at once."""

    name: str

    def judge(self, instruction: str, reference: str, output: str) -> Verdict:
        """The verdict, 1 where `reference` is better."""
        ...


class LongestJudge:
    """Prefers the longer answer: what a win rate is worth that length alone explains."""

    name = "longest"

    def judge(self, instruction: str, reference: str, output: str) -> Verdict:
        """By the number of characters; of equal length, neither."""
        difference = len(output) - len(reference)
        return Verdict(DRAW if difference == 0 else 2.0 if difference > 0 else 1.0, None, None)


class RecordedJudge:
    """Repeats the verdicts of an annotations.json."""

    def __init__(self, path: Path):
        annotations = read_annotations(path)
        annotators = ", ".join(sorted({a.annotator for a in annotations}))
        self.path, self.name = path, f"recorded {path} (annotator {annotators})"
        self._verdicts = {(a.instruction, a.output_1, a.output_2): a for a in annotations}

    def judge(self, instruction: str, reference: str, output: str) -> Verdict:
        """The recorded verdict, whichever answer was the reference. Raises InputError where there is none."""
        for first, second, turn in ((reference, output, False), (output, reference, True)):
            found = self._verdicts.get((instruction, first, second))
            if found:
                preference = DRAW if found.preference == 0 else found.preference
                raw = None if found.raw_completion is None else str(found.raw_completion)
                return Verdict(_turned(preference) if turn else preference, raw, found.time_per_example)
        raise InputError(
            f"{self.path} holds no verdict on these two answers to {shown(instruction)}; a recorded judge knows only "
            "what was judged: take 'longest', or the URL of a judge that can be asked"
        )


def choose_judge(text: str, model: str | None = None, style: str | None = None) -> Judge:
    """The judge that a flag names: longest, an annotations.json, or the URL of a server with its model."""
    if "://" in text:
        from maple.judging.endpoint import EndpointJudge, checked_url

        url = checked_url(text)
        if not model:
            raise InputError(f"--judge {url} needs --judge-model, the name of the model that judges")
        style = style or RANKING.name
        if style not in STYLES:
            raise InputError(f"a judge is not asked in the style {style!r}{nearest(style, STYLES)}")
        return EndpointJudge(url, model, style=STYLES[style])
    for flag, value in (("--judge-model", model), ("--judge-style", style)):
        if value:
            raise InputError(f"{flag} {value} belongs to a --judge that is a URL")
    if text == LongestJudge.name:
        return LongestJudge()
    path = os.path.expanduser(text)
    if not os.path.isfile(path):
        raise InputError(
            f"--judge {text}: neither 'longest', nor an annotations.json on this disk, nor a URL like https://host/v1"
        )
    return RecordedJudge(Path(path))


def annotate(
    judge: Judge, pairs: Sequence[tuple[Output, Output]], progress: Callable[[int, int], None] = lambda done, of: None
) -> list[Annotation]:
    """A verdict on each pair (reference, model's answer), in their order.

    Equal answers are a draw that nobody is asked about. `progress` is told how many of how many questions are answered.
    """
    questions = dict.fromkeys(_question(pair) for pair in pairs if pair[0].output != pair[1].output)
    verdicts = in_threads(lambda question: _asked(judge, *question), questions, progress)
    equal = Verdict(DRAW, None, None)
    return [_annotation(judge, *pair, verdicts.get(_question(pair), equal)) for pair in pairs]


def is_turned(instruction: str) -> bool:
    """Whether the model's answer is shown before the reference's: judges prefer a place. Drawn as AlpacaEval does."""
    # Its seed 0 and its name of the column, so that the same answers are asked about in the same words.
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]


def _question(pair: tuple[Output, Output]) -> tuple[str, str, str]:
    reference, answer = pair
    return reference.instruction, reference.output, answer.output


def _asked(judge: Judge, instruction: str, reference: str, output: str) -> Verdict:
    if not is_turned(instruction):
        return judge.judge(instruction, reference, output)
    found = judge.judge(instruction, output, reference)
    return Verdict(_turned(found.preference), found.raw, found.seconds, found.price)


def _turned(preference: float | None) -> float | None:
    return None if preference is None else 3 - preference


def _annotation(judge: Judge, reference: Output, answer: Output, verdict: Verdict) -> Annotation:
    return Annotation(
        instruction=reference.instruction,
        output_1=reference.output,
        generator_1=reference.generator,
        dataset=reference.dataset,
        output_2=answer.output,
        generator_2=answer.generator,
        annotator=judge.name,
        preference=verdict.preference,
        price_per_example=verdict.price,
        time_per_example=verdict.seconds,
        raw_completion=verdict.raw,
    )
