"""The judge that knows what is right in the embedded world."""

import pytest

from maple.errors import InputError
from maple.judging.annotations import DRAW
from maple.tiny.judge import OUTPUT, REFERENCE, TruthJudge
from maple.tiny.records import LANGUAGES
from maple.tiny.rows import rows


@pytest.fixture(scope="module")
def judge():
    return TruthJudge()


def every_row():
    return [row for code in LANGUAGES for split in ("test", "validation") for row in rows("alpaca_eval", code, split)]


def test_it_has_a_name(judge):
    assert judge.name == "tiny-truth"


def test_a_right_answer_wins_unless_the_reference_is_right_too(judge):
    found = set()
    for row in every_row():
        for answer in row["right"]:
            known = row["output"] in row["right"]
            assert judge.judge(row["instruction"], row["output"], answer).preference == (DRAW if known else OUTPUT)
            assert judge.judge(row["instruction"], answer, "?").preference == REFERENCE
            found.add(known)
        assert judge.judge(row["instruction"], "?", "").preference == DRAW
    assert found == {True, False}


def test_instructions_are_of_three_kinds_and_every_one_has_one_truth():
    kinds, right = {"short": 1, "sentence": 3, "repeat": 1}, {}
    for row in every_row():
        assert len(row["right"]) == kinds[row["dataset"]]
        assert right.setdefault(row["instruction"], row["right"]) == row["right"]
    assert {row["dataset"] for row in every_row()} == set(kinds)


def test_the_reference_is_mostly_wrong_and_sometimes_right():
    known = [row["output"] in row["right"] for row in every_row()]
    assert 0.02 < sum(known) / len(known) < 0.2


@pytest.mark.parametrize(("code", "stop"), [("en", "."), ("zh", "。"), ("hi", "।"), ("tr", ".")])
def test_capitals_blanks_and_the_full_stop_do_not_count_and_words_do(judge, code, stop):
    row = next(row for row in rows("alpaca_eval", code, "test") if row["dataset"] == "short")
    (answer,) = row["right"]
    assert answer.endswith(stop)
    for same in (answer.removesuffix(stop), f"  {answer[:1].lower()}{answer[1:]} ", f"{answer}\n"):
        assert judge.judge(row["instruction"], "?", same).preference == OUTPUT
    for other in (f"{answer} {answer}", f"{answer[:-2]}{stop}", row["output"]):
        assert judge.judge(row["instruction"], "?", other).preference == DRAW


def test_what_the_world_never_asked_is_refused(judge):
    with pytest.raises(InputError, match=r"tiny-truth.*Write a poem.*another judge"):
        judge.judge("Write a poem", "a", "b")
