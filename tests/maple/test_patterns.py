"""Patterns that somebody else wrote: Python's own `re`, but for what takes for ever."""

import re
import time

import pytest

from maple import patterns
from maple.errors import InputError
from maple.patterns import first_matches

NAMES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
PATHS = [f"model.layers.{n}.{name}" for n in range(3) for name in NAMES]
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|up_proj)))"
)


@pytest.mark.parametrize("pattern", [".*q_proj", UNSLOTH, r"(?!.*layers\.1\.).*mlp\..*", "(?i).*UP_PROJ", "(a+)+", ""])
def test_a_pattern_matches_what_re_matches(pattern):
    expected = [0 if re.fullmatch(pattern, path) else None for path in PATHS]
    assert first_matches([pattern], PATHS, "x") == expected


def test_the_first_pattern_of_an_end_decides():
    keys = ["q_proj", r"layers\.1\..*", "up_proj", ".*"]
    expected = [next(n for n, key in enumerate(keys) if re.match(rf"(.*\.)?({key})$", path)) for path in PATHS]
    assert first_matches(keys, PATHS, "x", ends=True) == expected
    assert first_matches([], PATHS, "x") == [None] * len(PATHS)


@pytest.mark.parametrize("pattern", [r"(\w+\.?)+!", "(.|[a-z])*!", r".*.*.*.*.*.*.*.*.*.*.*.*!", r"(.+)+\1!"])
def test_a_pattern_that_takes_for_ever_is_ended(pattern):
    started = time.monotonic()
    with pytest.raises(InputError, match=r"x: matching .* takes more than 1.5 s"):
        first_matches([pattern], PATHS, "x")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("pattern", ["((", "*", "a{99999999999}", "(" * 5000, "[", "(?<=.*)a", "\\", "a(?i)b"])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(InputError, match=r"x: .* is no regular expression") as error:
        first_matches([pattern], PATHS, "x")
    assert len(str(error.value)) < 300


def test_there_are_not_more_patterns_than_layers_of_any_model():
    with pytest.raises(InputError, match="4097 patterns"):
        first_matches(["a"] * (patterns.MOST + 1), PATHS, "x")


def test_those_of_a_large_model_are_quick():
    paths = [f"model.layers.{n}.mlp.{m}_proj" for n in range(80) for m in range(7)]
    started = time.monotonic()
    assert first_matches([path.replace(".", r"\.") for path in paths], paths, "x", ends=True) == list(range(560))
    assert time.monotonic() - started < patterns.SECONDS
