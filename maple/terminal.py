"""What may be written to a terminal."""

import unicodedata

# Embeddings, overrides and isolates of the bidirectional algorithm: they make the rest of a line read in another order
# than it is in ("Trojan Source", arXiv 2111.00169), and no text needs them to be read. What Arabic, Persian and Hindi
# are written with stays: joiners, and the marks U+200E, U+200F and U+061C, which act as one letter would.
REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Cc: ESC, CR, ...; Cs: half of a surrogate pair, which stdout cannot encode. (Cn, Co and the rest only look odd.)
COMMANDING = ("Cc", "Cs")


def without_controls(text: str) -> str:
    """Text of a data set or a model without the characters that command a terminal or reorder what it shows.

    Line breaks and tabs stay, and so does all that Persian, Hindi or Chinese are written with.
    """
    return "".join("\N{REPLACEMENT CHARACTER}" if _commands(c) else c for c in text)


def _commands(c: str) -> bool:
    return c in REORDERING or (unicodedata.category(c) in COMMANDING and c not in "\n\t")
