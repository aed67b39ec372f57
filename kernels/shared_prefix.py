"""Attention of texts that begin alike: what they share is there once, and none of them sees another.

    prefix      its tokens see those before them, as in any text
    branch      its tokens see the whole prefix, and of the branch those before them

Two softmaxes over parts of the keys make the one over all of them, since each part brings the logarithm of its sum
(FlashAttention's own rule for tiles, arXiv 2205.14135, section 3.1; for shared prefixes: Hydragen, arXiv 2402.05099):

    Y = (e^l1 Y1 + e^l2 Y2) / (e^l1 + e^l2),      l = log sum exp(scale * q k^T)

So prefixes and branches are packed samples (`attention.py`), and what branches see of their prefix is one more product.
Nothing is computed between branches. There is no gradient: texts are scored.

On a GPU these are two calls, on a CPU one for each sample. Padded into one call they were slower there: with 60 M
parameters XNLI was scored at 1.6 times the speed of lm-evaluation-harness, and one by one at 2.0 times.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.attention import flash_on_gpu, serve

aten = torch.ops.aten


class Prefixes(NamedTuple):
    """Which tokens are whose: all prefixes lie first, one behind the other, then the branches of each in that order."""

    prefixes: Tensor  # int32 [texts + 1], from 0 to the end of the last prefix
    branches: Tensor  # int32 [texts + 1], the same of the branches of each prefix, counted from the end of the prefixes
    in_prefixes: int  # tokens of all prefixes
    longest_prefix: int  # tokens
    longest_branches: int  # tokens of all branches of one prefix


def shared_prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    boundaries: Tensor,
    shared: Prefixes,
    scale: float,
    longest: int,
    window: int | None = None,
) -> Tensor:
    """Attention of packed prefixes and their branches.

    q            [tokens, heads, dim]
    k, v         [tokens, kv heads, dim]; each serves heads / kv heads neighbouring heads of q
    boundaries   int32 [samples + 1], of the prefixes and of each single branch
    longest      no sample has more tokens
    window       tokens that one sees, itself included; a prefix and a branch have no more, only a text alone may

    Returns [tokens, heads, dim].
    """
    first = shared.in_prefixes
    window = window if window is not None and window < longest else 0
    y, logsumexp = torch.ops.maple.packed_attention(q, k, v, boundaries, scale, longest, window)
    if first == len(q):
        return y
    of_prefix, logsumexp_of_prefix = _see_prefixes(q[first:], k[:first], v[:first], shared, scale)
    own = logsumexp[:, first:]
    whole = torch.logaddexp(own, logsumexp_of_prefix)
    weights = [(part - whole).exp().T[..., None] for part in (own, logsumexp_of_prefix)]
    merged = weights[0] * y[first:] + weights[1] * of_prefix  # in float32, where the logarithms are, and rounded once
    return torch.cat([y[:first], merged.to(y.dtype)])


def _see_prefixes(q: Tensor, k: Tensor, v: Tensor, shared: Prefixes, scale: float) -> tuple[Tensor, Tensor]:
    """(Y [tokens of branches, heads, dim], logsumexp [heads, tokens of branches]): each sees all of its prefix."""
    if flash_on_gpu(q):
        where = shared.branches, shared.prefixes, shared.longest_branches, shared.longest_prefix
        return aten._flash_attention_forward(q, k, v, *where, 0.0, False, False, scale=scale)[:2]
    wide = torch.promote_types(q.dtype, torch.float32)
    y, logsumexp = torch.empty_like(q), q.new_empty(q.shape[1], len(q), dtype=wide)
    ranges = zip(pairwise(shared.branches.tolist()), pairwise(shared.prefixes.tolist()), strict=True)
    for (start, stop), (first, last) in ranges:
        if start < stop:
            one = [t.transpose(0, 1)[None] for t in (q[start:stop], k[first:last], v[first:last])]
            see = aten._scaled_dot_product_flash_attention_for_cpu if q.device.type == "cpu" else _written_out
            found = see(*one, scale=scale)
            y[start:stop], logsumexp[:, start:stop] = found[0][0].transpose(0, 1), found[1][0]
    return y, logsumexp


def _written_out(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """q [1, heads, n, dim], k and v [1, kv heads, m, dim]: what a GPU's flash attention does not take."""
    k, v = (serve(t[0], q[0])[None] for t in (k, v))
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * scale
    logsumexp = scores.logsumexp(dim=-1)
    return (scores - logsumexp[..., None]).exp().to(v.dtype) @ v, logsumexp
