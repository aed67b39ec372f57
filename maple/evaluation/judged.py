"""Answers that a judge compares with a reference's: AlpacaEval's two files, and the win rates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec

from maple.errors import InputWarning
from maple.evaluation.results import Results
from maple.evaluation.scoring import Answer
from maple.evaluation.task import Example
from maple.judging.annotations import Output, write_annotations, write_outputs
from maple.judging.judges import Judge, annotate
from maple.judging.length_controlled import NAME, length_controlled_win_rate
from maple.judging.win_rate import WinRate
from maple.metrics.example import Estimate

OUTPUTS, ANNOTATIONS = "model_outputs.json", "annotations.json"


def judged(
    judge: Judge | None,
    generator: str,
    examples: Sequence[Example],
    answers: Sequence[Answer],
    results: Results,
    task: str,
    language: str,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Estimate], list[Answer]]:
    """(win rates, the answers with the preference of each), and the files beside the predictions.

    Without a judge the answers are written, for whoever judges them elsewhere, and there is no win rate.
    """
    outputs = [
        Output(example["dataset"], example["instruction"], answer.output, generator)
        for example, answer in zip(examples, answers, strict=True)
    ]
    write_outputs(results.path(task, language, OUTPUTS), outputs)
    if judge is None:
        return {}, list(answers)
    references = [Output(**{name: example[name] for name in Output.__slots__}) for example in examples]
    annotations = annotate(judge, list(zip(references, outputs, strict=True)), progress)
    write_annotations(results.path(task, language, ANNOTATIONS), annotations)
    metric = WinRate(sync_on_compute=False)  # of several processes only the first judges
    for annotation in annotations:
        metric.update(annotation.preference)
    estimates = metric.compute()
    if find_spec("sklearn") is None:
        message = f"there is no {NAME} win rate without scikit-learn: pip install 'maple-lora[alpaca]'"
        warnings.warn(message, InputWarning, stacklevel=2)
    elif (at_equal_length := length_controlled_win_rate(annotations)) is not None:
        estimates[NAME] = at_equal_length
    scored = [
        answer if one.preference is None else replace(answer, scores={"preference": one.preference})
        for answer, one in zip(answers, annotations, strict=True)
    ]
    return estimates, scored
