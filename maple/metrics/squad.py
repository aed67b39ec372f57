"""SQuAD v1.1: exact match, and F1 over a bag of words, after English normalisation, XQuAD in every language.

Thai and Chinese have no blanks, so there F1 is nearly exact match, and 。 is no punctuation here: MLQA's rules
(maple/metrics/mlqa.py) know better, and the published XQuAD figures do not use them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable

from maple.metrics.example import ExampleMetric

_WITHOUT_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_ASCII_PUNCTUATION)).split())


def bag_f1(prediction: list[str], answer: list[str]) -> float:
    """F1 of two bags of tokens: 2 x shared / (all of both), 0 where none is shared."""
    shared = (Counter(prediction) & Counter(answer)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(answer)
    return 2 * precision * recall / (precision + recall)  # the scripts' order of operations, for their last digit


class SquadScore(ExampleMetric):
    """The official script's scores, 0 to 1, the best over all answers.

    empty_equal: where a side has no tokens left, F1 is 1 if the other has none either (transformers, torchmetrics,
    lm-evaluation-harness); the official script says 0.
    prepare: what is done to a prediction first, and not to an answer; MEGA takes `without_punctuation` for XQuAD, and
    for MLQA `mlqa.normalise` of that language.
    """

    names = ("exact_match", "f1")

    def __init__(self, empty_equal: bool = False, prepare: Callable[[str], str] | None = None):
        super().__init__()
        self.empty_equal = empty_equal
        self.prepare = prepare

    def score(self, prediction: str, answers: list[str]) -> dict[str, float]:
        """Of one question."""
        found = normalise(self.prepare(prediction) if self.prepare else prediction)
        wanted = [normalise(answer) for answer in answers]
        return {
            "exact_match": float(found in wanted),
            "f1": max(self._f1(found.split(), answer.split()) for answer in wanted),
        }

    def _f1(self, prediction: list[str], answer: list[str]) -> float:
        if self.empty_equal and not (prediction and answer):
            return float(prediction == answer)
        return bag_f1(prediction, answer)
