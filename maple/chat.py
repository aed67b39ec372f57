"""Talk to a model or an adapter in the terminal, or ask it one thing.

    python -m maple.chat --adapter runs/0001/adapter
    python -m maple.chat --model mistralai/Mistral-7B-v0.1 --adapter runs/0001/adapter --prompt "¿Qué es un arce?"

An adapter is asked in the prompt template that it was trained with, which its file names, and so is a merged model; any
other model gets the text as it is typed and continues it. Answers go to stdout, all else to stderr.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from maple import cli
from maple.choices import Bits, Device, Precision, Template
from maple.errors import InputError
from maple.origin import Origin, choose_bits, choose_template, find_origin
from maple.terminal import without_controls

if TYPE_CHECKING:
    from maple.conversation import Conversation


def chat(
    model: str | None = None,
    adapter: str | None = None,
    prompt: str | None = None,
    template: Literal[Template, "plain"] | None = None,
    bits: Bits | None = None,
    max_tokens: int = 512,
    temperature: float = 0.0,
    seed: int = 0,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Talk to a model or an adapter in the terminal, a line a prompt, or ask it one thing with --prompt.

    model: tiny, a folder or a hub id; may be left away where the adapter names its base
    adapter: folder of an adapter, ours or PEFT's; without one the model alone answers
    prompt: answer this and leave; only the answer goes to stdout
    template: prompt format; by default what the adapter or merged model was trained with, plain for any other model
    bits: of the base: 4 is NF4, 8 is int8 per row; by default what the adapter was trained on, else 16
    max_tokens: the longest answer
    temperature: of the sampling; 0 always takes the likeliest token
    seed: of the sampling
    device: auto takes a GPU where there is one
    precision: what the model computes in; auto is float32 on a CPU and bfloat16 on a GPU that has it
    """
    arguments = dict(locals())
    check_ranges(max_tokens, temperature, seed)
    check_prompt(prompt)
    origin = find_origin(model, adapter)
    template = arguments["template"] = choose_template(template, origin, adapter)
    bits = arguments["bits"] = choose_bits(bits, origin)
    say(f"{origin.model} in {bits} bits, {f'adapter {adapter}' if adapter else 'no adapter'}, template {template}")
    conversation = begin(arguments, origin)
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # a language that the terminal cannot show ends nothing
    if prompt is None:
        talk(conversation)
    else:
        answer(conversation, prompt)


def check_ranges(max_tokens: int, temperature: float, seed: int) -> None:
    """Refuse numbers that cannot be meant."""
    if not 1 <= max_tokens < 2**31:
        raise InputError(f"--max-tokens is {max_tokens}, must be at least 1 and below 2147483648")
    if not 0 <= temperature < math.inf:
        raise InputError(f"--temperature is {temperature}, must be at least 0")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed is {seed}, must be from 0 to 4294967295")


def check_prompt(prompt: str | None) -> None:
    """Refuse what is no text, and no prompt where none can be typed."""
    if prompt is None:
        if sys.stdin is None:  # closed by whoever started us
            raise InputError("there is no input to read prompts from; give --prompt")
        return
    if not prompt.strip():
        raise InputError("--prompt is empty; leave it away to type prompts")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"--prompt is not UTF-8 (character {error.start})") from error


def begin(arguments: dict, origin: Origin) -> Conversation:
    """Load tokenizer and model, once everything that can be wrong without the weights has been looked at."""
    import torch
    import transformers
    from rich.console import Console

    from maple.adapter import load_adapter
    from maple.conversation import Conversation, fitting
    from maple.data.prompts import check_template
    from maple.device import choose_device
    from maple.loading import loading
    from maple.model import check_config, load_model, read_config
    from maple.tokenizer import load_tokenizer

    transformers.logging.set_verbosity_error()
    adapter, bits, template, max_tokens = (arguments[n] for n in ("adapter", "bits", "template", "max_tokens"))
    device, dtype = choose_device(arguments["device"], arguments["precision"])
    check_config(origin.folder, bits)
    config, tokenizer = read_config(origin.folder), load_tokenizer(origin.folder)
    if template != "plain":
        check_template(template, tokenizer)
    if arguments["prompt"] is not None:
        fitting([arguments["prompt"]], template, tokenizer, config, max_tokens)
    with loading(Console(stderr=True, highlight=False)) as progress:
        model = load_model(**origin.load_arguments(bits), rank=0, device=device, dtype=dtype, progress=progress)
    if adapter is not None:
        load_adapter(model, adapter)
    torch.manual_seed(arguments["seed"])
    return Conversation(model, tokenizer, template, max_tokens, arguments["temperature"])


def answer(conversation: Conversation, prompt: str) -> None:
    """The answer on stdout as it comes, and on stderr why it ended before its end."""

    def write(piece: str) -> None:
        print(without_controls(piece), end="", flush=True)

    cut = conversation.answer(prompt, write)
    print(flush=True)
    if cut:
        say(f"(stopped: {cut})")


def talk(conversation: Conversation) -> None:
    """A line a prompt, until Ctrl-D or the end of the input."""
    typed = sys.stdin.isatty()
    if typed:
        remembers = "earlier turns are remembered" if conversation.template == "chat" else "each prompt stands alone"
        say(f"A line is a prompt; {remembers}. Ctrl-C stops an answer, Ctrl-D leaves.")
    for prompt in lines(typed):
        try:
            answer(conversation, prompt)
        except InputError as error:
            if not typed:
                raise
            say(f"error: {error}")
        except KeyboardInterrupt:  # the stopped answer is not remembered
            if not typed:
                raise
            print(flush=True)


def lines(typed: bool) -> Iterator[str]:
    """What stdin holds, but for blank lines; with line editing and history where they are typed."""
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    if typed:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - input() uses it once it is there
    try:
        while True:
            line = input("> " if typed else "")
            if line.strip():
                yield line
    except EOFError:
        if typed:
            print()


def say(text: str) -> None:
    """One line on stderr."""
    print(without_controls(text), file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.main(chat)
