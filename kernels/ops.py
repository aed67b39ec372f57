"""What is called: arguments checked, shapes flattened to matrices, and the operators that autograd and compilers see.

    kernels.linear ... -> torch.ops.maple.linear ...              -> naive.linear or gpu.linear
                          its gradient, an operator of its own    -> naive.linear_grad_x or gpu.linear_grad_x

An operator is opaque to torch.compile, which needs only the shapes of its results: no graph breaks, and whatever is
decided by device and shape is decided inside. A weight goes in as its tensors and a few numbers.
"""

import functools
import importlib.util
import os
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import naive
from kernels.checks import FLOATS, check_backend, check_pair, check_weight, check_x
from kernels.packed import Int8Weight, NF4Weight, Weight, check_block_size

TRITON_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
FIELDS = 5  # of a weight: how many tensors, whether a bias follows, block_size, out, in
OLDEST = (8, 0)  # compute capability (A100): what the kernels are compiled for in the tests, and has bfloat16


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
        seed = torch.tensor(0 if seed is None else seed, dtype=torch.int64)
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


@torch.library.custom_op("maple::dequantize", mutates_args=())
def _dequantize(tensors: Sequence[Tensor], layout: Sequence[int], dtype: torch.dtype, backend: str) -> Tensor:
    ((w,), _) = _unflatten(tensors, layout)
    return _backend(backend, w.device, dtype).dequantize(w, dtype)


@_dequantize.register_fake
def _(tensors, layout, dtype, backend):
    return tensors[0].new_empty(layout[3:5], dtype=dtype)


@torch.library.custom_op("maple::linear", mutates_args=())
def _linear(x: Tensor, tensors: Sequence[Tensor], layout: Sequence[int], backend: str) -> Tensor:
    ((w,), (bias,)) = _unflatten(tensors, layout)
    return _backend(backend, x.device, x.dtype).linear(_rows(x), w, bias)


@_linear.register_fake
def _(x, tensors, layout, backend):
    return x.new_empty(x.shape[0], layout[3])


@torch.library.custom_op("maple::linear_grad_x", mutates_args=())
def _linear_grad_x(dy: Tensor, tensors: Sequence[Tensor], layout: Sequence[int], backend: str) -> Tensor:
    ((w,), _) = _unflatten(tensors, layout)
    return _backend(backend, dy.device, dy.dtype).linear_grad_x(_rows(dy), w)


@_linear_grad_x.register_fake
def _(dy, tensors, layout, backend):
    return dy.new_empty(dy.shape[0], layout[4])


def _keep_linear(ctx, inputs, output):
    _, tensors, ctx.layout, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _linear_backward(ctx, dy):
    dx = torch.ops.maple.linear_grad_x(dy, list(ctx.saved_tensors), ctx.layout, ctx.backend)
    return dx, [None] * len(ctx.saved_tensors), None, None


_linear.register_autograd(_linear_backward, setup_context=_keep_linear)


@torch.library.custom_op("maple::lora_linear", mutates_args=())
def _lora_linear(
    x: Tensor,
    tensors: Sequence[Tensor],
    layout: Sequence[int],
    scalings: Sequence[float],
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    dropout: float,
    seed: Tensor,
    backend: str,
) -> list[Tensor]:
    """Returns y_1, ..., y_g and XA."""
    ws, biases = _unflatten(tensors, layout)
    module = _backend(backend, x.device, x.dtype)
    ys, xa = module.lora_linear(_rows(x), ws, biases, scalings, a, b, dropout, seed.item())
    return [*ys, xa]


@_lora_linear.register_fake
def _(x, tensors, layout, scalings, a, b, dropout, seed, backend):
    widths = [*layout[3::FIELDS], sum(t.shape[0] for t in a)]
    return [x.new_empty(x.shape[0], width) for width in widths]


@torch.library.custom_op("maple::lora_linear_backward", mutates_args=())
def _lora_linear_backward(
    dys: Sequence[Tensor],
    x: Tensor,
    xa: Tensor,
    tensors: Sequence[Tensor],
    layout: Sequence[int],
    scalings: Sequence[float],
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    dropout: float,
    seed: Tensor,
    needs_dx: bool,
    backend: str,
) -> list[Tensor]:
    """Returns dA of the stacked A, dB_1, ..., dB_g and, with `needs_dx`, dX, all in the dtype of x."""
    ws, _ = _unflatten(tensors, layout)
    module = _backend(backend, x.device, x.dtype)
    dx, da, dbs = module.lora_linear_backward(
        [_rows(dy) for dy in dys], _rows(x), xa, ws, scalings, a, b, dropout, seed.item(), needs_dx
    )
    return [da, *dbs, *([dx] if needs_dx else [])]


@_lora_linear_backward.register_fake
def _(dys, x, xa, tensors, layout, scalings, a, b, dropout, seed, needs_dx, backend):
    da = x.new_empty(xa.shape[1], x.shape[1])
    return [da, *(x.new_empty(t.shape) for t in b), *([x.new_empty(x.shape)] if needs_dx else [])]


def _keep_lora_linear(ctx, inputs, output):
    x, tensors, ctx.layout, ctx.scalings, a, b, ctx.dropout, seed, ctx.backend = inputs
    ctx.tensors = len(tensors)
    ctx.save_for_backward(x, output[-1], seed, *tensors, *a, *b)


def _lora_linear_grads(ctx, grads):
    x, xa, seed, *rest = ctx.saved_tensors
    tensors, rest = rest[: ctx.tensors], rest[ctx.tensors :]
    a, b = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    needs_dx = ctx.needs_input_grad[0]
    da, *dbs = torch.ops.maple.lora_linear_backward(
        grads[:-1], x, xa, tensors, ctx.layout, ctx.scalings, a, b, ctx.dropout, seed, needs_dx, ctx.backend
    )
    dx = dbs.pop() if needs_dx else None
    das = da.split([t.shape[0] for t in a])
    das, dbs = ([grad.to(t.dtype) for grad, t in zip(*pair, strict=True)] for pair in ((das, a), (dbs, b)))
    return dx, [None] * ctx.tensors, None, None, das, dbs, None, None, None


_lora_linear.register_autograd(_lora_linear_grads, setup_context=_keep_lora_linear)


def _rows(x: Tensor) -> Tensor:
    """A matrix whose rows are neighbours in memory, as kernels read them."""
    return x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()


# ------------------------------------------------------------------------------------------------------------------
# Which backend
# ------------------------------------------------------------------------------------------------------------------


def interpreting() -> bool:
    """Whether Triton kernels run in Python on CPU tensors, where a debugger can step through them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _backend(asked: str, device: torch.device, dtype: torch.dtype):
    """The module whose functions run: `naive` or `gpu`."""
    reason = _no_triton(device, dtype)
    if asked == "triton" and reason:
        raise ValueError(f"backend 'triton' cannot run here: {reason}")
    if asked == "naive" or reason:
        return naive
    from kernels import gpu

    return gpu


def _no_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype not in TRITON_FLOATS:
        return f"x is {dtype}; the kernels take {', '.join(map(str, TRITON_FLOATS))}"
    if device.type == "cpu" and not interpreting():
        return "x lies on the CPU; there the kernels run only under TRITON_INTERPRET=1"
    if device.type == "cpu" and dtype == torch.bfloat16:
        return "x is torch.bfloat16, which Triton's interpreter computes wrongly"
    return None if device.type == "cpu" else _too_old(device)


@functools.cache
def _too_old(device: torch.device) -> str | None:
    """Why this GPU runs plain PyTorch, said once."""
    if importlib.util.find_spec("triton") is None:
        reason = "triton is not installed"
    elif torch.version.hip is None and torch.cuda.get_device_capability(device) < OLDEST:
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        reason = f"{torch.cuda.get_device_name(device)} has compute capability {found}; the kernels need 8.0"
    else:
        return None
    warnings.warn(f"{reason}: weights are dequantised by plain PyTorch, which is slower", stacklevel=2)
    return reason
