"""Causal attention over packed samples, none of which sees another.

    P = softmax(scale * Q K^T),  Y = P V          for the tokens of one sample; token i sees j with i - window < j <= i

    dV = P^T dY      dS = P * (dY V^T - rowsum(dY * Y))      dQ = scale * dS K      dK = scale * dS^T Q

Samples lie one behind the other in one list of tokens, and `boundaries` says where each begins: there is no mask, and
nothing is computed between samples. Over a row of 1,024 tokens with 16 samples that is a sixteenth of the products:
4.7 ms where the masked row takes 32 (16 heads of 64, float32, 2 cores).

The products are PyTorch's own flash attention (arXiv 2307.08691), which keeps logsumexp and no P: one call on a GPU,
one a sample on a CPU. What it does not take (float32 on a GPU) is computed as written above.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.autograd import Function

from kernels.backend import OLDEST
from kernels.ops import LIBRARY, computes, looks_like

aten = torch.ops.aten
LARGEST_HEAD, HEAD_MULTIPLE = 256, 8  # dimensions that CUDA's flash attention takes (its flash_api.cpp)


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, boundaries: Tensor, scale: float, longest: int, window: int | None = None
) -> Tensor:
    """Attention of packed samples, differentiable in q, k and v.

    q            [tokens, heads, dim]
    k, v         [tokens, kv heads, dim]; each serves heads / kv heads neighbouring heads of q
    boundaries   int32 [samples + 1], from 0 to tokens: sample i is the tokens boundaries[i] to boundaries[i + 1]
    longest      no sample has more tokens
    window       tokens that one sees, itself included; None: all before it

    Returns [tokens, heads, dim]. Raises ValueError for shapes that do not go together.
    """
    if q.dim() != 3 or k.shape != v.shape or k.shape[::2] != q.shape[::2] or q.shape[1] % k.shape[1]:
        shapes = ", ".join(str(list(t.shape)) for t in (q, k, v))
        raise ValueError(f"q, k and v are {shapes}; [tokens, heads, dim] is needed, heads a multiple of k's and v's")
    if boundaries.dtype != torch.int32 or boundaries.dim() != 1:
        raise ValueError(
            f"boundaries are {list(boundaries.shape)} of {boundaries.dtype}; int32 [samples + 1] is needed"
        )
    window = window if window is not None and window < longest else 0
    return torch.ops.maple.packed_attention(q, k, v, boundaries, scale, longest, window)[0]


# ------------------------------------------------------------------------------------------------------------------
# As written above: one sample, q [heads, n, dim], k and v [kv heads, n, dim]
# ------------------------------------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> tuple[Tensor, Tensor]:
    """(Y [heads, n, dim], logsumexp of the scores [heads, n])."""
    wide, k, v = torch.promote_types(q.dtype, torch.float32), serve(k, q), serve(v, q)
    scores = (q @ k.mT).to(wide) * scale
    scores.masked_fill_(~_visible(len(q[0]), window, q.device), -torch.inf)
    logsumexp = scores.logsumexp(dim=-1)
    return (scores - logsumexp[..., None]).exp().to(v.dtype) @ v, logsumexp


def attend_backward(dy, q, k, v, y, logsumexp, scale, window) -> tuple[Tensor, Tensor, Tensor]:
    """(dQ, dK, dV); what several heads of q shared of k and v is summed."""
    wide, kv_heads = logsumexp.dtype, len(k)
    k, v = serve(k, q), serve(v, q)
    scores = (q @ k.mT).to(wide) * scale
    p = (scores - logsumexp[..., None]).exp().masked_fill_(~_visible(len(q[0]), window, q.device), 0)
    ds = p * ((dy @ v.mT).to(wide) - (dy.to(wide) * y.to(wide)).sum(-1, keepdim=True))
    dv, dk = p.to(dy.dtype).mT @ dy, scale * (ds.to(q.dtype).mT @ q)
    shared = dk.unflatten(0, (kv_heads, -1)).sum(1), dv.unflatten(0, (kv_heads, -1)).sum(1)
    return scale * (ds.to(k.dtype) @ k), *shared


def serve(k: Tensor, q: Tensor) -> Tensor:
    """[kv heads, n, dim] -> [heads of q, n, dim]."""
    return k.repeat_interleave(len(q) // len(k), dim=0)


def _visible(n: int, window: int, device: torch.device) -> Tensor:
    """[n, n]: whether token i sees token j."""
    seen = torch.ones(n, n, dtype=torch.bool, device=device).tril()
    return seen & ~seen.tril(-window) if window else seen


# ------------------------------------------------------------------------------------------------------------------
# All samples
# ------------------------------------------------------------------------------------------------------------------


def flash_on_gpu(q: Tensor) -> bool:
    """Whether CUDA's flash attention takes such a q."""
    if q.device.type != "cuda" or q.dtype not in (torch.bfloat16, torch.float16):
        return False
    new_enough = torch.version.hip is not None or torch.cuda.get_device_capability(q.device) >= OLDEST
    return new_enough and q.shape[2] <= LARGEST_HEAD and q.shape[2] % HEAD_MULTIPLE == 0


def _left(window: int) -> dict[str, int]:
    """How CUDA's flash attention is told of a window: the tokens seen before one's own."""
    return {"window_size_left": window - 1, "window_size_right": 0} if window else {}


def _samples(boundaries: Tensor) -> Iterator[slice]:
    for start, stop in itertools.pairwise(boundaries.tolist()):
        yield slice(start, stop)


def _heads_first(tensors: Iterable[Tensor], sample: slice) -> list[Tensor]:
    return [tensor[sample].transpose(0, 1) for tensor in tensors]


def _flash_on_cpu(q: Tensor, scale: float, window: int, n: int) -> dict | None:
    """What to tell the CPU's flash attention, which knows no window: then it gets a mask."""
    if q.device.type != "cpu":
        return None
    if window and n > window:
        mask = torch.zeros(n, n, dtype=q.dtype).masked_fill_(~_visible(n, window, q.device), -torch.inf)
        return {"is_causal": False, "attn_mask": mask[None, None], "scale": scale}
    return {"is_causal": True, "scale": scale}


LIBRARY.define(
    "packed_attention(Tensor q, Tensor k, Tensor v, Tensor boundaries, "
    "float scale, SymInt longest, int window) -> Tensor[]"
)
LIBRARY.define(
    "packed_attention_backward(Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y, Tensor logsumexp, Tensor boundaries, "
    "float scale, SymInt longest, int window) -> Tensor[]"
)


@computes("packed_attention")
def _forward(q, k, v, boundaries, scale, longest, window):
    """Y [tokens, heads, dim] and logsumexp [heads, tokens] in float32 (float64 for float64)."""
    if flash_on_gpu(q):
        where = boundaries, boundaries, longest, longest, 0.0, True, False
        return list(aten._flash_attention_forward(q, k, v, *where, scale=scale, **_left(window))[:2])
    y, logsumexp = _looks(q, k, v, boundaries, scale, longest, window)
    for sample in () if q.is_meta else _samples(boundaries):
        one = _heads_first((q, k, v), sample)
        if flash := _flash_on_cpu(q, scale, window, one[0].shape[1]):
            found = aten._scaled_dot_product_flash_attention_for_cpu(*(t[None] for t in one), **flash)
            found = [t[0] for t in found]
        else:
            found = attend(*one, scale, window)
        y[sample], logsumexp[:, sample] = found[0].transpose(0, 1), found[1]
    return [y, logsumexp]


@looks_like("packed_attention")
def _looks(q, k, v, boundaries, scale, longest, window):
    wide = torch.promote_types(q.dtype, torch.float32)
    return [q.new_empty(q.shape), q.new_empty(q.shape[1], q.shape[0], dtype=wide)]


@computes("packed_attention_backward")
def _backward(dy, q, k, v, y, logsumexp, boundaries, scale, longest, window):
    """dQ, dK, dV."""
    if flash_on_gpu(q):
        where = boundaries, boundaries, longest, longest, 0.0, True
        # two tensors about the random numbers of a dropout that there is not
        state, unused = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
        saved = q, k, v, y, logsumexp
        return list(
            aten._flash_attention_backward(dy.contiguous(), *saved, *where, state, unused, scale=scale, **_left(window))
        )
    grads = _looks_backward(dy, q, k, v, y, logsumexp, boundaries, scale, longest, window)
    for sample in () if q.is_meta else _samples(boundaries):
        one = [*_heads_first((dy, q, k, v, y), sample), logsumexp[:, sample]]
        if flash := _flash_on_cpu(q, scale, window, one[0].shape[1]):
            causal, batch = flash.pop("is_causal"), [t[None] for t in one]
            found = aten._scaled_dot_product_flash_attention_for_cpu_backward(*batch, 0.0, causal, **flash)
            found = [t[0] for t in found]
        else:
            found = attend_backward(*one, scale, window)
        for grad, part in zip(grads, found, strict=True):
            grad[sample] = part.transpose(0, 1)
    return grads


@looks_like("packed_attention_backward")
def _looks_backward(dy, q, k, v, *others):
    return [t.new_empty(t.shape) for t in (q, k, v)]


class _PackedAttention(Function):
    """The gradients of q, k and v, from logsumexp and the result."""

    @staticmethod
    def forward(ctx, q, k, v, boundaries, *settings):
        with torch._C._AutoDispatchBelowAutograd():
            y, logsumexp = torch.ops.maple.packed_attention(q, k, v, boundaries, *settings)
        ctx.save_for_backward(q, k, v, y, logsumexp, boundaries)
        ctx.settings = settings
        ctx.mark_non_differentiable(logsumexp)
        return y, logsumexp

    @staticmethod
    def backward(ctx, dy, _):
        grads = torch.ops.maple.packed_attention_backward(dy, *ctx.saved_tensors, *ctx.settings)
        return *grads, None, None, None, None


@functools.partial(LIBRARY.impl, "packed_attention", dispatch_key="Autograd")
def _(q, k, v, boundaries, scale, longest, window):
    return list(_PackedAttention.apply(q, k, v, boundaries, scale, longest, window))
