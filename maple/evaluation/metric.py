"""The metrics that tasks are scored by, of a language.

Each is imported when it is asked for: torchmetrics imports torch, and a wrong flag is to be told before that.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maple.metrics.example import ExampleMetric


def choices(language: str) -> ExampleMetric:
    """Of the likelihood of choices."""
    from maple.metrics.choices import ChoiceAccuracy

    return ChoiceAccuracy()


def labels(language: str) -> ExampleMetric:
    """Of a label that was written."""
    from maple.metrics.choices import LabelAccuracy

    return LabelAccuracy()


def squad(language: str) -> ExampleMetric:
    """By the rules of transformers, which lm-evaluation-harness takes: two empty answers are equal."""
    from maple.metrics.squad import SquadScore

    return SquadScore(empty_equal=True)


def squad_as_mega(language: str) -> ExampleMetric:
    """By the official rules, and of a prediction, not of an answer, all punctuation is dropped first."""
    from maple.metrics.characters import without_punctuation
    from maple.metrics.squad import SquadScore

    return SquadScore(prepare=without_punctuation)


def mlqa(language: str) -> ExampleMetric:
    """By the rules of MLQA's authors for the language of the context, in which the answer stands.

    Of Arabic by the rule with the corrected article too: theirs removes it from within words.
    """
    from maple.metrics.mlqa import MLQABothArabic, MLQAScore

    return MLQABothArabic() if base(language) == "ar" else MLQAScore(base(language))


def mlqa_as_mega(language: str) -> ExampleMetric:
    """SQuAD's official rules, and a prediction, not an answer, goes through MLQA's first."""
    from maple.metrics.mlqa import normalise
    from maple.metrics.squad import SquadScore

    return SquadScore(prepare=partial(normalise, language=base(language)))


def rouge(language: str) -> ExampleMetric:
    """By the rules of XL-Sum's authors; scripts of a language share them."""
    from maple.metrics.rouge import Rouge

    return Rouge(base(language))


def base(code: str) -> str:
    """zh of zh-Hant; of MLQA's pair de-en the language of the context."""
    return code.partition("-")[0]
