"""How likely a model finds continuations of a text: multiple choice without generating anything.

    log P(choice | prefix) = sum over k of  log softmax(z_k)[choice_k],   z_k = head(h of the token before choice_k)

The choices of an item share its prefix. They lie behind it in one row, each at the positions that follow the prefix and
blind to the others, so the prefix is read once and everything in a single pass:

    row        prefix prefix prefix | A A A | B B       the last token of a choice has nothing to predict: left away
    position   0      1      2        3 4 5   3 4

Attention within the prefixes is causal and needs no mask, which on a CPU takes most of its time (0.5 ms of 1.9 with
rows of 100 tokens); prefixes are padded to the longest, so that they end in one column.

So do choices that begin alike, as XNLI's three do with the whole premise: that beginning goes behind the prefix, and
its tokens are scored once, for all of them.

The other way, a cache of the prefix that is copied for every choice and read in a second pass, is more code and no
faster: taking turns on a CPU it took 0.95 to 1.2 times as long, and a row for every choice 1.5 times (two choices of 8
tokens behind 18) to 3.5 times (four of one or two behind 300).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile

import torch
from torch import Tensor
from transformers import PreTrainedModel

from maple.cache import hidden_states
from maple.errors import InputError
from maple.loss import CHUNK
from maple.tokenizer import check_vocabulary

PREFIX, PADDING = -1, -2  # in place of the number of a choice


@dataclass
class Likelihood:
    """Of one choice."""

    log_probability: float  # of all its tokens together, natural logarithm
    tokens: int
    greedy: bool  # whether every token is the likeliest, so that greedy decoding would write it

    def __add__(self, other: Likelihood) -> Likelihood:
        """Of a text and of what follows it."""
        log_probability = self.log_probability + other.log_probability
        return Likelihood(log_probability, self.tokens + other.tokens, self.greedy and other.greedy)


@dataclass
class Row:
    """A prefix and some of the choices of its item."""

    item: int
    prefix: list[int]  # with the beginning that all choices of the item share
    shared: int  # tokens of that beginning
    choices: list[tuple[int, list[int]]] = field(default_factory=list)  # (place in the item, the other ids)

    @property
    def length(self) -> int:
        """Tokens that the model reads."""
        return len(self.prefix) + sum(len(ids) - 1 for _, ids in self.choices)


@torch.no_grad()
def score_choices(
    model: PreTrainedModel, items: Sequence[tuple[list[int], list[list[int]]]], batch_tokens: int = 8192
) -> list[list[Likelihood]]:
    """The likelihoods of each item's choices, an item being (ids of the prefix, [ids of a choice, ...]).

    batch_tokens   of one pass, padding included; only a single choice behind its prefix may exceed it

    Raises InputError for an empty prefix or choice, and for one that does not fit the model's window.
    """
    for number, (prefix, choices) in enumerate(items):
        _check(model, number, prefix, choices)
    rows = [row for number, item in enumerate(items) for row in _rows(number, *item, batch_tokens)]
    rows.sort(key=lambda row: -row.length)  # neighbours need little padding, and the largest pass comes first
    results = [[None] * len(choices) for _, choices in items]
    while rows:
        count = max(1, batch_tokens // rows[0].length)
        batch, rows = rows[:count], rows[count:]
        owners = [(row.item, place) for row in batch for place, _ in row.choices]
        for (item, place), likelihood in zip(owners, _score(model, batch), strict=True):
            results[item][place] = likelihood
    return results


def _check(model: PreTrainedModel, number: int, prefix: list[int], choices: list[list[int]]) -> None:
    window = model.config.max_position_embeddings
    if not prefix:
        raise InputError(f"item {number} has no prefix, which predicts the first token of a choice; begin with BOS")
    for place, ids in enumerate(choices):
        if not ids:
            raise InputError(f"choice {place} of item {number} has no token")
        if len(prefix) + len(ids) - 1 > window:  # the last one is not read
            raise InputError(
                f"choice {place} of item {number} takes {len(ids)} tokens and its prefix {len(prefix)}, "
                f"the model's window has {window}"
            )
        check_vocabulary([*prefix, *ids], model.config.vocab_size)


def _rows(number: int, prefix: list[int], choices: list[list[int]], batch_tokens: int) -> list[Row]:
    """One row, or several where the choices of an item are more than a pass takes."""
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(ids[:-1] for ids in choices), strict=False))
    shared = len(list(alike))  # each choice keeps a token of its own
    prefix, rows = prefix + choices[0][:shared], []
    for place, ids in enumerate(choices):
        if not rows or rows[-1].length + len(ids) - shared - 1 > batch_tokens:
            rows.append(Row(number, prefix, shared))
        rows[-1].choices.append((place, ids[shared:]))
    return rows


def _score(model: PreTrainedModel, rows: list[Row]) -> list[Likelihood]:
    """The likelihoods of all choices of some rows, in one pass."""
    width = max(len(row.prefix) for row in rows)
    ids, positions, owners = _batch(rows, width, model.device)
    window = getattr(model.config, "sliding_window", None)
    causal = width if window is None or width <= window else 0
    related = (owners[:, None] == owners[:, causal:, None]) | (owners == PREFIX)[:, None]  # [rows, tokens, keys]
    hidden = hidden_states(model, ids, positions, positions, related, causal=causal)
    targets, places, lengths = _targets(rows, width, hidden.shape[1])
    log_probabilities, likeliest = _of_tokens(model, hidden.flatten(0, 1), places, targets)
    parts = zip(log_probabilities.split(lengths), likeliest.split(lengths), strict=True)
    scores = [Likelihood(values.sum().item(), len(values), bool(matches.all())) for values, matches in parts]
    return [shared + choice for shared, *choices in _by_row(scores, rows) for choice in choices]


def _by_row(scores: list[Likelihood], rows: list[Row]) -> Iterator[list[Likelihood]]:
    """Of each row what its choices share, and its choices."""
    scores = iter(scores)
    return (list(islice(scores, 1 + len(row.choices))) for row in rows)


def _batch(rows: list[Row], width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, positions, which choice a token belongs to) [rows, tokens]: prefixes in `width` columns, choices behind."""
    longest = max(row.length - len(row.prefix) for row in rows)
    batch = []
    for row in rows:
        start, padding = len(row.prefix), width - len(row.prefix)
        ids, positions = row.prefix + [0] * padding, [*range(start), *[0] * padding]
        owners = [PREFIX] * start + [PADDING] * padding
        for place, choice in row.choices:
            ids += choice[:-1]
            positions += range(start, start + len(choice) - 1)
            owners += [place] * (len(choice) - 1)
        padding = width + longest - len(ids)
        batch.append((ids + [0] * padding, positions + [0] * padding, owners + [PADDING] * padding))
    return torch.tensor(batch, device=device).unbind(1)


def _targets(rows: list[Row], width: int, columns: int) -> tuple[list[int], list[int], list[int]]:
    """(tokens to score, where in the flattened batch the state before each is, how many of them belong together).

    Of each row first those that its choices share, then those of each choice.
    """
    targets, places, lengths = [], [], []
    for number, row in enumerate(rows):
        before, after = number * columns + len(row.prefix) - 1, number * columns + width
        targets += row.prefix[len(row.prefix) - row.shared :]
        places += range(before - row.shared, before)
        lengths.append(row.shared)
        for _, ids in row.choices:
            targets += ids
            places += [before, *range(after, after + len(ids) - 1)]
            after += len(ids) - 1
            lengths.append(len(ids))
    return targets, places, lengths


def _of_tokens(model: PreTrainedModel, hidden: Tensor, places: list[int], targets: list[int]) -> tuple[Tensor, Tensor]:
    """(log-probability of each target, whether it is the likeliest), CHUNK rows of logits at a time, on the CPU."""
    head, log_probabilities, likeliest = model.get_output_embeddings(), [], []
    places = torch.tensor(places, device=hidden.device)
    targets = torch.tensor(targets, device=hidden.device)
    for place, target in zip(places.split(CHUNK), targets.split(CHUNK), strict=True):
        logits = head(hidden[place])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_probabilities.append(logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(1))
        likeliest.append(logits.argmax(1) == target)
    return torch.cat(log_probabilities).double().cpu(), torch.cat(likeliest).cpu()
