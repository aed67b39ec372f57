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
