"""Answers as they are streamed, and prompts that fit the window."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer

import maple
from maple.conversation import Conversation, Streamer, fitting
from maple.data.prompts import prompt_ids
from maple.errors import InputError
from maple.tokenizer import load_tokenizer

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}<assistant>"
TEXT = "Hello\n there,  wörld\n\n 你好　世界 🧑‍🚀\tไทย क्ष \n می‌خواهم <unk> end "


@pytest.fixture(params=["stories260k", "mistral"])
def tokenizer(request, real):
    """One of 512 pieces that spells most of the world in bytes, and one of 32,000."""
    folders = {"stories260k": real / "models" / "stories260k", "mistral": real / "tokenizers" / "mistral-7b-v0.1"}
    return AutoTokenizer.from_pretrained(folders[request.param])


def streamed(tokenizer, ids):
    pieces = []
    streamer = Streamer(tokenizer, pieces.append)
    for token in ids:
        streamer.put(token)
    streamer.end()
    return pieces, streamer


def test_pieces_are_the_decoded_text_with_whole_characters(tokenizer):
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    pieces, streamer = streamed(tokenizer, ids)
    assert "".join(pieces) == streamer.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert len(pieces) > 20 and not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_bytes_that_are_no_character_are_shown_at_the_end(tokenizer):
    half = tokenizer("a 𓀀", add_special_tokens=False)["input_ids"][:-1]
    pieces, _ = streamed(tokenizer, half)
    assert "".join(pieces) == tokenizer.decode(half) and "".join(pieces).endswith("\N{REPLACEMENT CHARACTER}")


def test_special_tokens_are_not_shown(tokenizer):
    assert "".join(streamed(tokenizer, [*tokenizer("a b", add_special_tokens=False)["input_ids"], 2])[0]) == "a b"


# ------------------------------------------------------------------------------------------------- the window


def conversation(stories, template, **settings):
    tokenizer = load_tokenizer(stories)
    tokenizer.chat_template = TURNS
    model = maple.load_model(stories.as_posix(), bits=16, rank=0)
    settings = {"max_tokens": 8, "temperature": 0.0} | settings
    return Conversation(model, tokenizer, template, **settings)


def test_only_a_chat_template_sees_earlier_turns(stories):
    for template, remembered in (("chat", 4), ("alpaca", 2), ("plain", 2)):
        talk = conversation(stories, template)
        answers = [[], []]
        for answer, text in zip(answers, ("One day", "Lily"), strict=True):
            assert talk.answer(text, answer.append) == "--max-tokens 8"
        assert talk.turns == ["One day", "".join(answers[0]), "Lily", "".join(answers[1])][-remembered:]


def test_the_oldest_turns_go_first_when_the_window_is_full(stories):
    talk = conversation(stories, "chat")
    config = SimpleNamespace(max_position_embeddings=80, vocab_size=512)
    turns = ["first " * 8, "second", "third " * 3, "fourth", "fifth"]
    lengths = [len(prompt_ids("chat", turns[start:], talk.tokenizer)) for start in (0, 2, 4)]
    assert lengths[0] > 80 > lengths[1] + 8
    kept, ids = fitting(turns, "chat", talk.tokenizer, config, max_tokens=8)
    assert kept == turns[2:] and len(ids) == lengths[1]
    assert (
        fitting(turns, "chat", talk.tokenizer, config, max_tokens=1000)[0] == turns[4:]
    )  # half a window for the answer


def test_an_answer_ends_where_the_window_does(stories):
    talk = conversation(stories, "plain", max_tokens=100_000)
    pieces = []
    cut = talk.answer("Once upon a time there was " + "a very big dog and " * 80, pieces.append)
    assert cut == "the model's window of 512 tokens is full" and pieces


def test_an_answer_ends_at_the_eos_of_the_model_and_of_the_tokenizer(stories):
    talk = conversation(stories, "plain", max_tokens=60)
    full = []
    assert talk.answer("Once", full.append) == "--max-tokens 60"
    first_sentence = "".join(full).partition(".")[0] + "."
    dot = talk.tokenizer("a.", add_special_tokens=False)["input_ids"][-1]
    for model_stops, tokenizer_stops in (([dot, 2], 2), (2, dot)):
        talk.model.generation_config.eos_token_id, talk.tokenizer.eos_token_id = model_stops, tokenizer_stops
        pieces = []
        assert talk.answer("Once", pieces.append) is None
        assert "".join(pieces).rstrip(".") + "." == first_sentence  # EOS itself is a special token, and not shown


def test_sampling_follows_the_seed(stories):
    talk = conversation(stories, "plain", temperature=1.0, max_tokens=30)
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(pieces := [])
        talk.answer("Once", pieces.append)
    assert answers[0] == answers[1] != answers[2]


def test_an_interrupted_answer_leaves_nothing_behind(stories):
    talk, pieces = conversation(stories, "chat", max_tokens=30), []
    talk.answer("One day", pieces.append)
    expected, turns, heard = "".join(pieces), list(talk.turns), []

    def interrupted(piece):
        heard.append(piece)
        if len(heard) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.answer("Lily", interrupted)
    assert talk.turns == turns and len(heard) == 3
    talk.turns, pieces = [], []
    talk.answer("One day", pieces.append)  # in the rows where the interrupted one lay
    assert "".join(pieces) == expected


@pytest.mark.parametrize(
    ("temperature", "stored"), [(0.0, {"repetition_penalty": 9.0}), (1.0, {"top_k": 1, "top_p": 0.1})]
)
def test_what_a_checkpoint_prefers_does_not_act_on_what_was_asked_for(stories, temperature, stored):
    talk = conversation(stories, "plain", temperature=temperature, max_tokens=40)
    answers = []
    for settings in ({}, stored):
        talk.model.generation_config.update(**settings)
        torch.manual_seed(1)
        answers.append(pieces := [])
        talk.answer("Once", pieces.append)
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("text", "window", "rows", "words"),
    [
        ("word " * 100, 64, 512, r"the prompt takes \d+ tokens, which leaves no room in the model's window of 64"),
        ("word", 64, 300, r"the tokenizer makes id \d+, the model's embedding has 300 rows"),
        ("", 64, 512, "makes no token"),
    ],
)
def test_a_prompt_that_does_not_fit_the_model(stories, text, window, rows, words):
    tokenizer = load_tokenizer(stories)
    tokenizer.add_bos_token = False
    config = SimpleNamespace(max_position_embeddings=window, vocab_size=rows)
    with pytest.raises(InputError, match=words):
        fitting([text], "plain", tokenizer, config, max_tokens=8)


def test_a_chat_template_that_fails_on_a_second_turn(stories):
    talk = conversation(stories, "chat")
    talk.tokenizer.chat_template = "{% if messages[1] is defined %}{{ raise_exception('no') }}{% endif %}x"
    with pytest.raises(InputError, match=r"the tokenizer's template fails .*no"):
        fitting(["a", "b", "c"], "chat", talk.tokenizer, talk.model.config, max_tokens=8)
