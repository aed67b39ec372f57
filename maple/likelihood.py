"""How likely a model finds continuations of a text: multiple choice without generating anything.

    log P(choice | prefix) = sum over k of  log softmax(z_k)[choice_k],   z_k = head(h of the token before choice_k)

The choices of an item share its prefix, and with it whatever they all begin with, as XNLI's three do with the whole
premise. It is read and scored once; each choice is a branch behind it that sees no other (`kernels/shared_prefix.py`).
A pass holds the prefixes of several items and then their branches, one behind the other, without padding:

    tokens     prefix 1 | prefix 2 | A A A | B B | C | D D       the last token of a choice has nothing to predict:
    position   0 1 2 3    0 1 2      4 5 6   4 5   3   3 4       it is not read

On two CPU cores it scores 1.8 times as many items of XNLI and XCOPA a second as lm-evaluation-harness, and 3.3 times as
many of Belebele (60 M parameters; benchmarks/evaluate.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice, takewhile

import torch
from torch import Tensor
from transformers import PreTrainedModel

import kernels
from maple.errors import InputError
from maple.loss import CHUNK
from maple.tokenizer import check_vocabulary


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

    batch_tokens   of one pass; only a single choice behind its prefix may exceed it

    Raises InputError for an empty prefix or choice, and for one that does not fit the model's window.
    """
    for number, (prefix, choices) in enumerate(items):
        _check(model, number, prefix, choices)
    window = getattr(model.config, "sliding_window", None)
    rows = [row for number, item in enumerate(items) for row in _rows(number, *item, batch_tokens, window)]
    results = [[None] * len(choices) for _, choices in items]
    for batch in _passes(rows, batch_tokens):
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


def _rows(
    number: int, prefix: list[int], choices: list[list[int]], batch_tokens: int, window: int | None
) -> Iterator[Row]:
    """One row, or several where the choices of an item are more than a pass takes.

    Where a text is longer than a sliding window each choice has a row of its own: it is then all prefix.
    """
    if window is not None and len(prefix) + max(map(len, choices)) > window:
        groups = [[(place, ids)] for place, ids in enumerate(choices)]
    else:
        groups = [list(enumerate(choices))]
    for group in groups:
        alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(ids[:-1] for _, ids in group), strict=False))
        shared = len(list(alike))  # each choice keeps a token of its own
        row = Row(number, prefix + group[0][1][:shared], shared)
        for place, ids in group:
            if row.choices and row.length + len(ids) - shared - 1 > batch_tokens:
                yield row
                row = Row(number, row.prefix, shared)
            row.choices.append((place, ids[shared:]))
        yield row


def _passes(rows: list[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Rows in their order, as many at once as a pass takes."""
    batch, tokens = [], 0
    for row in rows:
        if batch and tokens + row.length > batch_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += row.length
    yield batch


def _score(model: PreTrainedModel, rows: list[Row]) -> list[Likelihood]:
    """The likelihoods of all choices of some rows, in one pass."""
    hidden = _hidden_states(model, rows)
    targets, places, counts = _targets(rows)
    log_probabilities, likeliest = _of_tokens(model, hidden, places, targets)
    parts = zip(log_probabilities.split(counts), likeliest.split(counts), strict=True)
    scores = iter([Likelihood(values.sum().item(), len(values), bool(matches.all())) for values, matches in parts])
    found = ((next(scores), islice(scores, len(row.choices))) for row in rows)
    return [beginning + choice for beginning, choices in found for choice in choices]


def _hidden_states(model: PreTrainedModel, rows: list[Row]) -> Tensor:
    """[tokens, hidden], of all prefixes and then of all branches."""
    branches = [(len(row.prefix), ids[:-1]) for row in rows for _, ids in row.choices if len(ids) > 1]
    samples = [(0, row.prefix) for row in rows] + branches  # with the position of the first token
    ids = [token for _, sample in samples for token in sample]
    positions = [start + i for start, sample in samples for i in range(len(sample))]
    ids, positions = torch.tensor([ids, positions], device=model.device)[:, None]
    of_prefixes, of_branches = [len(row.prefix) for row in rows], [row.length - len(row.prefix) for row in rows]
    return model.base_model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=_ends(model.device, [len(sample) for _, sample in samples])[None, None, None],
        shared=kernels.Prefixes(
            _ends(model.device, of_prefixes),
            _ends(model.device, of_branches),
            sum(of_prefixes),
            max(of_prefixes),
            max(of_branches),
        ),
        use_cache=False,
    ).last_hidden_state[0]


def _ends(device: torch.device, lengths: list[int]) -> Tensor:
    """int32 [samples + 1], from 0."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _targets(rows: list[Row]) -> tuple[list[int], list[int], list[int]]:
    """(tokens to score, where the state before each is, how many of them belong together).

    Of each row first those that its choices share, then those of each choice.
    """
    targets, places, counts = [], [], []
    end, after = 0, sum(len(row.prefix) for row in rows)  # of the row's prefix, and where its branches begin
    for row in rows:
        end += len(row.prefix)
        targets += row.prefix[len(row.prefix) - row.shared :]
        places += range(end - 1 - row.shared, end - 1)
        counts.append(row.shared)
        for _, ids in row.choices:
            targets += ids
            places += [end - 1, *range(after, after + len(ids) - 1)]
            after += len(ids) - 1
            counts.append(len(ids))
    return targets, places, counts


def _logits(head: torch.nn.Module, hidden: Tensor) -> Tensor:
    """In float32 also where the model computes in 16 bits: rounded to those, 5 of 200 items of Belebele had a tie."""
    if hidden.dtype not in (torch.bfloat16, torch.float16):
        return head(hidden)
    weight, bias = head.packed, 0 if head.bias is None else head.bias.float()
    if hidden.device.type == "cuda":
        return torch.mm(hidden, weight.to(hidden.dtype).T, out_dtype=torch.float32) + bias
    return hidden.float() @ weight.float().T + bias


def _of_tokens(model: PreTrainedModel, hidden: Tensor, places: list[int], targets: list[int]) -> tuple[Tensor, Tensor]:
    """(log-probability of each target, whether it is the likeliest), CHUNK rows of logits at a time, on the CPU."""
    head, log_probabilities, likeliest = model.get_output_embeddings(), [], []
    places = torch.tensor(places, device=hidden.device)
    targets = torch.tensor(targets, device=hidden.device)
    for place, target in zip(places.split(CHUNK), targets.split(CHUNK), strict=True):
        logits = _logits(head, hidden[place])
        log_probabilities.append(logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(1))
        likeliest.append(logits.argmax(1) == target)
    return torch.cat(log_probabilities).double().cpu(), torch.cat(likeliest).cpu()
