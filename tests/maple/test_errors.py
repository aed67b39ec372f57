"""A message is one printable line that ends, whatever it quotes."""

import pytest

from maple.errors import InputError


def test_what_cannot_be_printed_is_escaped():
    assert str(InputError("a\x1b[31mb\nc")) == "a\\x1b[31mb\\nc"


@pytest.mark.parametrize("value", ["f" * 10_000, "\u200b" * 10_000])
def test_a_long_value_loses_its_middle_and_the_sentence_keeps_both_ends(value):
    message = str(InputError(f"--languages {value}; known: de, en"))
    assert len(message) < 4100 and message.isprintable()
    assert message.startswith("--languages ") and message.endswith("; known: de, en")
