"""Batched generation: the likeliest token or a drawn one, finished texts leaving the batch and waiting ones entering.

    prompts, longest first ->  prefill: a few prompts at once, PREFILL tokens a pass, into free rows of the cache
                               step:    the newest token of every text in one pass, one more token each
    a text ends            ->  the last row moves into its place, so the texts of a batch are always its first rows

On a GPU the steps are CUDA graphs (`graphs.py`) of the very `Decoder.step` that a CPU runs. What becomes of a text does
not depend on its neighbours beyond the rounding of products with more or fewer rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

from maple.cache import Cache, hidden_states
from maple.errors import InputError
from maple.graphs import Graphs
from maple.tokenizer import check_vocabulary

PREFILL = 4096  # tokens a pass: enough to read a packed weight rarely, 0.3 GB of activations in a 7B model
# Of the rows that must be free before waiting prompts enter: every prefill holds up the texts under way for several
# steps' time, whether it is of one prompt or of a few.
ADMITTED = 4
LOOKING = ("dynamic", "longrope")  # rotary embeddings that look at the positions on the CPU, which no graph can hold


@dataclass
class Text:
    """A prompt and what follows it."""

    index: int  # of the prompt
    prompt: list[int]
    room: int  # tokens
    random: np.random.Generator
    made: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Of its newest token, which the model has not seen yet."""
        return len(self.prompt) + len(self.made) - 1


def generate(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    stop: Collection[int] = (),
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    on_token: Callable[[int, int], None] | None = None,
    ends: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """The tokens that follow each prompt, up to and with the first one of `stop`.

    temperature   0 takes the likeliest token; else tokens are drawn, for each prompt from numbers of its own that
                  follow from `seed` and its place in `prompts`
    batch_size    texts at once; the cache has room for so many of the longest
    on_token      called with the prompt's place and each of its tokens, as they come
    ends          called with a text's tokens so far; True ends it, as a word that no single token is

    A text that fills the model's window ends there. The model is taken as it stands: after training, `model.eval()`
    turns its dropout off. Raises InputError for a prompt that leaves no room in the window.
    """
    if not prompts:
        return []
    longest = min(max(map(len, prompts)) + max(max_new_tokens, 1), model.config.max_position_embeddings)
    decoder = Decoder(model, min(batch_size, len(prompts)), longest)
    return decoder.generate(prompts, max_new_tokens, stop, temperature, seed, on_token, ends)


class Decoder:
    """A model with the cache of `rows` texts of up to `length` tokens, and on a GPU the graphs of its steps.

    Who generates often keeps one: graphs are captured once. They hold the model as it is, so an adapter that is loaded
    later needs a new one.
    """

    def __init__(self, model: PreTrainedModel, rows: int, length: int):
        self.model, self.cache = model, Cache(model, rows, length)
        self.inputs = torch.zeros(2, rows, dtype=torch.long, device=model.device)  # newest token, its position
        self.slots = torch.arange(length, device=model.device)[None]
        head, (keys, _) = model.get_output_embeddings(), self.cache.layers[0]
        # A 16-bit head is turned into what a CPU computes in once, and not at every step.
        self.head = head.packed.to(keys.dtype), None if head.bias is None else head.bias.to(keys.dtype)
        captured = model.config.rope_parameters["rope_type"] not in LOOKING and model.device.type == "cuda"
        self.graphs = Graphs(rows, length) if captured else None

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[list[int]],
        max_new_tokens: int,
        stop: Collection[int] = (),
        temperature: float = 0.0,
        seed: int = 0,
        on_token: Callable[[int, int], None] | None = None,
        ends: Callable[[list[int]], bool] | None = None,
    ) -> list[list[int]]:
        """`generate`, at most so many texts at once and so long as the cache has room for."""
        waiting = [self._text(index, list(prompt), max_new_tokens, seed) for index, prompt in enumerate(prompts)]
        results, active = [text.made for text in waiting], []
        waiting.sort(key=lambda text: -len(text.prompt))
        with torch.cuda.device_of(self.inputs):  # graphs and their streams are made on the current GPU
            while waiting or active:
                free = self.cache.rows - len(active)
                if waiting and (not active or free >= max(1, self.cache.rows // ADMITTED)):
                    entering = _prefilled_together(waiting, free)
                    logits = self.prefill(len(active), [text.prompt for text in entering])
                    active += entering
                else:
                    entering = active
                    logits = self.advance([text.made[-1] for text in active], [text.position for text in active])
                for text, token in zip(entering, choose(logits, entering, temperature), strict=True):
                    text.made.append(token)
                    if on_token:
                        on_token(text.index, token)
                self._leave(active, lambda made: made[-1] in stop or (ends is not None and ends(made)))
        return results

    def _text(self, index: int, prompt: list[int], max_new_tokens: int, seed: int) -> Text:
        window = self.model.config.max_position_embeddings
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}; at least 1 is needed")
        if not prompt:
            raise InputError(f"prompt {index} has no token; begin it with the tokenizer's BOS")
        if len(prompt) >= min(window, self.cache.length):
            limit = f"the model's window of {window}" if len(prompt) >= window else f"a cache of {self.cache.length}"
            raise InputError(f"prompt {index} takes {len(prompt)} tokens, which leaves no room in {limit}")
        check_vocabulary(prompt, self.model.config.vocab_size)
        room = min(max_new_tokens, min(window, self.cache.length) - len(prompt))
        # numpy mixes several seeds into one; torch.Generator takes a single one, of which a CPU uses 32 bits
        return Text(index, prompt, room, np.random.default_rng([seed, index]))

    def _leave(self, active: list[Text], ended: Callable[[list[int]], bool]) -> None:
        """Take finished texts out, from the last row on, so that what moves into a freed row is one that goes on."""
        for row in reversed(range(len(active))):
            text = active[row]
            if ended(text.made) or len(text.made) == text.room:
                last = active.pop()
                if row < len(active):
                    active[row] = last
                    self.cache.move(len(active), row)

    def prefill(self, first: int, prompts: list[list[int]]) -> Tensor:
        """Read prompts into the rows from `first` on; returns the logits [prompts, vocabulary] behind each."""
        count, longest = len(prompts), max(map(len, prompts))
        ids = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts]).to(self.inputs.device)
        width, last = max(1, PREFILL // count), None
        for start in range(0, longest, width):
            end = min(start + width, longest)
            positions = self.slots[:, start:end].expand(count, -1)
            past = self.cache.part(slice(first, first + count), end, positions)
            hidden = hidden_states(self.model, ids[:, start:end], positions, self.slots[:, :end], past=past)
            if last is None:
                last = hidden.new_empty(count, hidden.shape[2])
            ending = [row for row, prompt in enumerate(prompts) if start < len(prompt) <= end]
            last[ending] = hidden[ending, [len(prompts[row]) - 1 - start for row in ending]]
        return linear(last, *self.head)

    def advance(self, ids: list[int], positions: list[int]) -> Tensor:
        """Read one more token of each of the first rows; returns the logits [rows, vocabulary] behind them."""
        count = len(ids)
        self.inputs[:, :count] = torch.tensor([ids, positions])
        length = max(positions) + 1
        if self.graphs:
            return self.graphs.run(self.step, count, length)[:count]
        return self.step(count, length)

    def step(self, rows: int, length: int) -> Tensor:
        """Read `inputs` of the first `rows`, with the first `length` slots before them.

        Called again it writes the same into the same slots. Rows that no text has any more may be among them: their
        old tokens are written into their old slots.
        """
        ids, positions = self.inputs[:, :rows, None]
        past = self.cache.part(slice(0, rows), length, positions)
        hidden = hidden_states(self.model, ids, positions, self.slots[:, :length], past=past)
        return linear(hidden[:, 0], *self.head)


def _prefilled_together(waiting: list[Text], free: int) -> list[Text]:
    """Take the next prompts, as many as there are rows for and, padded to the first and longest, fit one pass."""
    count = max(1, min(free, PREFILL // len(waiting[0].prompt)))
    entering = waiting[:count]
    del waiting[:count]
    return entering


def choose(logits: Tensor, texts: Sequence[Text], temperature: float) -> list[int]:
    """The next token of each text from logits [texts, vocabulary].

    A drawn token is where a number drawn from [0, 1) falls in the running sum of the probabilities: one number a text
    from the CPU, whatever the device and the batch.
    """
    if not temperature:
        return logits.argmax(1).tolist()
    logits = logits.double()
    logits = (logits - logits.amax(1, keepdim=True)) / temperature  # the largest stays 0, however low the temperature
    sums = logits.softmax(1).cumsum(1)
    drawn = torch.tensor([[text.random.random()] for text in texts], dtype=sums.dtype, device=sums.device)
    tokens = torch.searchsorted(sums, drawn * sums[:, -1:], right=True)  # passes over what has no probability
    return tokens.clamp(max=logits.shape[1] - 1).flatten().tolist()
