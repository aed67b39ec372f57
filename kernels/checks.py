"""What does not fit is refused by name, with what is allowed, before anything is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.packed import Weight

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # a float8 weight has a scale beside it


def check_weight(weight: Tensor) -> None:
    """A weight to be packed: a float matrix that is not empty."""
    if weight.dim() != 2 or weight.dtype not in FLOATS or weight.numel() == 0:
        raise ValueError(f"weight must be a float matrix [out, in], found {list(weight.shape)} of {weight.dtype}")


def check_backend(backend: str | None) -> None:
    """The name of a backend, or None."""
    if backend not in (None, "naive", "triton"):
        raise ValueError(f"backend is {backend!r}; there are 'naive' and 'triton'")


def check_x(x: Tensor, w: Weight, bias: Tensor | None) -> None:
    """x [..., in] and bias [out] beside a frozen weight [out, in], all on one device."""
    out, columns = w.shape
    if x.dtype not in FLOATS or x.dim() == 0 or x.shape[-1] != columns:
        raise ValueError(
            f"x must be floats [..., {columns}] for a weight {[out, columns]}, found {list(x.shape)} of {x.dtype}"
        )
    if isinstance(w, Tensor) and w.requires_grad:
        raise ValueError("the weight requires a gradient; a frozen one is expected: weight.requires_grad_(False)")
    if w.device != x.device:
        raise ValueError(f"x lies on {x.device}, the weight on {w.device}")
    if bias is None:
        return
    if list(bias.shape) != [out] or bias.dtype not in FLOATS:
        raise ValueError(
            f"bias must be floats [{out}] for a weight {[out, columns]}, found {list(bias.shape)} of {bias.dtype}"
        )
    if bias.requires_grad:
        raise ValueError("the bias requires a gradient; a frozen one is expected: bias.requires_grad_(False)")
    if bias.device != x.device:
        raise ValueError(f"x lies on {x.device}, the bias on {bias.device}")


def check_pair(x: Tensor, w: Weight, a: Tensor, b: Tensor) -> None:
    """A [r, in] and B [out, r] beside a weight [out, in], on the device of x."""
    out, columns = w.shape
    if a.dim() != 2 or a.shape[1] != columns or a.shape[0] == 0:
        raise ValueError(
            f"a must be [r, {columns}] with r at least 1 for a weight {[out, columns]}, found {list(a.shape)}"
        )
    if list(b.shape) != [out, a.shape[0]]:
        raise ValueError(f"b must be {[out, a.shape[0]]} for a {list(a.shape)}, found {list(b.shape)}")
    for name, tensor in (("a", a), ("b", b)):
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name} must be floats, found {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"x lies on {x.device}, {name} on {tensor.device}")


def check_norm(x: Tensor, weight: Tensor) -> None:
    """x [..., n] and a frozen weight [n], on one device."""
    if x.dtype not in FLOATS or x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must be floats [..., n] with n at least 1, found {list(x.shape)} of {x.dtype}")
    if list(weight.shape) != [x.shape[-1]] or weight.dtype not in FLOATS:
        raise ValueError(
            f"weight must be floats [{x.shape[-1]}] for x {list(x.shape)}, found {list(weight.shape)} of {weight.dtype}"
        )
    if weight.requires_grad:
        raise ValueError("the weight requires a gradient; a frozen one is expected: weight.requires_grad_(False)")
    if weight.device != x.device:
        raise ValueError(f"x lies on {x.device}, the weight on {weight.device}")


def check_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    """q and k [batch, heads, tokens, head_dim], cos and sin [1 or batch, tokens, head_dim], on one device."""
    if q.dim() != 4 or q.shape[3] % 2 or q.shape[3] == 0 or q.dtype not in FLOATS:
        raise ValueError(
            "q must be floats [batch, heads, tokens, head_dim] with an even head_dim, "
            f"found {list(q.shape)} of {q.dtype}"
        )
    batch, _, tokens, width = q.shape
    if k.dim() != 4 or [k.shape[i] for i in (0, 2, 3)] != [batch, tokens, width] or k.dtype != q.dtype:
        raise ValueError(
            f"k must be [{batch}, heads, {tokens}, {width}] of {q.dtype} beside q, found {list(k.shape)} of {k.dtype}"
        )
    for name, tensor in (("cos", cos), ("sin", sin)):
        if list(tensor.shape) not in ([1, tokens, width], [batch, tokens, width]) or tensor.dtype not in FLOATS:
            raise ValueError(
                f"{name} must be floats [1 or {batch}, {tokens}, {width}] beside q {list(q.shape)}, "
                f"found {list(tensor.shape)} of {tensor.dtype}"
            )
        if tensor.requires_grad:
            raise ValueError(f"{name} requires a gradient; there is none for angles: {name}.detach()")
    for name, tensor in (("k", k), ("cos", cos), ("sin", sin)):
        if tensor.device != q.device:
            raise ValueError(f"q lies on {q.device}, {name} on {tensor.device}")


def check_swiglu(gate: Tensor, up: Tensor) -> None:
    """gate and up [..., n], alike."""
    if gate.dtype not in FLOATS or gate.dim() == 0 or gate.shape[-1] == 0:
        raise ValueError(f"gate must be floats [..., n] with n at least 1, found {list(gate.shape)} of {gate.dtype}")
    if up.shape != gate.shape or up.dtype != gate.dtype:
        raise ValueError(
            f"up must be {list(gate.shape)} of {gate.dtype} as the gate, found {list(up.shape)} of {up.dtype}"
        )
    if up.device != gate.device:
        raise ValueError(f"gate lies on {gate.device}, up on {up.device}")
