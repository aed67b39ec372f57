"""What is called: arguments checked, shapes flattened to matrices, and the operators that autograd and compilers see.

    kernels.linear ... -> torch.ops.maple.linear ...              -> naive.linear or gpu.linear
                          its gradient, an operator of its own    -> naive.linear_grad_x or gpu.linear_grad_x

An operator is opaque to torch.compile, which needs only the shapes of its results: no graph breaks, and whatever is
decided by device and shape is decided inside. A weight goes in as its tensors and a few numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import Function

from kernels import naive
from kernels.backend import choose
from kernels.checks import FLOATS, check_backend, check_pair, check_weight, check_x
from kernels.packed import Int8Weight, NF4Weight, Weight, check_block_size

NO_SEED = torch.tensor(0)  # what an operator gets where nothing is dropped
FIELDS = 5  # of a weight: how many tensors, whether a bias follows, block_size, out, in


def quantize(weight: Tensor, bits: int = 4, block_size: int = 64, double_quant: bool = False) -> Weight:
    """Pack a float weight [out, in]: bits 4 is NF4 with one absmax for `block_size` elements, bits 8 int8 per row.

    `double_quant` (bits 4) quantises the absmax to 8 bits as well: 4.127 instead of 4.5 bits a weight at block 64.
    Raises ValueError for a weight that is no float matrix or holds NaN or inf, and for bits or block sizes unknown.
    """
    check_weight(weight)
    if bits == 8:
        return naive.quantize_int8(weight)
    if bits != 4:
        raise ValueError(f"bits is {bits}; 4 (NF4) and 8 (int8 per row) can be packed")
    check_block_size(block_size)
    return naive.quantize_nf4(weight, block_size, double_quant)


def dequantize(w: Weight, dtype: torch.dtype = torch.float32, backend: str | None = None) -> Tensor:
    """A weight as floats [out, in] of `dtype`: products in float32, rounded once."""
    check_backend(backend)
    if dtype not in FLOATS:
        raise ValueError(f"dtype is {dtype}; a weight is dequantised to {', '.join(map(str, FLOATS))}")
    return torch.ops.maple.dequantize(*_flatten([w], [None]), dtype, backend or "")


def linear(x: Tensor, w: Weight, bias: Tensor | None = None, backend: str | None = None) -> Tensor:
    """y = x W^T + bias: x [..., in] -> [..., out] in the dtype of x, differentiable in x.

    `w` is a packed weight, or a plain float tensor [out, in] of any float dtype. `backend` is "naive", "triton", or
    None: Triton on a GPU, and on a CPU under TRITON_INTERPRET=1. Raises ValueError for shapes, dtypes or devices that
    do not fit, and where "triton" cannot run.
    """
    check_backend(backend)
    check_x(x, w, bias)
    y = torch.ops.maple.linear(x.reshape(-1, x.shape[-1]), *_flatten([w], [bias]), backend or "")
    return y.view(*x.shape[:-1], w.shape[0])


def lora_linear(
    x: Tensor,
    w: Weight,
    a: Tensor,
    b: Tensor,
    scaling: float,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """y = x W^T + bias + scaling * (dropout(x) A^T) B^T, differentiable in x, a and b.

    Shapes: x [..., in], w [out, in], a [r, in], b [out, r] -> [..., out]. With `dropout` the element (row, column) of x
    is dropped by a hash of `seed`, row and column (naive.dropout_mask); the mask is never stored. A seed that is a
    tensor (0-d, on the CPU) need not be known when torch.compile traces the call.
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
    seed: int | Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """`lora_linear` for several projections of one x (q/k/v, gate/up), which is read once and shares one dropout mask.

    Equal to calling `lora_linear` for each with the same seed. Ranks may differ.
    """
    check_backend(backend)
    biases = [None] * len(ws) if biases is None else list(biases)
    counts = {"ws": len(ws), "a": len(a), "b": len(b), "scalings": len(scalings), "biases": len(biases)}
    if len(set(counts.values())) != 1 or not ws:
        raise ValueError(f"one of each is needed for every projection, found {counts}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1")
    if dropout and seed is None:
        raise ValueError("dropout needs a seed: the mask is a hash of it")
    for w, bias, a_i, b_i in zip(ws, biases, a, b, strict=True):
        check_x(x, w, bias)
        check_pair(x, w, a_i, b_i)
    if not isinstance(seed, Tensor):
        seed = NO_SEED if seed is None else torch.tensor(seed, dtype=torch.int64)
    rows = x.reshape(-1, x.shape[-1])
    *ys, _ = torch.ops.maple.lora_linear(
        rows, *_flatten(ws, biases), list(map(float, scalings)), list(a), list(b), dropout, seed, backend or ""
    )
    return tuple(y.view(*x.shape[:-1], w.shape[0]) for y, w in zip(ys, ws, strict=True))


# ------------------------------------------------------------------------------------------------------------------
# The operators
# ------------------------------------------------------------------------------------------------------------------


def _flatten(ws: Sequence[Weight], biases: Sequence[Tensor | None]) -> tuple[list[Tensor], list[int]]:
    """Weights and biases as an operator takes them: their tensors, and FIELDS numbers for each weight."""
    tensors, layout = [], []
    for w, bias in zip(ws, biases, strict=True):
        parts = [w] if isinstance(w, Tensor) else list(w.tensors().values())
        tensors += parts if bias is None else [*parts, bias]
        layout += [len(parts), bias is not None, w.block_size if isinstance(w, NF4Weight) else 0, *w.shape]
    return tensors, layout


def _unflatten(tensors: Sequence[Tensor], layout: Sequence[int]) -> tuple[list[Weight], list[Tensor | None]]:
    ws, biases, tensors = [], [], iter(tensors)
    for count, has_bias, block_size, out, columns in zip(*[iter(layout)] * FIELDS, strict=True):
        parts = [next(tensors) for _ in range(count)]
        if count == 1:
            ws.append(parts[0])
        elif block_size:
            ws.append(NF4Weight(*parts[:2], (out, columns), block_size, *parts[2:]))
        else:
            ws.append(Int8Weight(*parts))
        biases.append(next(tensors) if has_bias else None)
    return ws, biases


# The schemas are written out, and autograd is told by a Function of flat arguments. torch.library.custom_op does both
# by itself, but its way through lists of tensors took 0.3 ms a layer and step, as long as a small layer itself.
LIBRARY = torch.library.Library("maple", "DEF")
WEIGHTS = "Tensor[] tensors, int[] layout"
LORA = f"{WEIGHTS}, float[] scalings, Tensor[] a, Tensor[] b, float dropout, Tensor seed"
LIBRARY.define(f"dequantize({WEIGHTS}, ScalarType dtype, str backend) -> Tensor")
LIBRARY.define(f"linear(Tensor x, {WEIGHTS}, str backend) -> Tensor")
LIBRARY.define(f"linear_grad_x(Tensor dy, {WEIGHTS}, str backend) -> Tensor")
# y_1, ..., y_g and XA
LIBRARY.define(f"lora_linear(Tensor x, {LORA}, str backend) -> Tensor[]")
# dA of the stacked A, dB_1, ..., dB_g and, with needs_dx, dX, all in the dtype of x
LIBRARY.define(
    f"lora_linear_backward(Tensor[] dys, Tensor x, Tensor xa, {LORA}, bool needs_dx, str backend) -> Tensor[]"
)


COMPUTES: dict[str, Callable] = {}  # what each operator runs, for whoever wants to see inside (maple/live.py)


def computes(name: str) -> Callable:
    """Registers what an operator computes, on every device; Triton launches on the current GPU, so that is set."""

    def register(function):
        def on_its_device(first, *others):
            with torch.cuda.device_of(first if isinstance(first, Tensor) else first[0]):
                return function(first, *others)

        COMPUTES[name] = on_its_device
        LIBRARY.impl(name, on_its_device, "CompositeExplicitAutograd")

    return register


def looks_like(name: str) -> Callable:
    """Registers the shapes and dtypes of an operator's results, for compilers."""
    return torch.library.register_fake(f"maple::{name}", lib=LIBRARY)


@computes("dequantize")
def _dequantize(tensors, layout, dtype, backend):
    ((w,), _) = _unflatten(tensors, layout)
    return choose(backend, w.device, dtype).dequantize(w, dtype)


@looks_like("dequantize")
def _(tensors, layout, dtype, backend):
    return tensors[0].new_empty(layout[3:5], dtype=dtype)


@computes("linear")
def _linear(x, tensors, layout, backend):
    ((w,), (bias,)) = _unflatten(tensors, layout)
    return choose(backend, x.device, x.dtype).linear(as_matrix(x), w, bias)


@looks_like("linear")
def _(x, tensors, layout, backend):
    return x.new_empty(x.shape[0], layout[3])


@computes("linear_grad_x")
def _linear_grad_x(dy, tensors, layout, backend):
    ((w,), _) = _unflatten(tensors, layout)
    return choose(backend, dy.device, dy.dtype).linear_grad_x(as_matrix(dy), w)


@looks_like("linear_grad_x")
def _(dy, tensors, layout, backend):
    return dy.new_empty(dy.shape[0], layout[4])


@computes("lora_linear")
def _lora_linear(x, tensors, layout, scalings, a, b, dropout, seed, backend):
    ws, biases = _unflatten(tensors, layout)
    module = choose(backend, x.device, x.dtype)
    ys, xa = module.lora_linear(as_matrix(x), ws, biases, scalings, a, b, dropout, seed.item())
    return [*ys, xa]


@looks_like("lora_linear")
def _(x, tensors, layout, scalings, a, b, dropout, seed, backend):
    widths = [*layout[3::FIELDS], sum(t.shape[0] for t in a)]
    return [x.new_empty(x.shape[0], width) for width in widths]


@computes("lora_linear_backward")
def _lora_linear_backward(dys, x, xa, tensors, layout, scalings, a, b, dropout, seed, needs_dx, backend):
    ws, _ = _unflatten(tensors, layout)
    module = choose(backend, x.device, x.dtype)
    dx, da, dbs = module.lora_linear_backward(
        [as_matrix(dy) for dy in dys], as_matrix(x), xa, ws, scalings, a, b, dropout, seed.item(), needs_dx
    )
    return [da, *dbs, *([dx] if needs_dx else [])]


@looks_like("lora_linear_backward")
def _(dys, x, xa, tensors, layout, scalings, a, b, dropout, seed, needs_dx, backend):
    da = x.new_empty(xa.shape[1], x.shape[1])
    return [da, *(x.new_empty(t.shape) for t in b), *([x.new_empty(x.shape)] if needs_dx else [])]


class _Linear(Function):
    """dX = dY W, the weight being frozen."""

    @staticmethod
    def forward(ctx, x, layout, backend, *tensors):
        ctx.layout, ctx.backend = layout, backend
        ctx.save_for_backward(*tensors)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.maple.linear(x, tensors, layout, backend)

    @staticmethod
    def backward(ctx, dy):
        tensors = ctx.saved_tensors  # once: activation checkpointing computes them again for one look only
        dx = torch.ops.maple.linear_grad_x(dy, tensors, ctx.layout, ctx.backend)
        return dx, None, None, *[None] * len(tensors)


class _LoRALinear(Function):
    """The gradients of x and of each A and B; XA is kept for them."""

    @staticmethod
    def forward(ctx, x, layout, scalings, dropout, seed, backend, groups, *tensors):
        """`tensors` are those of the weights, then A_1, ..., A_g, B_1, ..., B_g."""
        ctx.settings = layout, scalings, dropout, backend, groups
        weights, a, b = _LoRALinear.parts(tensors, groups)
        with torch._C._AutoDispatchBelowAutograd():
            results = torch.ops.maple.lora_linear(x, weights, layout, scalings, a, b, dropout, seed, backend)
        ctx.save_for_backward(x, results[-1], seed, *tensors)
        ctx.mark_non_differentiable(results[-1])
        return tuple(results)

    @staticmethod
    def backward(ctx, *dys):
        x, xa, seed, *tensors = ctx.saved_tensors
        layout, scalings, dropout, backend, groups = ctx.settings
        weights, a, b = _LoRALinear.parts(tensors, groups)
        needs_dx = ctx.needs_input_grad[0]
        da, *dbs = torch.ops.maple.lora_linear_backward(
            dys[:-1], x, xa, weights, layout, scalings, a, b, dropout, seed, needs_dx, backend
        )
        dx = dbs.pop() if needs_dx else None
        grads = [*da.split([t.shape[0] for t in a]), *dbs]
        grads = [grad.to(t.dtype) for grad, t in zip(grads, (*a, *b), strict=True)]
        return dx, *[None] * (6 + len(weights)), *grads

    @staticmethod
    def parts(tensors, groups):
        """(weights, A, B)."""
        end = len(tensors)
        return tensors[: end - 2 * groups], tensors[end - 2 * groups : end - groups], tensors[end - groups :]


@functools.partial(LIBRARY.impl, "linear", dispatch_key="Autograd")
def _(x, tensors, layout, backend):
    return _Linear.apply(x, layout, backend, *tensors)


@functools.partial(LIBRARY.impl, "lora_linear", dispatch_key="Autograd")
def _(x, tensors, layout, scalings, a, b, dropout, seed, backend):
    return list(_LoRALinear.apply(x, layout, scalings, dropout, seed, backend, len(a), *tensors, *a, *b))


def as_matrix(x: Tensor) -> Tensor:
    """A matrix whose rows are neighbours in memory, as kernels read them."""
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()
