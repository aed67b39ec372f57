"""What is called: arguments checked, shapes flattened to matrices, a backend chosen, the operation run.

There is one backend in this tree, `naive.py`, for every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import naive
from kernels.packed import Weight, check_block_size

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # a float8 weight has a scale beside it


def quantize(weight: Tensor, bits: int = 4, block_size: int = 64, double_quant: bool = False) -> Weight:
    """Pack a float weight [out, in]: bits 4 is NF4 with one absmax for `block_size` elements, bits 8 int8 per row.

    `double_quant` (bits 4) quantises the absmax to 8 bits as well: 4.127 instead of 4.5 bits a weight at block 64.
    Raises ValueError for a weight that is no float matrix or holds NaN or inf, and for bits or block sizes unknown.
    """
    if weight.dim() != 2 or weight.dtype not in FLOATS or weight.numel() == 0:
        raise ValueError(f"weight must be a float matrix [out, in], found {list(weight.shape)} of {weight.dtype}")
    if bits == 8:
        return naive.quantize_int8(weight)
    if bits != 4:
        raise ValueError(f"bits is {bits}; 4 (NF4) and 8 (int8 per row) can be packed")
    check_block_size(block_size)
    return naive.quantize_nf4(weight, block_size, double_quant)


def linear(x: Tensor, w: Weight, bias: Tensor | None = None, backend: str | None = None) -> Tensor:
    """y = x W^T + bias: x [..., in] -> [..., out] in the dtype of x, differentiable in x.

    `w` is a packed weight, or a plain float tensor [out, in] of any float dtype. Raises ValueError for shapes, dtypes
    or devices that do not fit.
    """
    _check_backend(backend)
    _check_x(x, w, bias)
    y = naive.Linear.apply(x.reshape(-1, x.shape[-1]), w, bias)
    return y.view(*x.shape[:-1], w.shape[0])


def lora_linear(
    x: Tensor,
    w: Weight,
    a: Tensor,
    b: Tensor,
    scaling: float,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """y = x W^T + bias + scaling * (dropout(x) A^T) B^T, differentiable in x, a and b.

    Shapes: x [..., in], w [out, in], a [r, in], b [out, r] -> [..., out]. With `dropout` the element (row, column) of x
    is dropped by a hash of `seed`, row and column (naive.dropout_mask); the mask is never stored.
    """
    return lora_linear_grouped(x, [w], [a], [b], [scaling], [bias], dropout, seed, backend)[0]


def lora_linear_grouped(
    x: Tensor,
    ws: Sequence[Weight],
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    scalings: Sequence[float],
    biases: Sequence[Tensor | None] | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """`lora_linear` for several projections of one x (q/k/v, gate/up), which is read once and shares one dropout mask.

    Equal to calling `lora_linear` for each with the same seed. Ranks may differ.
    """
    _check_backend(backend)
    biases = [None] * len(ws) if biases is None else list(biases)
    counts = {"ws": len(ws), "a": len(a), "b": len(b), "scalings": len(scalings), "biases": len(biases)}
    if len(set(counts.values())) != 1 or not ws:
        raise ValueError(f"one of each is needed for every projection, found {counts}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1")
    if dropout and seed is None:
        raise ValueError("dropout needs a seed: the mask is a hash of it")
    for w, bias, a_i, b_i in zip(ws, biases, a, b, strict=True):
        _check_x(x, w, bias)
        _check_pair(w, a_i, b_i)
    ys = naive.LoRALinear.apply(x.reshape(-1, x.shape[-1]), dropout, seed, list(ws), biases, list(scalings), *a, *b)
    return tuple(y.view(*x.shape[:-1], w.shape[0]) for y, w in zip(ys, ws, strict=True))


def _check_backend(backend: str | None) -> None:
    if backend not in (None, "naive"):
        raise ValueError(f"backend is {backend!r}; this version has 'naive'")


def _check_x(x: Tensor, w: Weight, bias: Tensor | None) -> None:
    out, columns = w.shape
    if not x.is_floating_point() or x.dim() == 0 or x.shape[-1] != columns:
        raise ValueError(f"x must be floats [..., {columns}] for a weight {[out, columns]}, found {list(x.shape)}")
    if bias is not None and list(bias.shape) != [out]:
        raise ValueError(f"bias must be [{out}] for a weight {[out, columns]}, found {list(bias.shape)}")
    if isinstance(w, Tensor) and w.requires_grad:
        raise ValueError("the weight requires a gradient; a frozen one is expected: weight.requires_grad_(False)")
    if bias is not None and bias.requires_grad:
        raise ValueError("the bias requires a gradient; a frozen one is expected: bias.requires_grad_(False)")
    if w.device != x.device:
        raise ValueError(f"x lies on {x.device}, the weight on {w.device}")


def _check_pair(w: Weight, a: Tensor, b: Tensor) -> None:
    out, columns = w.shape
    if a.dim() != 2 or a.shape[1] != columns:
        raise ValueError(f"a must be [r, {columns}] for a weight {[out, columns]}, found {list(a.shape)}")
    if list(b.shape) != [out, a.shape[0]]:
        raise ValueError(f"b must be {[out, a.shape[0]]} for a {list(a.shape)}, found {list(b.shape)}")
    for name, tensor in (("a", a), ("b", b)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floats, found {tensor.dtype}")
