"""Accuracy by likelihood as the harness has it, and by generated labels as MEGA has it."""

import random
from types import SimpleNamespace

import pytest
from lm_eval.api.metrics import mean_stderr
from lm_eval.api.task import ConfigurableTask

from maple.metrics.choices import ChoiceAccuracy, LabelAccuracy
from tests.conftest import SEED


def of_the_harness(log_likelihoods, texts, gold):
    """What lm-evaluation-harness's own code says of a multiple-choice question."""
    task = SimpleNamespace(
        config=SimpleNamespace(process_results=None),
        _metric_fn_list={"acc": None, "acc_norm": None},
        OUTPUT_TYPE="multiple_choice",
        multiple_input=0,
        multiple_target=0,
        doc_to_choice=lambda doc: texts,
        doc_to_target=lambda doc: gold,
    )
    return ConfigurableTask.process_results(task, {}, [(value, False) for value in log_likelihoods])


def test_random_questions_score_as_in_the_harness():
    rng, metric, scores = random.Random(SEED), ChoiceAccuracy(), {"acc": [], "acc_norm": []}
    for _ in range(500):
        n = rng.randint(2, 4)
        texts = ["".join(rng.choices("aé中 ", k=rng.randint(1, 30))) for _ in range(n)]
        values = [-rng.choice([1.0, 2.0, 3.0, rng.random() * 40]) for _ in range(n)]  # with ties
        found = metric.score(values, texts, gold := rng.randrange(n))
        assert found == of_the_harness(values, texts, gold)
        metric.update(found)
        for name, score in found.items():
            scores[name].append(score)
    for name, estimate in metric.compute().items():
        assert estimate.value == sum(scores[name]) / 500
        assert estimate.stderr == pytest.approx(mean_stderr(scores[name]), rel=1e-13)


def test_length_is_counted_in_characters_and_the_first_of_equals_wins():
    metric = ChoiceAccuracy()
    # -6/2 = -3 a character against -8/4 = -2; by UTF-8 bytes it would be -1 against -2
    assert metric.score([-6.0, -8.0], ["中国", "four"], gold=1) == {"acc": 0.0, "acc_norm": 1.0}
    assert metric.score([-2.0, -2.0], ["same", "size"], gold=0) == {"acc": 1.0, "acc_norm": 1.0}
    assert metric.score([-2.0, -2.0], ["same", "size"], gold=1) == {"acc": 0.0, "acc_norm": 0.0}


LABELS = ["True", "Neither", "False"]


@pytest.mark.parametrize(
    ("output", "exact"),
    [
        ("Neither", 1),
        ("  Neither\n", 1),
        ("Neither.", 0),
        ("Neither, because", 0),
        ("neither", 0),
        ("It is Neither", 0),
        ("Nei", 0),
        ("False", 0),
        ("", 0),
    ],
)
def test_a_generated_label_counts_when_nothing_but_blanks_is_around_it(output, exact):
    assert LabelAccuracy().score(output, LABELS[1:2]) == {"acc": exact}
