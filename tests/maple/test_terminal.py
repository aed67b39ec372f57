"""What reaches a terminal."""

import pytest

from maple.terminal import without_controls


@pytest.mark.parametrize("command", ["\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\r", "\b", "\x7f", "\0"])
def test_what_commands_a_terminal_is_replaced(command):
    shown = without_controls(f"a{command}b")
    assert len(shown) == len(command) + 2 and "\N{REPLACEMENT CHARACTER}" in shown
    assert not set(shown) & set("\x1b\x07\x9b\r\b\x7f\0")


@pytest.mark.parametrize("code", [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xD800, 0xDFFF])
def test_what_reorders_a_line_or_cannot_be_encoded_is_replaced(code):
    """Trojan Source: `admin\u202e...` reads backwards. Half of a surrogate pair would end the program in stdout."""
    shown = without_controls(f"a{chr(code)}b")
    assert shown == "a\N{REPLACEMENT CHARACTER}b" and shown.encode()


@pytest.mark.parametrize(
    "text",
    [
        "one\n\ttwo",
        "\u200fשלום\u200e (ok)",
        "\u061cعربي",
        "🏴\U000e0067\U000e007f",
        "می\u200cخواهم",
        "क\u094d\u200dष",
        "你好\u3000世界",
        "🧑\u200d🚀",
        "a\xa0b",
        "[b]\\",
    ],
)
def test_every_script_stays_as_it_is(text):
    assert without_controls(text) == text
