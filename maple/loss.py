"""Cross-entropy through a frozen output head, without ever holding all logits.

    loss = sum over n of  logsumexp(z_n) - z_n[t_n],      z_n = head(h_n),   h [N, hidden], t [N]
    dL/dh_n = (softmax(z_n) - onehot(t_n)) W              W [vocabulary, hidden], the frozen head

Logits of 8,192 tokens over 128,000 words would be 4.2 GB in float32. Here CHUNK tokens at a time become logits, their
loss and at once their gradient, and the logits are gone: what is kept for the backward is dL/dh, as large as h.
(The idea of Liger-Kernel's fused linear cross-entropy, arXiv 2410.10989.)
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from maple.blocks import boundaries
from maple.data.packing import IGNORED, Batch
from maple.quantized import QuantizedLinear

CHUNK = 1024  # tokens: 131 MB of float32 logits for a vocabulary of 32,000


class HeadCrossEntropy(Function):
    """Sum of the cross-entropies of N tokens, differentiable in the hidden states only."""

    @staticmethod
    def forward(ctx, hidden: Tensor, head: QuantizedLinear, targets: Tensor) -> Tensor:
        """Shapes: hidden [N, hidden], targets [N] -> [] in float32 (float64 for float64)."""
        needed = ctx.needs_input_grad[0]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        gradient = torch.empty_like(hidden) if needed else None
        total = torch.zeros((), dtype=wide, device=hidden.device)
        weight = head.packed.to(hidden.dtype)  # a copy on a CPU, where a 16-bit head meets float32 states
        for start in range(0, hidden.shape[0], CHUNK):
            chunk, target = hidden[start : start + CHUNK], targets[start : start + CHUNK, None]
            logits = (chunk @ weight.T).to(wide)
            if head.bias is not None:
                logits += head.bias
            log_normaliser = logits.logsumexp(dim=1, keepdim=True)
            total += (log_normaliser - logits.gather(1, target)).sum()
            if needed:
                probabilities = logits.sub_(log_normaliser).exp_()
                probabilities.scatter_add_(1, target, torch.full_like(target, -1, dtype=probabilities.dtype))
                torch.mm(probabilities.to(hidden.dtype), weight, out=gradient[start : start + CHUNK])
        ctx.gradient = gradient
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, dtotal: Tensor):
        """Gradient for hidden."""
        return ctx.gradient * dtotal.to(ctx.gradient.dtype), None, None


def token_loss(model, batch: Batch) -> tuple[Tensor, int]:
    """(sum of the losses of the supervised tokens, their number) of a packed batch."""
    hidden, targets = _supervised(model, batch)
    return HeadCrossEntropy.apply(hidden, model.get_output_embeddings(), targets), len(targets)


@dataclass(frozen=True)
class Score:
    """Sums over validation samples; two of them add up."""

    loss: float = 0.0  # of the supervised tokens
    tokens: int = 0
    matches: int = 0  # samples of which every supervised token was the likeliest
    samples: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    @property
    def mean_loss(self) -> float:
        """Per supervised token."""
        return self.loss / self.tokens

    @property
    def exact_match(self) -> float:
        """Share of the samples that greedy decoding would answer to the letter.

        Greedy decoding takes the likeliest token at each step, so as long as each was the expected one it has read what
        the labels say: that all of them are likeliest given the expected answer so far, EOS included, is the same.
        """
        return self.matches / self.samples


@torch.no_grad()
def score(model, batch: Batch) -> Score:
    """Loss and exact matches of a packed validation batch."""
    hidden, targets = _supervised(model, batch)
    head, loss, wrong = model.get_output_embeddings(), 0.0, []
    for chunk, target in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
        logits = head(chunk).to(torch.promote_types(hidden.dtype, torch.float32))
        loss += cross_entropy(logits, target, reduction="sum").item()
        wrong.append(logits.argmax(dim=1) != target)
    # positions begin at 0 with each packed sample, so counting the zeros numbers the samples
    owner = (batch["position_ids"] == 0).flatten().cumsum(0)[batch["labels"].flatten() != IGNORED]
    samples, failed = owner.unique().numel(), owner[torch.cat(wrong)].unique().numel()
    return Score(loss, len(targets), samples - failed, samples)


def hidden_states(model, batch: Batch) -> Tensor:
    """The decoder's last states [rows, length, hidden] of a packed batch.

    In place of a mask its attention gets the boundaries of the samples, so that none sees another.
    """
    positions = batch["position_ids"]
    return model.base_model(
        input_ids=batch["input_ids"], position_ids=positions, attention_mask=boundaries(positions), use_cache=False
    ).last_hidden_state


def _supervised(model, batch: Batch) -> tuple[Tensor, Tensor]:
    """(hidden states [N, hidden], the token expected after each [N]) where a packed batch is supervised."""
    supervised = batch["labels"] != IGNORED
    return hidden_states(model, batch)[supervised], batch["labels"][supervised]
