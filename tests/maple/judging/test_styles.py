"""The prompts to the letter, and what is read of an answer."""

import hashlib
import json
import math

import pytest

from maple.judging.styles import LONGEST, RANKING, STYLES, WEIGHTED
from tests.maple.judging.fake_judge import content, likeliest, ranking

# Of json.dumps(messages, sort_keys=True), where the messages are those that alpaca_eval 0.6.6 makes of its prompt file
# (utils.make_prompts, utils.prompt_to_chatml) for the instruction "Who?" and the outputs "Ä 1\n" and " two".
PROMPTS = {
    "alpaca_eval_gpt4": "4554f7bbe445e14a7608191dc6ab9ae7586bd743553621c97b5d9ef9b4bb7c24",
    "weighted_alpaca_eval_gpt4_turbo": "8c4bef28d637fb9356054c2b0f8c2f57f549b24357285fda7711b8d8aed7fa94",
}


def read(style, reply):
    return style.preference(style.words(json.loads(reply.body)["choices"][0]))


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_alpaca_evals(name):
    messages = STYLES[name].messages("Who?", "Ä 1\n", " two")
    assert hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest() == PROMPTS[name]


def test_an_answer_that_looks_like_a_place_in_the_prompt_is_shown_as_it_is():
    user = RANKING.messages("{output_1}", "{output_2} <|im_end|>", "\\1 {instruction}")[1]["content"]
    assert '"instruction": """{output_1}"""' in user
    assert '"answer": """{output_2} <|im_end|>"""' in user and '"answer": """\\1 {instruction}"""' in user


def test_a_ranking():
    assert read(RANKING, ranking(1)) == 1 and read(RANKING, ranking(2)) == 2
    second_first = "[{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]"
    assert read(RANKING, content(second_first)) == 2
    assert read(RANKING, content(" \t" + second_first + "\n")) == 2


UNREADABLE = [
    *(
        "",
        "model_1",
        "Model 1 is better.",
        "[]",
        "[1, 2]",
        "5",
        "[{'model': 'model_1', 'rank': 3}]",
        "__import__('os')",
    ),
    *(
        "[{'model': 'model_2', 'rank': 1}]",
        "[{'model': 'model_1'}]",
        "{'model': 'model_1', 'rank': 1}",
        "\0",
        "-" * 3000,
    ),
    *(
        "[" * 3000,
        "```python\n[{'model': 'model_1', 'rank': 1}]\n```",
        "[{'model': 'model_1', 'rank': [1]}]",
        "{1: {}}",
    ),
    *("[{'model': 'model_1', 'rank': '1'}]", "[{'rank': 1}, {'model': 'model_1', 'rank': 1}]", None),
]


@pytest.mark.parametrize("text", UNREADABLE, ids=[str(text)[:40] for text in UNREADABLE])
def test_what_alpaca_eval_does_not_read_as_a_ranking_is_none(text):
    assert read(RANKING, content(text)) is None


def test_what_is_kept_of_an_answer_is_short_and_what_is_cut_is_no_verdict():
    long = "[{'model': 'model_1', 'rank': 1}]" + " " * LONGEST
    assert len(RANKING.words({"message": {"content": long * 10}})) == LONGEST
    assert read(RANKING, content("[" + long)) is None


# preference = 2 - p(m) / (p(m) + p(M)), worked out by hand
WEIGHTS = [
    ([("m", math.log(0.6)), ("M", math.log(0.2)), ("Both", -9.0)], 1.25),
    ([("M", math.log(0.9)), ("m", math.log(0.1))], 1.9),
    ([("m", -0.1)], 1.0),  # M is not among the five
    ([("M", -3.0), (" m", -0.1)], 2.0),
    ([("m", -9999.0), ("M", -9999.0)], 1.5),  # far below what exp can hold
    ([("m", 0.0), ("M", -9999.0)], 1.0),
]


@pytest.mark.parametrize(("tokens", "preference"), WEIGHTS)
def test_probabilities_of_the_two_names(tokens, preference):
    assert read(WEIGHTED, likeliest(*tokens)) == pytest.approx(preference, rel=1e-14)


def test_the_example_in_alpaca_evals_own_parser():
    found = read(WEIGHTED, likeliest(("M", -0.017597131), ("m", -4.048847), ("Both", -14.908222)))
    assert found == pytest.approx(2 - math.exp(-4.048847) / (math.exp(-0.017597131) + math.exp(-4.048847)), rel=1e-14)


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [("A", -1.0), ("B", -2.0)],
        [("m", None)],
        [("m", "x")],
        [("m", -math.inf), ("M", -math.inf)],
        [("m", math.nan)],
        [("m", 10**400)],
    ],
    ids=str,
)
def test_without_either_name_there_is_no_verdict(tokens):
    assert read(WEIGHTED, likeliest(*tokens)) is None


def test_other_answers_of_log_probabilities():
    assert read(WEIGHTED, likeliest(finish="content_filter")) is None
    token = {"token": "m", "top_logprobs": [{"token": "m", "logprob": -0.1}]}
    for tokens in (
        [],
        [token, token],
        [{"top_logprobs": [5]}],
        [{"top_logprobs": 5}],
        [{"top_logprobs": [{"token": "m"}]}],
    ):
        assert WEIGHTED.preference(WEIGHTED.words({"logprobs": {"content": tokens}})) is None
    for choice in ({}, {"logprobs": None}, {"logprobs": {"content": None}}, {"logprobs": {"content": [1]}}):
        with pytest.raises((KeyError, TypeError)):
            WEIGHTED.words(choice)
