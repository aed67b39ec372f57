"""MLQA v1: SQuAD's scores with each language's own articles and words, by the rules of its authors' script.

(facebookresearch/MLQA, mlqa_evaluation_v1.py.)
"""

from __future__ import annotations

import re

from maple.errors import InputError, nearest
from maple.metrics.characters import without_punctuation
from maple.metrics.example import ExampleMetric
from maple.metrics.squad import bag_f1

# What becomes a blank. Hindi and Chinese have no articles.
ARTICLES = {
    "ar": "ال",  # the authors wrote \sال^|ال: `^` never matches behind a character, so the rest removes ال anywhere
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "hi": None,
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "zh": None,
}
CORRECTED_ARABIC = r"(?:^|\s)ال"  # lm-evaluation-harness: only where a word begins
_CHINESE = re.compile("([\u4e00-\u9fa5])")  # each is a word; what lies between them is split at blanks


def normalise(text: str, language: str, corrected_arabic: bool = False) -> str:
    """What is compared of a prediction and an answer: words with single blanks between them."""
    text = without_punctuation(text.lower())  # before the articles: "l'a" has lost its apostrophe by then
    articles = CORRECTED_ARABIC if corrected_arabic and language == "ar" else ARTICLES[language]
    if articles:
        text = re.sub(articles, " ", text)
    if language == "zh":
        text = _CHINESE.sub(r" \1 ", text)
    return " ".join(text.split())


class MLQAScore(ExampleMetric):
    """Exact match and F1, 0 to 1, the best over all answers, in the language of the context.

    corrected_arabic: remove the article only where a word begins, as lm-evaluation-harness does since its v0.1.
    """

    names = ("exact_match", "f1")

    def __init__(self, language: str, corrected_arabic: bool = False):
        if language not in ARTICLES:
            raise InputError(f"MLQA has no rules for the language {language!r}{nearest(language, ARTICLES)}")
        super().__init__()
        self.rules = (language, corrected_arabic)

    def score(self, prediction: str, answers: list[str]) -> dict[str, float]:
        """Of one question."""
        found = normalise(prediction, *self.rules)
        wanted = [normalise(answer, *self.rules) for answer in answers]
        return {
            "exact_match": float(found in wanted),
            "f1": max(bag_f1(found.split(), answer.split()) for answer in wanted),
        }


class MLQABothArabic(ExampleMetric):
    """Of Arabic the authors' scores and, under names of their own, those with the corrected article."""

    names = ("exact_match", "f1", "exact_match_corrected", "f1_corrected")

    def __init__(self):
        super().__init__()
        self.official, self.corrected = MLQAScore("ar"), MLQAScore("ar", corrected_arabic=True)

    def score(self, prediction: str, answers: list[str]) -> dict[str, float]:
        """Of one question."""
        corrected = self.corrected.score(prediction, answers)
        return self.official.score(prediction, answers) | {f"{name}_corrected": s for name, s in corrected.items()}
