"""Scores under Lightning: the same at every batch size and on two processes; answers end where they should."""

import dataclasses
import json

import pytest
import torch

import maple
from maple.evaluation import scoring
from maple.evaluation.prompting import Prompter
from maple.evaluation.scoring import score
from maple.evaluation.task import Choice, Example, Question, Setting
from maple.metrics.choices import ChoiceAccuracy, LabelAccuracy
from maple.model import read_config
from maple.tasks import find
from maple.tokenizer import load_tokenizer

WRITING = Setting(
    lambda example: Question(example["text"], [example["answer"]]),
    "made up",
    lambda language: LabelAccuracy(),
    max_new_tokens=24,
    stop=("\n",),
)
BEGINNINGS = ["Once upon a time", "The big dog", "Lily saw a", "One day, Tom", "She was very", "Mom said"]


@pytest.fixture(scope="module")
def world(stories):
    """A real model with its tokenizer and configuration."""
    model = maple.load_model(str(stories), bits=16, rank=0)
    return model.eval(), load_tokenizer(stories), read_config(stories)


def rows(real, count):
    lines = (real / "tasks" / "xcopa" / "it.test.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [Example(json.loads(line), "it", "it.test.jsonl") for line in lines]


def asked(world, setting, examples):
    _, tokenizer, config = world
    prompter = Prompter("made-up", setting, "plain", tokenizer, config)
    return [prompter.request(number, example, []) for number, example in enumerate(examples)]


def test_batch_sizes_change_no_prediction_and_likelihoods_by_rounding_only(world, real):
    setting = find("xcopa").settings["harness"]
    requests = asked(world, setting, rows(real, 40))
    (first, ones), *others = (score(*world[:2], setting, "it", requests, size) for size in (1, 7, 32))
    for estimates, answers in others:
        assert estimates == first
        assert [answer.output for answer in answers] == [answer.output for answer in ones]
        found = torch.tensor([answer.log_likelihoods for answer in answers], dtype=torch.float64)
        expected = torch.tensor([one.log_likelihoods for one in ones], dtype=torch.float64)
        # 2^-22: two units of float32, of likelihoods down to -277 here
        torch.testing.assert_close(found, expected, rtol=2**-22, atol=1e-5)
    assert [answer.number for answer in ones] == list(range(40))
    assert first["acc"].n == 40


def test_written_answers_are_the_same_at_every_batch_size_and_end_at_a_stop_text(world):
    examples = [Example({"text": text, "answer": "x"}, "en", "") for text in BEGINNINGS]
    requests = asked(world, WRITING, examples)
    ones, *others = (score(*world[:2], WRITING, "en", requests, size)[1] for size in (1, 7, 32))
    assert all(other == ones for other in others)
    assert all("\n" not in answer.output for answer in ones)
    model, tokenizer, _ = world
    for request, answer in zip(requests, ones, strict=True):
        ids = torch.tensor([request.prefixes[0]])
        settings = {"do_sample": False, "max_new_tokens": 24, "attention_mask": torch.ones_like(ids)}
        whole = tokenizer.decode(model.generate(ids, **settings)[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.output == whole.split("\n")[0]


def test_a_stop_text_may_be_spread_over_tokens(world):
    model, tokenizer, _ = world
    examples = [Example({"text": text, "answer": "x"}, "en", "") for text in BEGINNINGS[:1]]
    full = score(model, tokenizer, WRITING, "en", asked(world, WRITING, examples), 1)[1][0].output
    stop = full[5:12]
    assert len(tokenizer(stop, add_special_tokens=False)["input_ids"]) > 1
    setting = dataclasses.replace(WRITING, stop=(stop,))
    module = scoring.Scoring(model, tokenizer, setting, "en", asked(world, setting, examples), 1)
    (answer,) = module.written(module.requests)
    assert answer.output == full.split(stop)[0]
    made = tokenizer(full, add_special_tokens=False)["input_ids"]
    ended = next(count for count in range(1, len(made) + 1) if module.stopped(made[:count]))
    assert stop in tokenizer.decode(made[:ended]) and stop not in tokenizer.decode(made[: ended - 1])


def test_what_is_scored_is_the_cleaned_answer_and_what_is_kept_the_whole(world):
    setting = dataclasses.replace(WRITING, clean=lambda text: "yes")
    example = Example({"text": BEGINNINGS[0], "answer": "yes"}, "en", "")
    estimates, (answer,) = score(*world[:2], setting, "en", asked(world, setting, [example]), 4)
    assert estimates["acc"].value == 1 and answer.scores == {"acc": 1.0} and answer.output != "yes"


def test_answers_for_a_judge_have_no_scores(world):
    setting = dataclasses.replace(WRITING, metric=None)
    example = Example({"text": BEGINNINGS[0], "answer": ""}, "en", "")
    estimates, (answer,) = score(*world[:2], setting, "en", asked(world, setting, [example]), 4)
    assert estimates == {} and answer.scores == {} and answer.output


def test_choices_that_see_different_parts_of_a_long_context_are_scored_each_behind_its_own(world):
    model, tokenizer, config = world
    config = type(config).from_dict(config.to_dict() | {"max_position_embeddings": 48})
    setting = Setting(
        lambda example: Choice(example["text"], ["a dog.", "a very, very big dog and a cat."], 0),
        "made up",
        lambda language: ChoiceAccuracy(),
    )
    long = Example({"text": "Once upon a time there was " * 8}, "en", "")
    request = Prompter("made-up", setting, "plain", tokenizer, config).request(0, long, [])
    _, (answer,) = score(model, tokenizer, setting, "en", [request], 1)
    for prefix, ids, found in zip(request.prefixes, request.continuations, answer.log_likelihoods, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prefix + ids]), use_cache=False).logits[0, len(prefix) - 1 : -1]
        expected = logits.log_softmax(1)[torch.arange(len(ids)), torch.tensor(ids)].sum().item()
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_large_cache_takes_fewer_rows(world, monkeypatch):
    examples = [Example({"text": text, "answer": "x"}, "en", "") for text in BEGINNINGS]
    requests = asked(world, WRITING, examples)
    longest = max(request.length for request in requests) + 24
    monkeypatch.setattr(scoring, "CACHED_TOKENS", 2 * longest + 1)
    assert scoring.Scoring(*world[:2], WRITING, "en", requests, 32).decoder.cache.rows == 2
