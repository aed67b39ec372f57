"""From text to tokens and back: what a tokenizer loses of a language."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass

SNIPPET = 30  # characters of a text around the first that is lost


@dataclass
class Differences:
    """What did not come back of some texts."""

    texts: int = 0
    characters: int = 0
    lost: int = 0  # characters that the text has and what came back has not
    respelt: int = 0  # texts that differ in spaces or in equivalent forms of letters only, as sentencepiece may
    example: str = ""  # of a loss


def differences(tokenizer, texts: list[str]) -> Differences:
    """Send texts through the tokenizer and back.

    Spaces (sentencepiece may join them and put one in front) and equivalent forms of letters (NFKC, which some
    normalise to) are no loss. An unknown token is: nothing of its text comes back.
    """
    found = Differences(texts=len(texts))
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        kept = [i for i in ids if i != tokenizer.unk_token_id]
        back = tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        found.characters += len(_plain(text))
        lost = Counter(_plain(text)) - Counter(_plain(back))
        found.lost += lost.total()
        found.respelt += not lost and back != text
        if lost and not found.example:
            places = (place for place, character in enumerate(text) if lost.keys() & set(_plain(character)))
            first = next(places, 0)  # a letter with its accents apart may be lost as one
            found.example = f"as {text[first]!r} in {text[max(first - SNIPPET, 0) : first + SNIPPET]!r}"
    return found


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())
