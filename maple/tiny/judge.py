"""A judge that needs no model: the embedded world knows what is right.

It judges the rows of its own `alpaca_eval` and nothing else. A right answer is the value as one would say it, the fact
in any of its three ways, or the last sentence, as the instruction wants; capitals and the full stop do not count.
"""

from __future__ import annotations

from maple.errors import InputError, shown
from maple.judging.annotations import DRAW
from maple.judging.judges import Verdict
from maple.tiny.records import LANGUAGES
from maple.tiny.rows import COUNT, bare, rows

REFERENCE, OUTPUT = 1.0, 2.0  # AlpacaEval's preferences


class TruthJudge:
    """Prefers the answer that is right where the other is not."""

    name = "tiny-truth"

    def __init__(self):
        self.right = {
            row["instruction"]: {normalise(answer) for answer in row["right"]}
            for code in LANGUAGES
            for split in COUNT
            for row in rows("alpaca_eval", code, split)
        }

    def judge(self, instruction: str, reference: str, output: str) -> Verdict:
        """2 where only the output is right, 1 where only the reference is, else 1.5."""
        if instruction not in self.right:
            raise InputError(
                f"the judge {self.name!r} knows the instructions of the embedded world alone, not "
                f"{shown(instruction)}; take another judge"
            )
        right = [normalise(answer) in self.right[instruction] for answer in (reference, output)]
        return Verdict({(True, False): REFERENCE, (False, True): OUTPUT}.get(tuple(right), DRAW), None, None)


def normalise(answer: str) -> str:
    """What is compared: small letters, single blanks, no full stop."""
    return " ".join(bare(answer).casefold().split())
