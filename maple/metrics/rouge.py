"""ROUGE-1, ROUGE-2 and ROUGE-L of summaries in any language, as XL-Sum's authors score them.

    F = 2 P R / (P + R)        P = shared / of the prediction        R = shared / of the target

shared counts n-grams as often as both have them, or is the length of the longest common subsequence of words. The
authors print a bootstrap's median of the mean, times 100; here it is the mean.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from maple.metrics.example import ExampleMetric
from maple.metrics.rouge_stemmers import stemmer
from maple.metrics.rouge_tokens import tokenizer, tokens


class Rouge(ExampleMetric):
    """F-measures, 0 to 1, of one language; `zh` for both Chinese scripts, `sr` for both Serbian ones."""

    names = ("rouge1", "rouge2", "rougeL")

    def __init__(self, language: str):
        super().__init__()
        self.language = language
        tokenizer(language), stemmer(language)  # what is missing is said before a model runs

    def score(self, prediction: str, targets: list[str]) -> dict[str, float]:
        """Of one summary against its one target."""
        (target,) = targets
        found, wanted = self.words(prediction), self.words(target)
        return {
            "rouge1": _f_measure((Counter(found) & Counter(wanted)).total(), len(found), len(wanted)),
            "rouge2": _f_measure((_bigrams(found) & _bigrams(wanted)).total(), len(found) - 1, len(wanted) - 1),
            "rougeL": _f_measure(common_subsequence(found, wanted), len(found), len(wanted)),
        }

    def words(self, text: str) -> list[str]:
        """What is compared: the stems of its words. An Arabic word of vowel marks only has none, and is dropped."""
        stem = stemmer(self.language)
        return [found for token in tokens(text, self.language) if (found := stem(token))]


def _bigrams(words: list[str]) -> Counter:
    return Counter(pairwise(words))


def _f_measure(shared: int, found: int, wanted: int) -> float:
    if not shared:
        return 0.0
    precision, recall = shared / found, shared / wanted
    return 2 * precision * recall / (precision + recall)


def common_subsequence(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence: a row of the table at a time, in the bits of one integer.

    Bit i of `row` is 0 where the table grows between columns i and i + 1 (Hyyrö 2004). The next word's matches are
    added to it, and the carry moves each growth to its first match: 60 additions for 150 words against 60.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(a)) - 1
    row = every
    for word in b:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & every
    return len(a) - row.bit_count()
