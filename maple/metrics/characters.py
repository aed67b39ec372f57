"""What becomes of each character of a text, decided when it is first met: Unicode has 1.1 million."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable


class Characters(dict):
    """A table for str.translate from a rule on single characters: what to put in its place, None to drop it."""

    def __init__(self, rule: Callable[[str], str | None]):
        super().__init__()
        self.rule = rule

    def __missing__(self, code: int) -> str | None:
        self[code] = found = self.rule(chr(code))
        return found


def is_punctuation(character: str) -> bool:
    """Unicode's categories P*, and the ASCII signs that Unicode counts as symbols: $+<=>^`|~."""
    return character in string.punctuation or unicodedata.category(character).startswith("P")


_WITHOUT_PUNCTUATION = Characters(lambda character: None if is_punctuation(character) else character)


def without_punctuation(text: str) -> str:
    """The text without any script's punctuation."""
    return text.translate(_WITHOUT_PUNCTUATION)
