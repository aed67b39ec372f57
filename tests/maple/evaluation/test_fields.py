"""Rows that are none: each is refused by file, line and field, in one sentence."""

import pytest

from maple.errors import InputError
from maple.evaluation.fields import answers, fields, one_of, passage, string, text

PASSAGE = {"context": "Αβγ δε Αβγ.", "question": "Q?", "answers": {"text": ["Αβγ", "δε"], "answer_start": [7, 4]}}


def test_what_is_right_passes():
    fields(a=text, b=one_of(0, "1"), c=string)({"a": " x", "b": "1", "c": " ", "other": None}, "here")
    fields(b=one_of(0, "1"), c=string)({"b": 0, "c": "x"}, "here")
    passage(exact=True)(PASSAGE, "here")
    passage(exact=False)(PASSAGE | {"answers": {"text": ["δε"], "answer_start": [0]}}, "here")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({}, "here: the field 'text' is missing; known: "),
        ({"txet": "x"}, "here: the field 'text' is missing; did you mean 'txet'?"),
        ({"text": None}, "here: 'text' must be text, found None"),
        ({"text": " \n"}, "here: 'text' is empty, found ' \\n'"),
        ({"text": "a\ud800"}, "here: 'text' holds half of a surrogate pair, found 'a\\ud800'"),
        ({"text": "x", "label": True}, "here: 'label' must be one of 0, 1, '2', found True"),
        ({"text": "x", "label": 1.0}, "here: 'label' must be one of 0, 1, '2', found 1.0"),
        ({"text": "x", "label": 3}, "here: 'label' must be one of 0, 1, '2', found 3"),
        ({"text": "x", "label": "2", "title": 1}, "here: 'title' must be text, found 1"),
    ],
)
def test_a_wrong_field_is_named(row, sentence):
    with pytest.raises(InputError) as error:
        fields(text=text, label=one_of(0, 1, "2"), title=string)(row, "here")
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "must be {'text'"),
        ({"text": ["a"]}, "must be {'text'"),
        ({"text": "a", "answer_start": [0]}, "must be {'text'"),
        ([{"text": "a", "answer_start": 0}], "must be {'text'"),
        ({"text": [], "answer_start": []}, "has no answer in 'text'"),
        ({"text": ["a", "b"], "answer_start": [0]}, "has not as many in 'answer_start' as in 'text'"),
        ({"text": [""], "answer_start": [0]}, "has an answer in 'text' that is empty"),
        ({"text": [1], "answer_start": [0]}, "has an answer in 'text' that must be text"),
        ({"text": ["a"], "answer_start": [-1]}, "has something in 'answer_start' that is no place in the context"),
        ({"text": ["a"], "answer_start": [True]}, "has something in 'answer_start' that is no place in the context"),
        ({"text": ["a"], "answer_start": [0.0]}, "has something in 'answer_start' that is no place in the context"),
    ],
)
def test_wrong_answers(value, reason):
    assert answers(value).startswith(reason)
    with pytest.raises(InputError, match=r"^here: 'answers' "):
        passage(exact=False)(PASSAGE | {"answers": value}, "here")


@pytest.mark.parametrize(
    ("answer", "start", "exact", "sentence"),
    [
        ("δε", 5, True, "here: the answer 'δε' does not stand in the context at its answer_start 5, where 'ε ' is"),
        ("δε", 99, True, "here: the answer 'δε' does not stand in the context at its answer_start 99, where '' is"),
        ("δέ", 4, True, "here: the answer 'δέ' does not stand in the context at its answer_start 4, where 'δε' is"),
        ("δέ", 4, False, "here: the answer 'δέ' does not stand in the context"),
    ],
)
def test_an_answer_that_is_not_where_it_should_be(answer, start, exact, sentence):
    row = PASSAGE | {"answers": {"text": ["Αβγ", answer], "answer_start": [0, start]}}
    with pytest.raises(InputError) as error:
        passage(exact)(row, "here")
    assert str(error.value) == sentence
