"""Prompt templates. They are formats: the adapter must be used with the one it was trained with.

alpaca      tatsu-lab/stanford_alpaca, train.py, PROMPT_DICT
bactrian    mbzuai-nlp/bactrian-x, the template of its training and generation scripts
chat        the tokenizer's own chat template, the record as one user turn
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator

from maple.data.records import Record
from maple.errors import InputError, first_line

ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
BACTRIAN_INPUT = "### Input:\n{instruction}\n\n{input}\n\n### Output:\n"
BACTRIAN = "### Input:\n{instruction}\n\n### Output:\n"
RENDER_SECONDS = 4  # for one conversation; real templates take under a millisecond
TEMPLATES = {"alpaca": (ALPACA, ALPACA_INPUT), "bactrian": (BACTRIAN, BACTRIAN_INPUT)}


def render(template: str, record: Record, tokenizer) -> tuple[str, str]:
    """(prompt, prompt and answer) as text; the second begins with the first."""
    if template == "chat":
        return _render_chat(record, tokenizer)
    without_input, with_input = TEMPLATES[template]
    # str.format would read braces in the data; replacing in one pass over the template's own fields does not
    before, _, after = (with_input if record.input else without_input).partition("{instruction}")
    middle, _, end = after.partition("{input}")
    prompt = before + record.instruction + (middle + record.input + end if record.input else middle)
    return prompt, prompt + record.output


def _render_chat(record: Record, tokenizer) -> tuple[str, str]:
    user = {
        "role": "user",
        "content": f"{record.instruction}\n\n{record.input}" if record.input else record.instruction,
    }
    answer = {"role": "assistant", "content": record.output}
    try:
        with _ended_in_time():
            prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
            full = tokenizer.apply_chat_template([user, answer], tokenize=False)
    except Exception as error:  # a template is a program, which can fail in every way
        raise InputError(f"--template chat: the tokenizer's template fails ({first_line(error)})") from error
    if not full.startswith(prompt):
        raise InputError(
            "--template chat: this tokenizer's template writes the turns before an answer differently once the answer "
            "is there, so the answer's tokens cannot be told apart; use --template alpaca"
        )
    if record.instruction.strip() not in prompt or record.output.strip() not in full[len(prompt) :]:
        raise InputError("--template chat: the tokenizer's template leaves the text of the turns away")
    return prompt, full


def prompt_text(template: str, turns: list[str], tokenizer) -> str:
    """What awaits an answer, as in training; the template `plain` adds nothing.

    `turns` are the user's and the model's in alternation, the user's last. Only a chat template has room for more than
    that last one. Raises InputError where the tokenizer's template fails.
    """
    if template == "plain":
        return turns[-1]
    if template != "chat":
        return render(template, Record(turns[-1], "", "", where=""), tokenizer)[0]
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(turns)]
    try:
        with _ended_in_time():
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        raise InputError(f"--template chat: the tokenizer's template fails ({first_line(error)})") from error


def prompt_ids(template: str, turns: list[str], tokenizer) -> list[int]:
    """Token ids of `prompt_text`."""
    text = prompt_text(template, turns, tokenizer)
    return tokenizer(text, add_special_tokens=writes_no_bos(template))["input_ids"]


def writes_no_bos(template: str) -> bool:
    """Whether the tokenizer has to add BOS: a chat template writes it itself, and adding it again would make two."""
    return template != "chat"


@contextlib.contextmanager
def _ended_in_time() -> Iterator[None]:
    """Raise TimeoutError where a template has not rendered after RENDER_SECONDS.

    transformers renders in Jinja's sandbox, which hides Python but not time: loops inside loops never end. Only the
    main thread of a POSIX system can be interrupted, which is where all rendering happens.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_):
        raise TimeoutError(f"it takes more than {RENDER_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    # And again and again: Jinja folds constants when it compiles, and swallows whatever that raises.
    signal.setitimer(signal.ITIMER_REAL, RENDER_SECONDS, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def as_chat_template(template: str, tokenizer) -> str | None:
    """Alpaca or Bactrian-X as a chat template (Jinja) of `tokenizer`, so that any program prompts as in training.

    It sees the last user turn, since these formats have no others. A chat template must write BOS itself, and after it
    some tokenizers want the space that they put before a text's first word: the first opening that gives the very
    token ids of training is taken; None where none does.
    """
    before, after = TEMPLATES[template][0].split("{instruction}")
    body = (
        f"{{{{ {json.dumps(before)} + (messages | selectattr('role', 'equalto', 'user') | list | last).content "
        f"+ {json.dumps(after)} }}}}"
        "{% if messages[-1].role == 'assistant' %}{{ messages[-1].content + eos_token }}{% endif %}"
    )
    probe = "Traduce: ¿qué es esto? 你好"
    expected = prompt_ids(template, [probe], tokenizer)
    for opening in ("", "{{ bos_token }}", "{{ bos_token + ' ' }}"):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": probe}], chat_template=opening + body, tokenize=False
        )
        if tokenizer(text, add_special_tokens=False)["input_ids"] == expected:
            return opening + body
    return None


def template_text(template: str, tokenizer) -> str:
    """All that a template adds to a record, to tell two of them apart."""
    return str(tokenizer.chat_template) if template == "chat" else repr(TEMPLATES[template])


def check_template(template: str, tokenizer) -> None:
    """Raise InputError where the tokenizer cannot serve the template."""
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no EOS token, so a model could not learn where an answer ends")
    if template == "chat" and not tokenizer.chat_template:
        raise InputError("--template chat: this tokenizer has no chat template; use --template alpaca or bactrian")
