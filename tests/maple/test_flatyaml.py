"""--config holds flags and nothing else, and is looked at before anything is made of it."""

import pytest
import yaml

from maple import cli, flatyaml
from maple.errors import InputError
from maple.flatyaml import flat_load
from tests.maple.test_cli import verb

LAUGHS = "model: &x0 [x, x]\n" + "".join(f"k{n}: &x{n} [*x{n - 1}, *x{n - 1}]\n" for n in range(1, 30))
REFUSED = [
    (LAUGHS, "c.yaml:1 is not YAML of flags: an anchor or alias"),
    ("model: &a x", "c.yaml:1 is not YAML of flags: an anchor or alias where a plain value is needed"),
    ("model: *a", "c.yaml:1 is not YAML of flags: an anchor or alias"),
    ("model: m\nbits: !!python/object/apply:os.system [ls]", "c.yaml:2 is not YAML of flags: a tag"),
    ("model: !!str x", "c.yaml:1 is not YAML of flags: a tag"),
    ("model:\n  name: x", "c.yaml:2 is not YAML of flags: a list, a mapping inside another"),
    ("model: [x]", "c.yaml:1 is not YAML of flags: a list"),
    ("model: m\n---\nbits: 4", "c.yaml:3 is not YAML of flags: a list, a mapping inside another or a second document"),
    ("? [a]\n: b", "c.yaml:1 is not YAML of flags: a list"),
    ("model: m\nbits: 4\nmodel: n", "c.yaml:3: model is there already, in line 1"),
    ("max-steps: 3\nmax_steps: 4", "c.yaml:2: max_steps is there already, in line 1"),
    ("# a comment\nmodel: m\nmodle: n", "c.yaml:3: unknown key 'modle'; did you mean 'model'?"),
    ("config: other.yaml", "c.yaml:1: unknown key 'config'"),
    ("<<: x", "c.yaml:1: unknown key '<<'"),
    ("model: m\nbits: '" + "[" * 40_000 + "'", "c.yaml:2: bits is '[[[["),
    ("[" * 60_000, "c.yaml:1 is not YAML of flags: a list"),
    ("model: m\nmax_steps: 0x" + "f" * 15, ""),
    ("model: m\nmax_steps: 0x" + "f" * 20, "--max-steps is a number of more than 18 digits"),
    ("model: x\n" * 10_000, "more than 65536 bytes"),
    ('model: "x', "c.yaml:1 is not YAML of flags: found unexpected end of stream"),
]


@pytest.mark.parametrize(("content", "words"), REFUSED, ids=[words[:50] for _, words in REFUSED])
def test_what_is_more_than_flags_is_refused_with_its_line(tmp_path, content, words):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    if not words:
        assert cli.parse(verb, ["--config", str(file)])["max_steps"] == 16**15 - 1
        return
    with pytest.raises(InputError) as error:
        cli.parse(verb, ["--config", str(file)])
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"model: \xff")
    with pytest.raises(InputError, match=r"c\.yaml: not UTF-8 .byte 7"):
        cli.parse(verb, ["--config", str(tmp_path / "c.yaml")])
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfmodel: m")  # as Notepad writes it
    assert cli.parse(verb, ["--config", str(tmp_path / "c.yaml")])["model"] == "m"


def test_a_value_of_a_flag_is_a_plain_one_or_text(tmp_path):
    for text in ("[" * 50_000, "&a [*a]", "[qv]_proj", "{a: b}", "a: b", "!!python/name:os.system", "@", "%", "- - -"):
        assert cli.parse(verb, ["--model", text])["model"] == text
    for text in ("[" * 50_000, "1" * 5000, "0x" + "f" * 5000):
        for argv in (["--max-steps", text], [f"--max-steps={text}"], ["--bits", text], ["--rslora", text]):
            with pytest.raises(InputError, match="which is no number and no choice"):
                cli.parse(verb, ["--model", "m", *argv])
    with pytest.raises(InputError, match="--print_config takes no value"):
        cli.parse(verb, ["--model", "m", "--print_config=--"])


@pytest.mark.parametrize("parser", [yaml.SafeLoader, flatyaml.Parser])
def test_both_of_pyyamls_parsers(parser, monkeypatch):
    monkeypatch.setattr(flatyaml, "Parser", parser)
    assert flat_load("a: 1\nb: null\nc: 1e-3") == {"a": 1, "b": None, "c": 1e-3}
    for text in ("a: *b", "[[", "a: [b]", "1" * 5000, "\x00"):
        with pytest.raises(yaml.YAMLError):
            flat_load(text)
