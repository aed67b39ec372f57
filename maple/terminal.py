"""What may be written to a terminal."""

import unicodedata


def without_controls(text: str) -> str:
    """Text of a data set or a model without the characters that command a terminal (category Cc: ESC, CR, ...).

    Line breaks and tabs stay, and so do the joiners and wide spaces that Persian, Hindi or Chinese are written with.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text
    )
