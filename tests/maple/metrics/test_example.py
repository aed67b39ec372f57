"""A mean with its standard error: in double precision whatever the model is cast to, and over processes."""

import copy
import json
import math
import pickle
import random
import statistics
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from lm_eval.api.metrics import mean_stderr

from maple.metrics.example import Estimate, ExampleMetric
from tests.conftest import SEED
from tests.ranks import Forks


class Length(ExampleMetric):
    names = ("length", "long")

    def score(self, text):
        return {"length": len(text) / 7, "long": float(len(text) > 5)}


def drawn(n):
    rng = random.Random(SEED)
    return ["x" * rng.randrange(12) for _ in range(n)]


def estimated(texts, metric=None):
    metric = metric or Length()
    for text in texts:
        metric.update(metric.score(text))
    return metric.compute()


def test_the_mean_and_its_standard_error_are_those_of_the_harness_and_of_exact_arithmetic():
    texts = drawn(500)
    found = estimated(texts)
    for name in Length.names:
        scores = [Length().score(text)[name] for text in texts]
        assert found[name].n == 500
        assert found[name].value == pytest.approx(statistics.mean(scores), rel=1e-14)
        assert found[name].stderr == pytest.approx(statistics.stdev(scores) / math.sqrt(500), rel=1e-12)
        assert found[name].stderr == pytest.approx(mean_stderr(scores), rel=1e-12)


def test_a_share_of_right_answers_has_no_rounding():
    assert estimated(["x"] * 27 + ["xxxxxx"] * 13)["long"].value == 13 / 40


@pytest.mark.parametrize("score", [0.1, 1 / 3, 100 / 3, 99.99999999999999])
def test_identical_scores_have_no_deviation_and_their_own_mean(score):
    metric = Length()
    for _ in range(1000):
        metric.update({"length": score, "long": 1.0})
    assert metric.compute()["length"] == Estimate(score, 0.0, 1000)


def test_one_example_has_no_standard_error_and_none_has_no_mean():
    assert estimated(["xxxxxxx"])["length"] == Estimate(1.0, None, 1)
    with pytest.warns(UserWarning, match="before the ``update``"):
        none = Length().compute()["length"]
    assert math.isnan(none.value) and none.stderr is None and none.n == 0


@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.to(torch.bfloat16),
        lambda module: module.half(),
        lambda module: module.to("cpu", torch.float32),
        lambda module: module[0].set_dtype(torch.float16),
    ],
)
def test_the_sums_stay_double_when_the_module_around_them_is_cast(cast):
    metric = Length()
    before = estimated(drawn(20), metric)
    cast(torch.nn.Sequential(metric))
    states = metric.metric_state
    assert {name: state.dtype for name, state in states.items()} == {
        name: torch.int64 if name == "count" else torch.float64 for name in states
    }
    metric._computed = None  # count again
    assert metric.compute() == before
    metric.reset()
    assert metric.total.dtype == torch.float64


def test_the_sums_follow_the_module_to_its_device():
    metric = Length().to("meta")
    assert metric.device.type == metric.total.device.type == metric.count.device.type == "meta"


def test_a_copy_counts_for_itself_and_a_reset_forgets():
    metric = Length()
    first = estimated(["xx", "xxx"], metric)
    for other in copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone():
        assert other.compute() == first
        assert estimated(["x"], other)["length"].n == 3
    assert metric.compute() == first
    assert metric(metric.score("xxxx"))["length"] == Estimate(4 / 7, None, 1)  # forward: of this one
    assert metric.compute()["length"].n == 3
    metric.reset()
    assert estimated(["xx", "xxx"], metric) == first


@pytest.mark.parametrize("shares", ["uneven", "one empty", "each alike"])
def test_processes_with_uneven_shares_find_what_one_finds(tmp_path, shares):
    texts = drawn(30)
    shared_out = {"uneven": (texts[:7], texts[7:]), "one empty": ([], texts), "each alike": (["x"] * 7, ["xx"] * 23)}
    texts = [text for share in shared_out[shares] for text in share]

    def work():
        torch.set_num_threads(1)
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        found = {name: estimate._asdict() for name, estimate in estimated(shared_out[shares][rank]).items()}
        (tmp_path / f"{rank}.json").write_text(json.dumps(found))
        dist.destroy_process_group()

    forks = Forks(work, tmp_path / "logs")
    assert forks.wait() == [0, 0], forks.said()
    expected = estimated(texts)
    for rank in 0, 1:
        for name, found in json.loads((tmp_path / f"{rank}.json").read_text()).items():
            assert found["n"] == 30
            assert found["value"] == pytest.approx(expected[name].value, rel=1e-14)
            assert found["stderr"] == pytest.approx(expected[name].stderr, rel=1e-12)


def test_importing_the_metrics_imports_no_framework_and_no_tokenizer_beyond_torchmetrics():
    modules = "choices, characters, example, extra, mlqa, rouge, rouge_stemmers, rouge_tokens, squad"
    heavy = ["lm_eval", "transformers", "nltk", "jieba", "pythainlp", "fugashi", "pyonmttok", "TurkishStemmer"]
    # torchmetrics imports transformers and whatever else it finds, so that what it brings is not counted
    program = f"import sys, torchmetrics; before = set(sys.modules); from maple.metrics import {modules}; " + (
        f"print({{name.split('.')[0] for name in set(sys.modules) - before}} & set({heavy}))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
