"""Accuracy where the answers are given: by the likelihood of each, or by what was generated."""

from __future__ import annotations

from maple.metrics.example import ExampleMetric


class ChoiceAccuracy(ExampleMetric):
    """Whether the gold choice is the most likely one, as lm-evaluation-harness has it.

    acc compares log p(choice | context); acc_norm divides it by the choice's length in characters, not in tokens, so
    that models with different tokenizers compare. The first of equals is chosen.
    """

    names = ("acc", "acc_norm")

    def score(self, log_likelihoods: list[float], texts: list[str], gold: int) -> dict[str, float]:
        """`texts` are the choices without the space that joins them to the context: it does not count as length."""
        per_character = [total / len(text) for total, text in zip(log_likelihoods, texts, strict=True)]
        return {"acc": float(_argmax(log_likelihoods) == gold), "acc_norm": float(_argmax(per_character) == gold)}


def _argmax(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


class LabelAccuracy(ExampleMetric):
    """Whether a generated answer is the gold label: MEGA's rule, which forgives blanks around it and nothing else.

    A trailing full stop or another case is a wrong answer.
    """

    names = ("acc",)

    def score(self, output: str, labels: list[str]) -> dict[str, float]:
        """`output` is what was generated, `labels` what would each be right: usually one."""
        return {"acc": float(output.strip() in labels)}
