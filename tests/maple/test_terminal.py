"""What reaches a terminal."""

import pytest

from maple.terminal import without_controls


@pytest.mark.parametrize("command", ["\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\r", "\b", "\x7f", "\0"])
def test_what_commands_a_terminal_is_replaced(command):
    shown = without_controls(f"a{command}b")
    assert len(shown) == len(command) + 2 and "\N{REPLACEMENT CHARACTER}" in shown
    assert not set(shown) & set("\x1b\x07\x9b\r\b\x7f\0")


@pytest.mark.parametrize(
    "text", ["one\n\ttwo", "می\u200cخواهم", "क\u094d\u200dष", "你好\u3000世界", "🧑\u200d🚀", "a\xa0b", "[b]\\"]
)
def test_every_script_stays_as_it_is(text):
    assert without_controls(text) == text
