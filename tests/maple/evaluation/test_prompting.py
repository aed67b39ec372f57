"""Prompts as a model sees them: shots in front, the training's template around, what is too long cut from the left."""

import dataclasses

import pytest

from maple.data.prompts import ALPACA
from maple.errors import InputError
from maple.evaluation.prompting import Prompter
from maple.evaluation.task import Choice, Example, Question, Setting
from maple.model import read_config
from maple.tokenizer import load_tokenizer


def ask_choice(example):
    return Choice(example["text"], example["choices"], 0)


def ask_question(example):
    return Question(example["text"], example["choices"][:1])


CHOOSING = Setting(ask_choice, "made up", metric=None)
WRITING = Setting(ask_question, "made up", metric=None, max_new_tokens=20, stop=("\n",))
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def example(text="It rained, so", choices=("they slept.", "the sun shone.")):
    return Example({"text": text, "choices": list(choices)}, "en", "rows:1")


@pytest.fixture(scope="module")
def reader(request):
    """A tokenizer and a configuration; the window is 512."""
    real = request.getfixturevalue("stories")
    return load_tokenizer(real), read_config(real)


def prompter(reader, setting, template="plain", window=512):
    tokenizer, config = reader
    config = type(config).from_dict(config.to_dict() | {"max_position_embeddings": window})
    return Prompter("made-up", setting, template, tokenizer, config)


def shots(setting, count):
    return [setting.ask(example(f"Shot {i}.", [f"answer {i}", "no"])) for i in range(count)]


def test_a_choice_is_split_where_its_context_ends(reader):
    request = prompter(reader, CHOOSING).request(3, example(), [])
    tokenizer = reader[0]
    context = tokenizer("It rained, so")["input_ids"]
    assert (request.number, request.prompt, request.cut, request.shots) == (3, "It rained, so", False, 0)
    assert request.prefixes == [context, context]
    assert context[0] == tokenizer.bos_token_id
    for ids, choice in zip(request.continuations, example()["choices"], strict=True):
        assert context + ids == tokenizer(f"It rained, so {choice}")["input_ids"]


def test_spaces_at_the_end_of_a_context_belong_to_the_choice(reader):
    request = prompter(reader, CHOOSING).request(0, example("It rained, so  "), [])
    tokenizer = reader[0]
    assert request.prefixes[0] == tokenizer("It rained, so")["input_ids"]
    assert request.prefixes[0] + request.continuations[0] == tokenizer("It rained, so   they slept.")["input_ids"]


def test_without_a_context_bos_stands_for_it(reader):
    request = prompter(reader, CHOOSING).request(0, example(""), [])
    assert request.prefixes == [[reader[0].bos_token_id]] * 2
    assert request.continuations[0] == reader[0](" they slept.", add_special_tokens=False)["input_ids"]


def test_shots_and_instruction_stand_in_front(reader):
    setting = dataclasses.replace(CHOOSING, instruction="Choose.")
    request = prompter(reader, setting).request(0, example(), shots(setting, 2))
    assert request.prompt == "Choose.\n\nShot 0. answer 0\n\nShot 1. answer 1\n\nIt rained, so"
    assert request.shots == 2


def test_under_the_template_of_training_all_is_the_instruction_and_the_answer_follows_at_once(reader):
    request = prompter(reader, CHOOSING, "alpaca").request(0, example(), shots(CHOOSING, 1))
    asked = ALPACA.replace("{instruction}", "Shot 0. answer 0\n\nIt rained, so")
    assert request.prompt == asked
    whole = reader[0](asked + "they slept.")["input_ids"]
    assert request.prefixes[0] + request.continuations[0] == whole


def test_under_a_chat_template_shots_are_turns(reader, monkeypatch):
    monkeypatch.setattr(reader[0], "chat_template", CHAT)
    setting = dataclasses.replace(WRITING, instruction="Answer.")
    request = prompter(reader, setting, "chat").request(0, example(), shots(setting, 1))
    assert request.prompt == "<user>Answer.\n\nShot 0.<assistant>answer 0<user>It rained, so<assistant>"
    assert request.prefixes == [reader[0](request.prompt, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("setting", [CHOOSING, WRITING], ids=["choice", "question"])
def test_shots_are_dropped_one_by_one_until_all_fits(reader, setting):
    every = shots(setting, 4)
    full = prompter(reader, setting).request(0, example(), every)
    kept = []
    for window in range(full.length + setting.max_new_tokens, setting.max_new_tokens + 40, -1):
        request = prompter(reader, setting, window=window).request(0, example(), every)
        kept.append(request.shots)
        assert not request.cut
        assert request.length + setting.max_new_tokens <= window + 1
        assert request.prompt == prompter(reader, setting).text(setting.ask(example()), every[4 - request.shots :])
    assert kept[0] == 4 and min(kept) < 3
    assert sorted(kept, reverse=True) == kept


def test_what_is_too_long_without_shots_is_cut_from_the_left(reader):
    long = example("once upon a time " * 30)
    whole = prompter(reader, WRITING).request(0, long, [])
    cut = prompter(reader, WRITING, window=64).request(0, long, [])
    assert not whole.cut and cut.cut
    assert cut.prefixes == [whole.prefixes[0][-44:]]  # 20 are for the answer
    assert cut.tokens == whole.tokens == len(whole.prefixes[0])
    assert cut.prompt == whole.prompt


def test_each_choice_keeps_as_much_of_its_context_as_it_leaves_room_for(reader):
    long = example("once upon a time " * 30)
    request = prompter(reader, CHOOSING, window=64).request(0, long, [])
    assert request.cut
    for prefix, ids in zip(request.prefixes, request.continuations, strict=True):
        assert len(prefix) + len(ids) == 65  # the last token is predicted and not read


def test_an_answer_that_alone_does_not_fit_is_refused(reader):
    with pytest.raises(InputError, match=r"--tasks made-up: an answer of 20 tokens alone.*window of 20"):
        prompter(reader, WRITING, window=20)
    with pytest.raises(InputError, match=r"rows:1: an answer of \d+ tokens alone does not fit.*window of 5"):
        prompter(reader, CHOOSING, window=5).request(0, example(), [])


def test_the_digest_tells_prompts_and_choices_apart(reader):
    one = prompter(reader, CHOOSING)
    digests = {
        one.request(0, example(), []).digest,
        one.request(0, example("It rained and"), []).digest,
        one.request(0, example(choices=("they slept.", "all shone.")), []).digest,
        one.request(0, example(), shots(CHOOSING, 1)).digest,
    }
    assert len(digests) == 4
    assert one.request(7, example(), []).digest in digests
