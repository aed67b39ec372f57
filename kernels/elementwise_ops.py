"""RMSNorm, rotary embedding and SwiGLU as they are called, and as autograd and compilers see them.

kernels.rms_norm ... -> torch.ops.maple.rms_norm ...          -> naive_elementwise.rms_norm or elementwise.rms_norm
                        its gradient, an operator of its own  -> ... rms_norm_backward
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from kernels import naive, naive_elementwise
from kernels.backend import choose
from kernels.checks import check_backend, check_norm, check_rotary, check_swiglu
from kernels.ops import LIBRARY, as_matrix, computes, looks_like


def rms_norm(x: Tensor, weight: Tensor, eps: float, backend: str | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in the dtype of x, differentiable in x.

    Shapes: x [..., n], weight [n], which is frozen. The statistics are in float32, and what is multiplied by the weight
    is rounded to the dtype of x first, as in transformers' modules. `backend` as for `linear`, and so what is refused.
    """
    check_backend(backend)
    check_norm(x, weight)
    return torch.ops.maple.rms_norm(x, weight, eps, backend or "")[0]


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """q and k with number i and i + head_dim / 2 of each head turned by the angle i of their token.

    Shapes: q and k [batch, heads, tokens, head_dim], of any layout and with as many heads as each has; cos and sin
    [1 or batch, tokens, head_dim], whose second half repeats the first, as in transformers. Differentiable in q and k.
    The results lie in memory as [batch, tokens, heads, head_dim]. `backend` as for `linear`.
    """
    check_backend(backend)
    check_rotary(q, k, cos, sin)
    return torch.ops.maple.rotary(q, k, cos, sin, 1.0, backend or "")


def swiglu(gate: Tensor, up: Tensor, backend: str | None = None) -> Tensor:
    """silu(gate) * up for gate and up [..., n], differentiable in both. `backend` as for `linear`."""
    check_backend(backend)
    check_swiglu(gate, up)
    columns = gate.shape[-1]
    y = torch.ops.maple.swiglu(gate.reshape(-1, columns), up.reshape(-1, columns), backend or "")
    return y.view(gate.shape)


# ------------------------------------------------------------------------------------------------------------------
# The operators
# ------------------------------------------------------------------------------------------------------------------

LIBRARY.define("rms_norm(Tensor x, Tensor weight, float eps, str backend) -> (Tensor, Tensor)")  # y, 1 / rms
LIBRARY.define("rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor scale, str backend) -> Tensor")
LIBRARY.define("rotary(Tensor q, Tensor k, Tensor cos, Tensor sin, float sign, str backend) -> (Tensor, Tensor)")
LIBRARY.define("swiglu(Tensor gate, Tensor up, str backend) -> Tensor")
LIBRARY.define("swiglu_backward(Tensor dy, Tensor gate, Tensor up, str backend) -> (Tensor, Tensor)")


def _module(backend: str, x: Tensor):
    if choose(backend, x.device, x.dtype) is naive:
        return naive_elementwise
    from kernels import elementwise

    return elementwise


def _rows(x: Tensor) -> Tensor:
    return as_matrix(x.reshape(-1, x.shape[-1]))


@computes("rms_norm")
def _rms_norm(x, weight, eps, backend):
    # of any shape, so that the result is no view: FSDP hooks the last norm's, and a view may lose hooks
    y, scale = _module(backend, x).rms_norm(_rows(x), weight, eps)
    return torch.ops.aten._unsafe_view(y, x.shape), scale


@looks_like("rms_norm")
def _(x, weight, eps, backend):
    rows = x.numel() // x.shape[-1]
    return x.new_empty(x.shape), x.new_empty(rows, dtype=torch.promote_types(x.dtype, torch.float32))


@computes("rms_norm_backward")
def _rms_norm_backward(dy, x, weight, scale, backend):
    return _module(backend, x).rms_norm_backward(_rows(dy), _rows(x), weight, scale).view(x.shape)


@looks_like("rms_norm_backward")
def _(dy, x, weight, scale, backend):
    return x.new_empty(x.shape)


@computes("rotary")
def _rotary(q, k, cos, sin, sign, backend):
    return _module(backend, q).rotary(q, k, cos, sin, sign)


@looks_like("rotary")
def _(q, k, cos, sin, sign, backend):
    outs = [x.new_empty([x.shape[i] for i in (0, 2, 1, 3)]).transpose(1, 2) for x in (q, k)]
    return outs[0], outs[1]


@computes("swiglu")
def _swiglu(gate, up, backend):
    return _module(backend, gate).swiglu(as_matrix(gate), as_matrix(up))


@looks_like("swiglu")
def _(gate, up, backend):
    return gate.new_empty(gate.shape)


@computes("swiglu_backward")
def _swiglu_backward(dy, gate, up, backend):
    return _module(backend, gate).swiglu_backward(as_matrix(dy), as_matrix(gate), as_matrix(up))


@looks_like("swiglu_backward")
def _(dy, gate, up, backend):
    return gate.new_empty(gate.shape), gate.new_empty(gate.shape)


class _RMSNorm(Function):
    """Keeps x, which its maker has anyway, and one number a row."""

    @staticmethod
    def forward(ctx, x, weight, eps, backend):
        ctx.backend = backend
        with torch._C._AutoDispatchBelowAutograd():
            y, scale = torch.ops.maple.rms_norm(x, weight, eps, backend)
        ctx.save_for_backward(x, weight, scale)
        ctx.mark_non_differentiable(scale)
        return y, scale

    @staticmethod
    def backward(ctx, dy, _):
        return torch.ops.maple.rms_norm_backward(dy, *ctx.saved_tensors, ctx.backend), None, None, None


class _Rotary(Function):
    """The gradient is turned back: of q and k nothing is kept."""

    @staticmethod
    def forward(ctx, q, k, cos, sin, sign, backend):
        ctx.settings = -sign, backend
        ctx.save_for_backward(cos, sin)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.maple.rotary(q, k, cos, sin, sign, backend)

    @staticmethod
    def backward(ctx, dq, dk):
        return *torch.ops.maple.rotary(dq, dk, *ctx.saved_tensors, *ctx.settings), None, None, None, None


class _SwiGLU(Function):
    """Keeps gate and up, which a projection wrote."""

    @staticmethod
    def forward(ctx, gate, up, backend):
        ctx.backend = backend
        ctx.save_for_backward(gate, up)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.maple.swiglu(gate, up, backend)

    @staticmethod
    def backward(ctx, dy):
        return *torch.ops.maple.swiglu_backward(dy, *ctx.saved_tensors, ctx.backend), None


for _name, _function in (("rms_norm", _RMSNorm), ("rotary", _Rotary), ("swiglu", _SwiGLU)):
    LIBRARY.impl(_name, _function.apply, "Autograd")
