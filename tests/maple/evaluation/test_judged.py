"""The answers, the verdicts and the win rates of a judged task."""

import json

import pytest

from maple.errors import InputWarning
from maple.evaluation import judged as judging
from maple.evaluation.judged import judged
from maple.evaluation.results import Results
from maple.evaluation.scoring import Answer
from maple.evaluation.task import Example
from maple.judging.annotations import read_annotations, read_outputs
from maple.judging.judges import LongestJudge, Verdict

REFERENCE = {"dataset": "koala", "output": "four", "generator": "reference", "note": "not AlpacaEval's"}
EXAMPLES = [Example(REFERENCE | {"instruction": f"Say {number}"}, "en", f"rows:{number}") for number in range(4)]
ANSWERS = [Answer(number, text, [], {}) for number, text in enumerate(("longer", "four", "one", "also longer"))]


@pytest.fixture
def results(tmp_path):
    found = Results(tmp_path)
    found.begin()
    return found


def ask(results, judge):
    heard = []
    found = judged(judge, "m", EXAMPLES, ANSWERS, results, "alpaca_eval", "en", lambda *told: heard.append(told))
    return *found, heard


def test_win_rates_annotations_and_the_preference_of_each(results, tmp_path):
    estimates, answers, heard = ask(results, LongestJudge())
    assert estimates["win_rate"][::2] == (100 * 2.5 / 4, 4)
    assert [answer.scores for answer in answers] == [{"preference": p} for p in (2.0, 1.5, 1.0, 2.0)]
    assert [(answer.number, answer.output) for answer in answers] == [(one.number, one.output) for one in ANSWERS]
    outputs = read_outputs(tmp_path / "predictions/alpaca_eval.en.model_outputs.json")
    assert [(one.output, one.generator, one.dataset) for one in outputs] == [(a.output, "m", "koala") for a in ANSWERS]
    annotations = read_annotations(tmp_path / "predictions/alpaca_eval.en.annotations.json")
    assert {(one.output_1, one.generator_1, one.annotator) for one in annotations} == {("four", "reference", "longest")}
    assert heard[-1] == (3, 3), "equal answers are not asked about"


def test_without_a_judge_only_the_answers_are_written(results, tmp_path):
    estimates, answers, heard = ask(results, None)
    assert (estimates, answers, heard) == ({}, ANSWERS, [])
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["alpaca_eval.en.model_outputs.json"]


def test_what_could_not_be_read_has_no_preference(results, tmp_path):
    class Mumbles:
        name = "mumbles"

        def judge(self, instruction, reference, output):
            return Verdict(2.0 if instruction == "Say 0" else None, "hm", 0.5)

    judge = Mumbles()
    estimates, answers, _ = ask(results, judge)
    assert estimates["win_rate"].n == 2 and [bool(answer.scores) for answer in answers] == [True, True, False, False]
    written = json.loads((tmp_path / "predictions/alpaca_eval.en.annotations.json").read_text())
    assert [one["preference"] for one in written][1:] == [1.5, None, None]


def test_without_scikit_learn_a_win_rate_is_missed_and_said(results, monkeypatch):
    monkeypatch.setattr(judging, "find_spec", lambda name: None)
    with pytest.warns(InputWarning, match=r"without scikit-learn: pip install 'maple-lora\[alpaca\]'"):
        estimates, *_ = ask(results, LongestJudge())
    assert estimates.keys() == {"win_rate", "discrete_win_rate"}
