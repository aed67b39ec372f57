"""Several samples to a row, so that almost no token is padding, and none of them sees another.

A row is samples one behind the other. Position ids begin again at 0 with each: that is how attention tells packed
samples apart, ours (blocks.boundaries) and transformers' (masking_utils.find_packed_sequence_indices). Labels are
shifted here, inside each sample: the label at a position is the token that comes next in the same sample.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from maple.data.mixture import epoch_counts, epoch_order

if TYPE_CHECKING:  # a training step needs no `datasets`
    from maple.data.tokens import Samples

IGNORED = -100  # the label of a position that is not supervised, as in PyTorch's cross-entropy
SMALLEST_ROW = 64
ROW_PER_SAMPLE = 4  # a row is at most this many times as long as its longest sample
OPEN_ROWS = 64  # rows that wait for a sample that fits, per length; on MultiAlpaca es + pt 64 fill 98 % of the tokens

Place = tuple[int, int]  # (epoch, number in it) of a micro-batch
Batch = dict[str, torch.Tensor | int | Place]
Row = list[int]  # positions in the list of samples that was packed


def row_length(length: int, max_length: int) -> int:
    """Length bucket: max_length halved as often as the row still holds four of the sample.

    The cost of attention grows with the row, not with the sample, so short samples get short rows.
    """
    row = max_length
    while row // 2 >= max(ROW_PER_SAMPLE * length, SMALLEST_ROW):
        row //= 2
    return row


def pack(lengths: Sequence[int], capacity: int) -> list[Row]:
    """Best fit in the order given: each sample goes to the fullest open row that has room for it.

    Of more than OPEN_ROWS rows the fullest is closed, so that samples stay near their place in a shuffled order.
    """
    closed: list[Row] = []
    open_rows: list[tuple[int, int, Row]] = []  # (room left, number, row), sorted
    for number, length in enumerate(lengths):
        best = bisect_left(open_rows, (length,))
        room, order, row = open_rows.pop(best) if best < len(open_rows) else (capacity, number, [])
        row.append(number)
        insort(open_rows, (room - length, order, row))
        if len(open_rows) > OPEN_ROWS:
            closed.append(open_rows.pop(0)[2])
    return closed + [row for _, _, row in open_rows]


def plan(lengths: Sequence[int], max_length: int, batch_tokens: int) -> list[tuple[int, list[Row]]]:
    """Micro-batches of (row length, rows) over all samples, each of at most batch_tokens tokens, padding included."""
    buckets: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        buckets.setdefault(row_length(length, max_length), []).append(number)
    batches = []
    for capacity, members in sorted(buckets.items()):
        rows = [[members[i] for i in row] for row in pack([lengths[m] for m in members], capacity)]
        at_once = batch_tokens // capacity
        batches += [(capacity, rows[i : i + at_once]) for i in range(0, len(rows), at_once)]
    return batches


def collate(rows: list[list[tuple[np.ndarray, int]]], length: int, pad: int) -> Batch:
    """Rows of samples (ids, prompt length) -> input_ids, position_ids, labels, each [rows, length]; tokens, a count.

    A sample of n tokens takes n - 1 places: its last token is only ever a label. Padding is a sample of its own behind
    the others, of which nothing is supervised.
    """
    shape = (len(rows), length)
    input_ids, labels = torch.full(shape, pad), torch.full(shape, IGNORED)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    for r, row in enumerate(rows):
        start = 0
        for ids, prompt_length in row:
            ids = torch.as_tensor(ids, dtype=torch.int64)
            stop = start + len(ids) - 1
            input_ids[r, start:stop] = ids[:-1]
            position_ids[r, start:stop] = torch.arange(len(ids) - 1)
            supervised = max(prompt_length, 1)  # nothing comes before the first token, so it cannot be predicted
            labels[r, start + supervised - 1 : stop] = ids[supervised:]
            start = stop
        position_ids[r, start:] = torch.arange(length - start)
    tokens = sum(len(ids) - 1 for row in rows for ids, _ in row)
    return {"input_ids": input_ids, "position_ids": position_ids, "labels": labels, "tokens": tokens}


def nothing(pad: int) -> Batch:
    """A micro-batch of padding alone."""
    return collate([[]], SMALLEST_ROW, pad)


class TrainingBatches:
    """The micro-batches of a run, epoch after epoch, as one sequence: a function of the seed."""

    def __init__(
        self,
        samples: dict[str, Samples],
        training: dict[str, np.ndarray],
        *,
        max_length: int,
        batch_tokens: int,
        pad: int,
        seed: int,
        mixture: dict,
        epochs: int,
        micro_batches: int | None,
    ):
        self.samples, self.training, self.pad, self.seed = samples, training, pad, seed
        self.max_length, self.batch_tokens = max_length, batch_tokens
        sizes = {language: len(indices) for language, indices in training.items()}
        self.counts, self.cap = epoch_counts(sizes, **mixture), mixture.get("language_cap")
        self.total = micro_batches or sum(len(self.planned(epoch)[1]) for epoch in range(epochs))
        self.done, self.start = 0, (0, 0)
        self.rank, self.world = 0, 1  # whose micro-batches are made here

    def skip(self, done: int, place: Place) -> None:
        """Go on behind the micro-batch at `place`, the last of the first `done`, without making any of them."""
        self.done, self.start = done, (place[0], place[1] + 1)

    @property
    def left(self) -> int:
        """Micro-batches of all ranks that are still to come."""
        return self.total - self.done

    def __len__(self) -> int:
        return -(-self.left // self.world)

    def __iter__(self) -> Iterator[Batch]:
        """Of each round of `world` micro-batches the one of this rank.

        So one process that accumulates 2k and two that accumulate k train each step on the same tokens. In the last
        round some ranks may have none: they get one of which nothing is supervised, to keep step with the others.
        `round` and `last` say how many there were in the round and where the last of them stands.
        """
        left, (epoch, first) = self.left, self.start
        mine, places = None, []
        while left > 0:
            order, batches = self.planned(epoch)
            for number, (length, rows) in list(enumerate(batches))[first : first + left]:
                if len(places) == self.rank:
                    samples = [[self.samples[language][index] for language, index in _in(order, row)] for row in rows]
                    mine = collate(samples, length, self.pad) | self._named((epoch, number))
                places.append((epoch, number))
                left -= 1
                if len(places) == self.world or not left:
                    mine = mine or nothing(self.pad) | self._named(places[-1])
                    yield mine | {"round": len(places), "last": places[-1]}
                    mine, places = None, []
            epoch, first = epoch + 1, 0

    def _named(self, place: Place) -> dict:
        """Where a micro-batch stands, and what its dropout is drawn from, which is the same on whatever rank it is."""
        seed = np.random.SeedSequence([self.seed, *place]).generate_state(1)[0]
        return {"place": place, "seed": int(seed)}

    def samples_at(self, place: Place) -> list[list[tuple[str, int]]]:
        """(language, index) of the samples of a micro-batch, row by row."""
        order, batches = self.planned(place[0])
        return [_in(order, row) for row in batches[place[1]][1]]

    def planned(self, epoch: int) -> tuple[list[tuple[str, int]], list[tuple[int, list[Row]]]]:
        """(samples of an epoch in their order, its micro-batches of (row length, rows)), none of them made."""
        order = epoch_order(self.training, self.counts, self.cap, self.seed, epoch)
        places = [int(self.samples[language].lengths[index]) - 1 for language, index in order]
        batches = plan(places, self.max_length, self.batch_tokens)
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(batches))
        return order, [batches[i] for i in shuffled]


def _in(order: list[tuple[str, int]], row: Row) -> list[tuple[str, int]]:
    return [order[number] for number in row]


def validation_batches(
    samples: Samples, indices: np.ndarray, max_length: int, batch_tokens: int, pad: int
) -> list[Batch]:
    """All validation samples of one language, packed."""
    places = [int(samples.lengths[index]) - 1 for index in indices]
    return [
        collate([[samples[indices[i]] for i in row] for row in rows], length, pad)
        for length, rows in plan(places, max_length, batch_tokens)
    ]
