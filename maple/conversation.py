"""A conversation with a model: prompts that fit its window, answers as they are generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from maple.data.prompts import prompt_ids
from maple.decoding import Decoder
from maple.errors import InputError
from maple.graphs import power_of_two
from maple.tokenizer import check_vocabulary, stop_ids


@dataclass
class Conversation:
    """A model, asked in one template; under a chat template it sees earlier turns, under any other only the last."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: str
    max_tokens: int  # of one answer
    temperature: float  # 0: the likeliest token
    turns: list[str] = field(default_factory=list)  # the user's and the model's in alternation
    decoder: Decoder | None = None  # kept for the next answer

    def answer(self, text: str, write: Callable[[str], None]) -> str | None:
        """Give the answer to `write` piece by piece; returns why it was cut, None where it ended by itself.

        Raises InputError for a prompt that does not fit the model.
        """
        turns = [*self.turns, text] if self.template == "chat" else [text]
        turns, ids = fitting(turns, self.template, self.tokenizer, self.model.config, self.max_tokens)
        window, stop = self.model.config.max_position_embeddings, stop_ids(self.model, self.tokenizer)
        room = min(self.max_tokens, window - len(ids))
        streamer = Streamer(self.tokenizer, write)
        # a seed an answer: what is asked twice may be answered differently, and all follows from torch.manual_seed
        seed = torch.randint(2**62, ()).item()
        if self.decoder is None or self.decoder.cache.length < len(ids) + room:
            length = min(window, power_of_two(len(ids) + room))  # the next turn is longer, and may still fit
            self.decoder = None  # before there is another one: its cache is as large as it can be
            self.decoder = Decoder(self.model, 1, length)
        self.decoder.generate([ids], room, stop, self.temperature, seed, lambda _, token: streamer.put(token))
        streamer.end()
        self.turns = [*turns, streamer.text]
        if streamer.ids[-1] in stop:
            return None
        return f"--max-tokens {room}" if room == self.max_tokens else f"the model's window of {window} tokens is full"


def fitting(
    turns: list[str], template: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, max_tokens: int
) -> tuple[list[str], list[int]]:
    """(turns, their token ids), the oldest left away until an answer of `max_tokens`, or half a window, fits.

    Raises InputError where even the last turn leaves no room, or makes ids that the model does not have.
    """
    window = config.max_position_embeddings
    room = min(max_tokens, window // 2)
    while True:
        ids = prompt_ids(template, turns, tokenizer)
        if len(turns) == 1 or len(ids) + room <= window:
            break
        turns = turns[2:]
    if not ids:
        raise InputError("the tokenizer makes no token of this prompt")
    if len(ids) >= window:
        raise InputError(f"the prompt takes {len(ids)} tokens, which leaves no room in the model's window of {window}")
    check_vocabulary(ids, config.vocab_size)
    return turns, ids


class Streamer:
    """Text of an answer, handed on as soon as its characters are whole.

    All tokens are decoded each time, and what was not there before is new: a tokenizer may drop a space at the
    beginning of what it decodes. A character whose last bytes are still to come decodes to U+FFFD, and is held back.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]):
        self.tokenizer, self.write = tokenizer, write
        self.ids: list[int] = []
        self.text = ""
        self.written = 0  # characters

    def put(self, token: int) -> None:
        """Take the next token."""
        self.ids.append(token)
        self.text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        self._write(self.text.rstrip("\N{REPLACEMENT CHARACTER}"))

    def end(self) -> None:
        """Hand on what was held back."""
        self._write(self.text)

    def _write(self, text: str) -> None:
        if len(text) > self.written:
            self.write(text[self.written :])
            self.written = len(text)
