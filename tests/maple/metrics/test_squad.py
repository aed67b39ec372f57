"""SQuAD v1.1 beside torchmetrics and the harness."""

import random

import pytest
from lm_eval.tasks.afrobench.afriqa.prompt_1.utils import f1
from torchmetrics.functional.text import squad

from maple.metrics.characters import without_punctuation
from maple.metrics.mlqa import normalise
from maple.metrics.squad import SquadScore
from tests.conftest import SEED
from tests.maple.metrics.files import records

WORDS = "a An the THE cat Cats don't U.S. 3.5 -- «x» 。 naïve 北京 the-end _"


def drawn(rng):
    return "".join(rng.choice(WORDS.split()) + rng.choice([" ", "  ", "\t", " "]) for _ in range(rng.randrange(5)))


def of_torchmetrics(prediction, answers):
    target = {"answers": {"answer_start": [0] * len(answers), "text": answers}, "id": "1"}
    found = squad({"prediction_text": prediction, "id": "1"}, target)
    return {name: score.item() / 100 for name, score in found.items()}


def test_random_answers_score_as_in_torchmetrics_which_has_the_rule_of_transformers():
    rng, metric = random.Random(SEED), SquadScore(empty_equal=True)
    for _ in range(500):
        prediction, answers = drawn(rng), [drawn(rng) for _ in range(rng.randint(1, 3))]
        # torchmetrics computes in float32
        assert metric.score(prediction, answers) == pytest.approx(of_torchmetrics(prediction, answers), rel=1e-6)


def test_random_answers_have_the_f1_of_the_official_script():
    """The harness has a copy of it, for AfriQA."""
    rng, metric = random.Random(SEED), SquadScore()
    for _ in range(500):
        prediction, answer = drawn(rng), drawn(rng)
        assert metric.score(prediction, [answer])["f1"] == f1([(answer, prediction)])


# f1 by hand: 2 x shared / (words of the prediction + words of the answer)
@pytest.mark.parametrize(
    ("prediction", "answers", "exact_match", "f1"),
    [
        ("The Panthers' defence", ["defence"], 0, 2 / 3),  # panthers defence | defence
        ("an apple, a pear", ["Apple pear", "fig"], 1, 1),
        ("apple apple", ["apple"], 0, 2 / 3),  # counted once
        ("北京。", ["北京"], 0, 0),  # no ASCII, so no punctuation: one other word
        ("ไทย", ["ไทยแลนด์"], 0, 0),  # no blanks, so one other word
        ("der Hund", ["Hund"], 0, 2 / 3),  # English articles only
        ("", ["cat"], 0, 0),
    ],
)
def test_by_hand(prediction, answers, exact_match, f1):
    for metric in SquadScore(), SquadScore(empty_equal=True):
        assert metric.score(prediction, answers) == {"exact_match": exact_match, "f1": pytest.approx(f1, rel=1e-15)}


def test_where_no_words_are_left_on_both_sides_the_two_rules_differ():
    assert SquadScore().score("the", ["a!"]) == {"exact_match": 1, "f1": 0}
    assert SquadScore(empty_equal=True).score("the", ["a!"]) == {"exact_match": 1, "f1": 1}


def test_mega_prepares_the_prediction_and_not_the_answer():
    mega = SquadScore(prepare=without_punctuation)
    assert mega.score("北京。", ["北京"]) == {"exact_match": 1, "f1": 1}
    assert mega.score("北京", ["北京。"]) == {"exact_match": 0, "f1": 0}
    mlqa = SquadScore(prepare=lambda text: normalise(text, "de"))
    assert mlqa.score("Der Hund!", ["Hund"]) == {"exact_match": 1, "f1": 1}
    assert mlqa.score("Hund", ["der Hund"]) == {"exact_match": 0, "f1": pytest.approx(2 / 3)}


@pytest.mark.parametrize("language", ["en", "es", "hi", "th", "zh"])
def test_every_real_answer_matches_itself(real, language):
    metric = SquadScore()
    for record in records(real / "tasks" / "xquad" / f"{language}.validation.jsonl"):
        answers = record["answers"]["text"]
        assert metric.score(f" {answers[0]}\n", answers) == {"exact_match": 1, "f1": 1}
