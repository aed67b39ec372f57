"""The win rate of the files that AlpacaEval published, to its digits."""

import math

import pytest
import torch

from maple.judging.annotations import read_annotations
from maple.judging.win_rate import WinRate

# win_rate, standard_error, n_total and discrete_win_rate as they stand in alpaca_eval 0.6.6's
# leaderboards/data_AlpacaEval/alpaca_eval_gpt4_leaderboard.csv
LEADERBOARD = {
    "alpaca-7b": (26.459627329192543, 1.535711469748, 805, 26.459627329192543),
    "text_davinci_001": (15.17412935323383, 1.235107892276849, 804, 15.17412935323383),  # one verdict is null
}


def win_rate(preferences):
    metric = WinRate()
    for preference in preferences:
        metric.update(preference)
    return metric.compute()


@pytest.mark.parametrize("name", LEADERBOARD)
def test_real_annotations_give_the_leaderboards_numbers(annotations, name):
    rate, stderr, count, discrete = LEADERBOARD[name]
    found = win_rate(a.preference for a in read_annotations(annotations(name) / "annotations.json"))
    assert found["win_rate"].value == pytest.approx(rate, rel=1e-14)
    assert found["win_rate"].stderr == pytest.approx(stderr, rel=1e-13)
    assert found["win_rate"].n == found["discrete_win_rate"].n == count
    assert found["discrete_win_rate"].value == pytest.approx(discrete, rel=1e-14)


def test_preferences_between_1_and_2():
    found = win_rate([1.1, 1.5, 1.6, 2.0, 0, None])
    # (0.1 + 0.5 + 0.6 + 1 + 0.5) / 5; squares of the distances from 0.54: 0.1936 + 0.0016 + 0.0036 + 0.2116 + 0.0016
    assert found["win_rate"].value == pytest.approx(54)
    assert found["win_rate"].stderr == pytest.approx(100 * math.sqrt(0.412 / 4 / 5))
    # a loss, a draw, a win, a win, a draw: 3 of 5; squares of the distances from 0.6: 0.36 + 0.01 + 0.16 + 0.16 + 0.01
    assert found["discrete_win_rate"].value == pytest.approx(60)
    assert found["discrete_win_rate"].stderr == pytest.approx(100 * math.sqrt(0.7 / 4 / 5))


def test_one_verdict_has_no_error_and_none_has_no_value():
    assert win_rate([2])["win_rate"] == (100, None, 1)
    none = win_rate([None])["win_rate"]
    assert math.isnan(none.value) and none[1:] == (None, 0)


def test_equal_verdicts_have_no_spread():
    assert win_rate([1.1] * 1000)["win_rate"].stderr < 1e-6


def test_states_of_several_processes_add_up():
    preferences = [1, 2, 0, 1.3, None, 1.7, 2]
    whole, parts = win_rate(preferences), [WinRate(), WinRate()]
    for number, preference in enumerate(preferences):
        parts[number % 2].update(preference)
    both = WinRate()
    both.update(None)  # so that torchmetrics takes it for used
    for name, reduce in both._reductions.items():
        assert getattr(both, name).dtype == torch.float64
        setattr(both, name, reduce(torch.stack([getattr(part, name) for part in parts])))
    assert both.compute() == whole
