"""Prompts to the letter, and what a tokenizer must bring."""

from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from maple.data.prompts import as_chat_template, check_template, prompt_ids, render
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


def test_a_prompt_awaits_its_answer_as_in_training(real):
    tokenizer = AutoTokenizer.from_pretrained(real / "tokenizers" / "mistral-7b-v0.1")
    assert prompt_ids("plain", ["unseen", "x", "Hola"], tokenizer) == tokenizer("Hola")["input_ids"]
    assert prompt_ids("alpaca", ["Do it."], tokenizer) == tokenizer(render("alpaca", WITHOUT, None)[0])["input_ids"]
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    ids = prompt_ids("chat", ["one", "two", "three"], tokenizer)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<user>one<assistant>two<user>three"
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("adds_bos", [True, False])
def test_alpaca_as_a_chat_template_has_the_bos_of_training(real, adds_bos):
    tokenizer = AutoTokenizer.from_pretrained(real / "tokenizers" / "mistral-7b-v0.1", add_bos_token=adds_bos)
    tokenizer.chat_template = as_chat_template("alpaca", tokenizer)
    found = tokenizer.apply_chat_template([{"role": "user", "content": "Do it."}])["input_ids"]
    assert found == prompt_ids("alpaca", ["Do it."], tokenizer)
    assert (found[0] == tokenizer.bos_token_id) == adds_bos


def test_a_tokenizer_that_no_chat_template_can_serve():
    class Odd:
        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [9, *text.encode(), 9] if add_special_tokens else list(text.encode())}

        def apply_chat_template(self, messages, chat_template, tokenize):
            return messages[0]["content"]

    assert as_chat_template("alpaca", Odd()) is None
