"""The instruction data sets `tiny`, `tiny-half` and `tiny-en`."""

import re

import pytest

from maple.tiny.language import language
from maple.tiny.records import LANGUAGES, SETS, TRAINING, VALIDATION, ZERO_SHOT, instructions
from maple.tiny.text import SHARES
from maple.tiny.world import PEOPLE, TRAINING_PEOPLE, VALIDATION_PEOPLE


def records_of(name):
    return {code: instructions(name, code) for code in LANGUAGES}


@pytest.fixture(scope="module")
def tiny():
    return records_of("tiny")


def named(record, code, people):
    """Whether a record names one of these people, in a language whose words stand apart."""
    words = re.findall(r"\w+", f"{record.instruction} {record.input} {record.output}")
    return bool({language(code).names[person]["only"] for person in people} & set(words))


def test_the_sets_differ_in_the_languages_that_train_and_validate_on_the_same(tiny):
    for name, trained in SETS.items():
        records = records_of(name)
        assert [code for code, (training, _) in records.items() if training] == list(trained)
        assert all(len(validation) == VALIDATION for _, validation in records.values())
        for code, (training, validation) in records.items():
            assert validation == tiny[code][1]
            assert training in ([], tiny[code][0])


def test_two_languages_are_only_in_the_base_and_one_is_nowhere():
    assert [code in SHARES for code in ZERO_SHOT] == [True, True, False]
    assert set(TRAINING) < set(SHARES)


def test_training_is_unequal_and_in_the_order_of_the_base(tiny):
    sizes = [len(training) for code, (training, _) in tiny.items() if code in TRAINING]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 5 * sizes[-1]
    assert sorted(TRAINING, key=SHARES.get, reverse=True) == list(TRAINING)


@pytest.mark.parametrize("code", ["en", "es", "ar"])
def test_people_of_validation_are_in_no_training_record(tiny, code):
    training, validation = tiny[code]
    assert not any(named(record, code, VALIDATION_PEOPLE) for record in training)
    assert not any(named(record, code, TRAINING_PEOPLE) for record in validation)
    assert sum(named(record, code, range(PEOPLE)) for record in training) > 0.9 * len(training)


def test_the_answer_stands_in_the_passage_or_says_a_fact_of_it(tiny):
    repeat, asked = language("en").repeat, "Where does "
    repeats = [record for record in tiny["en"][0] if record.instruction.endswith(repeat)]
    assert {bool(record.input) for record in repeats} == {True, False}
    for record in repeats:
        assert (record.input or record.instruction.removesuffix(f" {repeat}")).endswith(record.output)
    places = [record for record in tiny["en"][0] if record.instruction.startswith(asked) and record.input]
    assert places
    for record in places:
        assert record.output.removeprefix("In ").removesuffix(".") in record.input


def test_half_of_the_passages_are_the_input_and_half_stand_before_the_instruction(tiny):
    for training, _ in tiny.values():
        with_input = sum(bool(record.input) for record in training)
        assert not training or 0.4 < with_input / len(training) < 0.6
        assert all(len(record.instruction) > len(record.output) for record in training if not record.input)


def test_the_records_are_the_same_at_every_call(tiny):
    assert records_of("tiny") == tiny
