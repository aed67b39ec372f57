"""What stops a run that has gone wrong: numbers that are none, and gradients that are nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch

from maple.data.packing import IGNORED, Batch
from maple.devices import together
from maple.errors import InputError
from maple.lora import lora_parameters
from maple.loss import token_loss

ZERO_STEPS = 3  # a gradient may vanish by chance in one step, as where an answer is certain already; not three times

Sample = tuple[tuple[int, int], int, int]  # (place of the micro-batch, row, number in the row)


class Diverged(InputError):
    """A loss or a gradient is NaN or infinite: `samples` do it each alone, of `total` in the step."""

    def __init__(self, message: str, samples: list[Sample], total: int):
        super().__init__(message)
        self.samples, self.total = samples, total


class Watch:
    """Looks at each loss and each gradient norm of a run."""

    def __init__(self):
        self.zeros = 0  # steps running whose gradient was zero

    def loss(self, model, value: float, step: int, batch: Batch) -> None:
        """Raise Diverged for the loss of a micro-batch that is no number."""
        if not math.isfinite(value):
            raise _diverged(model, f"step {step}: the loss is {value}", [batch])

    def gradient(self, model, norm: float, step: int, tokens: int, batches: list[Batch] | None) -> None:
        """Raise Diverged for a norm that is no number, and InputError when it was zero ZERO_STEPS steps running.

        `batches` are those of the step on this device; None where a device cannot try a sample alone.
        """
        if not math.isfinite(norm) and batches is None:
            raise InputError(f"step {step}: the gradient's norm is {norm}; --strategy ddp would say of which samples")
        if not math.isfinite(norm):
            raise _diverged(model, f"step {step}: the gradient's norm is {norm}", batches)
        self.zeros = self.zeros + 1 if norm == 0 and tokens else 0
        if self.zeros == ZERO_STEPS:
            raise InputError(
                f"step {step}: the gradient has been zero for {ZERO_STEPS} steps, so nothing is learned; look at "
                "--alpha, --precision and the answers in the data"
            )


def _diverged(model, what: str, batches: list[Batch]) -> Diverged:
    alone = list(samples(batches))
    blamed = [place for place, sample in alone if not _is_finite(model, sample)]
    found = together((blamed, len(alone)))
    return Diverged(what, [place for places, _ in found for place in places], sum(count for _, count in found))


def samples(batches: list[Batch]) -> Iterator[tuple[Sample, Batch]]:
    """The samples of packed micro-batches one by one, each as a micro-batch of its own."""
    for batch in batches:
        for row, positions in enumerate(batch["position_ids"].tolist()):
            starts = [i for i, position in enumerate(positions) if position == 0] + [len(positions)]
            for number, (start, stop) in enumerate(pairwise(starts)):
                keys = ("input_ids", "position_ids", "labels")
                sample = {key: batch[key][row : row + 1, start:stop] for key in keys}
                if (sample["labels"] != IGNORED).any():  # padding is a sample of its own of which nothing is
                    yield (batch["place"], row, number), sample


def _is_finite(model, sample: Batch) -> bool:
    """Whether loss and gradient of one sample are numbers."""
    with torch.enable_grad():
        loss, _ = token_loss(model, sample)
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in lora_parameters(model)])
    return all(bool(t.isfinite().all()) for t in (loss, *gradients))
