"""Prompts to the letter, and what a tokenizer must bring."""

from types import SimpleNamespace

import pytest

from maple.data.prompts import check_template, render
from maple.data.records import Record
from maple.errors import InputError

WITH, WITHOUT = Record("Do {input} it.", "with {instruction}", "Done.", "f:1"), Record("Do it.", "", "Done.", "f:1")


def test_alpaca():
    assert render("alpaca", WITHOUT, None)[0] == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nDo it.\n\n### Response:"
    )
    prompt, full = render("alpaca", WITH, None)
    assert prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nDo {input} it.\n\n### Input:\nwith {instruction}\n\n### Response:"
    )
    assert full == prompt + "Done."


def test_bactrian():
    assert render("bactrian", WITHOUT, None)[0] == "### Input:\nDo it.\n\n### Output:\n"
    assert render("bactrian", WITH, None)[0] == "### Input:\nDo {input} it.\n\nwith {instruction}\n\n### Output:\n"


class ChatTokenizer:
    eos_token_id, chat_template = 2, "a template"

    def __init__(self, keeps_prefix=True):
        self.keeps_prefix = keeps_prefix

    def apply_chat_template(self, messages, tokenize, add_generation_prompt=False):
        turns = "".join(f"<{m['role']}>{m['content']}</s>\n" for m in messages)
        mark = "" if self.keeps_prefix or add_generation_prompt else "!"
        return mark + turns + ("<assistant>" if add_generation_prompt else "")


def test_chat():
    prompt, full = render("chat", WITH, ChatTokenizer())
    assert prompt == "<user>Do {input} it.\n\nwith {instruction}</s>\n<assistant>"
    assert full == prompt + "Done.</s>\n"


def test_a_template_that_rewrites_earlier_turns_is_refused():
    with pytest.raises(InputError, match="cannot be told apart; use --template alpaca"):
        render("chat", WITH, ChatTokenizer(keeps_prefix=False))


@pytest.mark.parametrize(
    ("template", "words"),
    [(lambda messages: 1 / 0, "template fails .ZeroDivisionError"), (lambda messages: "constant", "leaves the text")],
)
def test_a_template_that_fails_or_says_nothing_is_refused(template, words):
    tokenizer = ChatTokenizer()
    tokenizer.apply_chat_template = lambda messages, **_: template(messages)
    with pytest.raises(InputError, match=words):
        render("chat", WITH, tokenizer)


def test_what_the_tokenizer_must_bring():
    with pytest.raises(InputError, match="no EOS token"):
        check_template("alpaca", SimpleNamespace(eos_token_id=None))
    with pytest.raises(InputError, match="has no chat template"):
        check_template("chat", SimpleNamespace(eos_token_id=2, chat_template=None))
