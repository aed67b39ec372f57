"""AlpacaEval's two files, read and written."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from maple.errors import InputError
from maple.judging.annotations import (
    Annotation,
    Output,
    read_annotations,
    read_outputs,
    references,
    share,
    write_annotations,
    write_outputs,
)

RECORD = {"dataset": "koala", "instruction": "¿Qué?", "output": "", "generator": "m"}
VERDICT = {
    **{"instruction": "Why?", "output_1": "a", "generator_1": "r", "dataset": "koala", "output_2": "b"},
    **{"generator_2": "m", "annotator": "x", "preference": 1.25},
}


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_real_annotations(annotations):
    read = read_annotations(annotations("alpaca-7b") / "annotations.json")
    # counted in the file
    assert Counter(a.preference for a in read) == {1: 584, 2: 205, 0: 16}
    assert {a.annotator for a in read} == {"alpaca_eval_gpt4"} and read[0].price_per_example == 0.01242
    assert [a for a in read if a.output_1 == a.output_2] == [a for a in read if a.preference == 0]
    outputs = read_outputs(annotations("alpaca-7b") / "model_outputs.json")
    assert [(o.dataset, o.instruction, o.output, o.generator) for o in outputs] == [
        (a.dataset, a.instruction, a.output_2, a.generator_2) for a in read
    ]


def test_the_references_are_those_of_every_annotations_file(annotations):
    first, second = (
        references(read_annotations(annotations(n) / "annotations.json")) for n in ("alpaca-7b", "text_davinci_001")
    )
    assert len(first) == 805 and {o.generator for o in first} == {"text_davinci_003"}
    assert first == second


@pytest.mark.parametrize("name", ["alpaca-7b", "text_davinci_001"])
def test_what_is_written_is_read_again(annotations, tmp_path, name):
    read = read_annotations(annotations(name) / "annotations.json")
    read[0] = replace(read[0], raw_completion={"logprobs": [1.5]}, output_2="\u202e\n")
    write_annotations(tmp_path / "a.json", read)
    assert read_annotations(tmp_path / "a.json") == read
    raw = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert "raw_completion" in raw[0] and "raw_completion" not in raw[1]
    outputs = read_outputs(annotations(name) / "model_outputs.json")
    write_outputs(tmp_path / "o.json", outputs)
    assert read_outputs(tmp_path / "o.json") == outputs


def test_an_output_and_an_annotation(tmp_path):
    assert read_outputs(write(tmp_path / "o.json", [RECORD])) == [Output("koala", "¿Qué?", "", "m")]
    newer = {"preference_price_per_example": 0.5, "preference_raw_completion": "[]", "preference_version": "0.6"}
    [read] = read_annotations(write(tmp_path / "a.json", [VERDICT | newer]))
    assert read == Annotation("Why?", "a", "r", "koala", "b", "m", "x", 1.25, 0.5, None, "[]")


@pytest.mark.parametrize("value", [None, float("nan"), 0, 1, 1.5, 2, 1.0000041])
def test_preferences_that_there_are(tmp_path, value):
    [read] = read_annotations(write(tmp_path / "a.json", [VERDICT | {"preference": value}]))
    assert read.preference == (None if value is None or value != value else value)


def test_shares_of_a_win():
    assert [share(p) for p in (1, 2, 0, 1.5, 1.25)] == [0, 1, 0.5, 0.5, 0.25]


OUTPUTS_REFUSED = [
    ({}, "not a JSON array"),
    ([], "holds no record"),
    ([RECORD, [1]], "record 2: not an object"),
    *(
        ([RECORD, {k: v for k, v in RECORD.items() if k != name}], f"record 2: '{name}' must be text, found nothing")
        for name in RECORD
    ),
    ([RECORD | {"output": None}], "record 1: 'output' must be text, found None"),
    ([RECORD | {"output": "\ud800"}], "'output' holds half of a surrogate pair at character 0"),
]
ANNOTATIONS_REFUSED = [
    *([VERDICT | {"preference": value}] for value in (3, -1, 0.5, "1", True, [1], float("inf"), 10**400)),
    [{k: v for k, v in VERDICT.items() if k != "preference"}],
    [VERDICT | {"output_2": 5}],
    [VERDICT | {"time_per_example": "soon"}],
    *([VERDICT | {"price_per_example": value}] for value in (True, 10**400, -1, float("inf"))),
]


@pytest.mark.parametrize(("content", "words"), OUTPUTS_REFUSED, ids=[words for _, words in OUTPUTS_REFUSED])
def test_a_wrong_record_is_named(tmp_path, content, words):
    path = write(tmp_path / "x.json", content)
    with pytest.raises(InputError) as error:
        read_outputs(path)
    assert str(error.value).startswith(str(path)) and words in str(error.value)


@pytest.mark.parametrize("content", ANNOTATIONS_REFUSED, ids=[str(n) for n in range(len(ANNOTATIONS_REFUSED))])
def test_a_wrong_annotation_is_named(tmp_path, content):
    path = write(tmp_path / "x.json", [VERDICT, *content])
    with pytest.raises(InputError, match="record 2: '") as error:
        read_annotations(path)
    assert str(error.value).startswith(str(path)) and len(str(error.value)) < 400


def test_a_file_that_is_no_json(tmp_path):
    for text in (b"", b"[", b"[" * 100_000, b"\xff"):
        (tmp_path / "x.json").write_bytes(text)
        with pytest.raises(InputError, match=r"x\.json"):
            read_outputs(tmp_path / "x.json")
    with pytest.raises(InputError, match="is missing"):
        read_annotations(tmp_path / "none.json")
