"""The length-controlled win rate beside alpaca_eval's own function."""

import sys
from dataclasses import replace

import pytest

from maple.errors import InputError
from maple.judging.annotations import Annotation, read_annotations
from maple.judging.length_controlled import length_controlled_win_rate

# alpaca_eval 0.6.6, metrics/glm_winrate.py: get_length_controlled_winrate(pandas.DataFrame(<annotations.json>),
# glm_name="length_controlled_minimal", save_weights_dir=None)["length_controlled_winrate"], with scikit-learn 1.9.1 and
# numpy 2.4.6; its download of df_gamed.csv replaced by 805 rows of zeros, of which this form reads nothing.
THEIRS = {"alpaca-7b": (25.77311524982706, 805), "text_davinci_001": (21.135521708207683, 804)}


@pytest.mark.parametrize("name", THEIRS)
def test_it_is_alpaca_evals(annotations, name):
    value, count = THEIRS[name]
    found = length_controlled_win_rate(read_annotations(annotations(name) / "annotations.json"))
    assert found.value == pytest.approx(value, rel=1e-9)
    assert (found.stderr, found.n) == (None, count)


def verdicts(*rows):
    return [Annotation("?", "a" * one, "r", "d", "a" * two, "m", "x", preference) for one, two, preference in rows]


def test_a_preference_for_length_alone_is_taken_away():
    # Whichever answer is longer wins nine times in ten, and of four the model's is longer three times.
    longer, shorter = [(10, 90, 2)] * 9 + [(10, 90, 1)], [(90, 10, 1)] * 9 + [(90, 10, 2)]
    found = verdicts(*[*longer, *longer, *longer, *shorter] * 5)
    assert sum(a.preference - 1 for a in found) / len(found) == pytest.approx(0.7)
    assert length_controlled_win_rate(found).value == pytest.approx(50, abs=2)


@pytest.mark.parametrize(("preference", "value"), [(1, 0), (2, 100), (1.5, 50)])
def test_all_the_same_verdict(capfd, preference, value):
    same = verdicts(*[(10 + n, 20, preference) for n in range(20)])
    assert length_controlled_win_rate(same).value == pytest.approx(value, abs=0.1)
    assert capfd.readouterr() == ("", "")  # liblinear complains there, of a label without weight


def test_few_verdicts_that_length_divides_are_no_warning(recwarn):
    divided = verdicts(*[(10, 90, 2)] * 5, *[(90, 10, 1)] * 5)
    assert 0 <= length_controlled_win_rate(divided).value <= 100
    assert not recwarn.list


def test_answers_that_all_differ_alike_in_length_teach_nothing_about_it():
    assert length_controlled_win_rate(verdicts(*[(10, 20, 1), (10, 20, 2)] * 10)).value == pytest.approx(50, abs=0.1)


def test_of_too_few_verdicts_there_is_none():
    four = verdicts(*[(10, 20, 1), (10, 30, 2)] * 2)
    assert length_controlled_win_rate(four) is None
    assert length_controlled_win_rate([*four, replace(four[0], preference=None)]) is None
    assert length_controlled_win_rate([]) is None


def test_without_scikit_learn_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        length_controlled_win_rate([])
