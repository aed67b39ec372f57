"""Triton kernels for RMSNorm, rotary embedding and SwiGLU: one pass forward and one back, as fast as memory is.

The maths stands in `naive_elementwise.py`, whose functions these are by name; a row or a tile is read once into
registers, computed with in float32 and written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 2048  # numbers of each operand in a program of 4 warps: 16 a thread, two 16-byte loads of 16-bit floats
MOST_WARPS = 16  # for a row of 8,192 numbers; longer ones get more a thread
SWIGLU_TILE = 1024  # 8 a thread: three operands in, two out

# ------------------------------------------------------------------------------------------------------------------
# RMSNorm: a program has whole rows in registers, several where they are short (norms of q and k heads)
# ------------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["M"])
def rms_norm_kernel(
    x, weight, y, scale, M, N, x_row, eps,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y = x s w and s = 1 / sqrt(mean(x^2) + eps), for BLOCK_M rows."""
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]).to(tl.int64)
    n = tl.arange(0, BLOCK_N)[None, :]
    inside = (m < M) & (n < N)
    rows = tl.load(x + m * x_row + n, mask=inside, other=0.0).to(tl.float32)
    s = tl.rsqrt(tl.sum(rows * rows, 1, keep_dims=True) / N + eps)
    tl.store(scale + m, s, mask=m < M)
    rounded = (rows * s).to(y.dtype.element_ty).to(tl.float32)  # as transformers' modules do
    w = tl.load(weight + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(y + m * N + n, (rounded * w).to(y.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(y, s) for x [M, n], whose rows may lie apart."""
    rows, columns = x.shape
    y = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    scale = torch.empty(rows, dtype=torch.float32, device=x.device)
    block_m, options = _whole_rows(columns)
    rms_norm_kernel[(triton.cdiv(rows, block_m),)](
        x, weight.contiguous(), y, scale, rows, columns, x.stride(0), eps, BLOCK_M=block_m, **options,
    )  # fmt: skip
    return y, scale


@triton.jit(do_not_specialize=["M"])
def rms_norm_backward_kernel(
    dy, x, weight, scale, dx, M, N, dy_row, x_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dX = s (g - x s^2 mean(g x)) with g = dY w, for BLOCK_M rows."""
    m = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]).to(tl.int64)
    n = tl.arange(0, BLOCK_N)[None, :]
    inside = (m < M) & (n < N)
    rows = tl.load(x + m * x_row + n, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(dy + m * dy_row + n, mask=inside, other=0.0).to(tl.float32)
    g *= tl.load(weight + n, mask=n < N, other=0.0).to(tl.float32)
    s = tl.load(scale + m, mask=m < M, other=0.0)
    mean = tl.sum(g * rows, 1, keep_dims=True) / N
    tl.store(dx + m * N + n, (s * (g - rows * (s * s * mean))).to(dx.dtype.element_ty), mask=inside)


def rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """dX [M, n] for dY and x, whose rows may lie apart."""
    rows, columns = x.shape
    dx = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    block_m, options = _whole_rows(columns)
    rms_norm_backward_kernel[(triton.cdiv(rows, block_m),)](
        dy, x, weight.contiguous(), scale, dx, rows, columns, dy.stride(0), x.stride(0), BLOCK_M=block_m, **options,
    )  # fmt: skip
    return dx


def _whole_rows(columns: int) -> tuple[int, dict[str, int]]:
    """(rows a program, how it is compiled) for rows of so many numbers."""
    block_n = triton.next_power_of_2(columns)
    block_m = max(1, TILE // block_n)
    warps = min(MOST_WARPS, 4 * block_m * block_n // TILE)
    return block_m, {"BLOCK_N": block_n, "num_warps": warps, "enable_fp_fusion": False}


# ------------------------------------------------------------------------------------------------------------------
# Rotary embedding: a program turns all heads of a token, of q and of k, by angles that it reads once
# ------------------------------------------------------------------------------------------------------------------


@triton.jit
def rotary_kernel(
    q, k, q_out, k_out, cos, sin, T, Q_HEADS, K_HEADS, HALF,
    q_batch, q_head, q_token, k_batch, k_head, k_token, angle_batch, angle_token, sign,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One token of q and k, each [batch, heads, T, 2 HALF] by its strides, to [batch, T, heads, 2 HALF]."""
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    d = tl.arange(0, BLOCK_D)[None, :]
    angle = batch * angle_batch + token * angle_token + d
    c = tl.load(cos + angle, mask=d < HALF, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=d < HALF, other=0.0).to(tl.float32) * sign
    out = (batch * T + token) * 2 * HALF
    _turn(q + batch * q_batch + token * q_token, q_head, q_out + out * Q_HEADS, Q_HEADS, HALF, c, s, d, BLOCK_H)
    _turn(k + batch * k_batch + token * k_token, k_head, k_out + out * K_HEADS, K_HEADS, HALF, c, s, d, BLOCK_H)


@triton.jit
def _turn(x, x_head, y, HEADS, HALF, c, s, d, BLOCK_H: tl.constexpr):
    for first in range(0, HEADS, BLOCK_H):
        head = (first + tl.arange(0, BLOCK_H)[:, None]).to(tl.int64)
        inside = (head < HEADS) & (d < HALF)
        one = tl.load(x + head * x_head + d, mask=inside, other=0.0).to(tl.float32)
        two = tl.load(x + head * x_head + HALF + d, mask=inside, other=0.0).to(tl.float32)
        place = y + head * 2 * HALF + d
        tl.store(place, (one * c - two * s).to(y.dtype.element_ty), mask=inside)
        tl.store(place + HALF, (two * c + one * s).to(y.dtype.element_ty), mask=inside)


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    """q and k turned by the angle or back, in any layout whose heads hold neighbours, as views of a projection do."""
    (batch, heads, tokens, width), half = q.shape, q.shape[3] // 2
    q, k = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k))
    cos, sin = (x.contiguous().expand(batch, tokens, width) for x in (cos, sin))
    outs = [torch.empty(batch, tokens, x.shape[1], width, dtype=x.dtype, device=x.device) for x in (q, k)]
    block_d = triton.next_power_of_2(half)
    rotary_kernel[(tokens, batch)](
        q, k, *outs, cos, sin, tokens, heads, k.shape[1], half,
        *q.stride()[:3], *k.stride()[:3], *cos.stride()[:2], sign,
        BLOCK_H=min(triton.next_power_of_2(heads), max(1, TILE // block_d)), BLOCK_D=block_d,
        num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return outs[0].transpose(1, 2), outs[1].transpose(1, 2)


# ------------------------------------------------------------------------------------------------------------------
# SwiGLU: a program has a piece of a row
# ------------------------------------------------------------------------------------------------------------------


@triton.jit
def swiglu_kernel(gate, up, y, N, pieces, gate_row, up_row, BLOCK: tl.constexpr):
    """y = silu(gate) up."""
    row = (tl.program_id(0) // pieces).to(tl.int64)
    n = tl.program_id(0) % pieces * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + row * gate_row + n, mask=n < N, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_row + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(y + row * N + n, (g * tl.sigmoid(g) * u).to(y.dtype.element_ty), mask=n < N)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up for gate and up [M, n], whose rows may lie apart."""
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    pieces, options = _row_pieces(gate.shape[1])
    swiglu_kernel[(gate.shape[0] * pieces,)](
        gate, up, y, gate.shape[1], pieces, gate.stride(0), up.stride(0), **options,
    )  # fmt: skip
    return y


@triton.jit
def swiglu_backward_kernel(
    dy, gate, up, d_gate, d_up, N, pieces, dy_row, gate_row, up_row,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """dGate = dY up s (1 + gate (1 - s)) and dUp = dY silu(gate), with s = sigmoid(gate)."""
    row = (tl.program_id(0) // pieces).to(tl.int64)
    n = tl.program_id(0) % pieces * BLOCK + tl.arange(0, BLOCK)
    dtype = d_gate.dtype.element_ty
    g = tl.load(gate + row * gate_row + n, mask=n < N, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_row + n, mask=n < N, other=0.0).to(tl.float32)
    d = tl.load(dy + row * dy_row + n, mask=n < N, other=0.0).to(tl.float32)
    s = tl.sigmoid(g)
    tl.store(d_gate + row * N + n, (d * u * (s * (1.0 + g * (1.0 - s)))).to(dtype), mask=n < N)
    tl.store(d_up + row * N + n, (d * (g * s)).to(dtype), mask=n < N)


def swiglu_backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """(dGate, dUp) for dY, gate and up [M, n], whose rows may lie apart."""
    d_gate, d_up = (torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) for _ in range(2))
    pieces, options = _row_pieces(gate.shape[1])
    swiglu_backward_kernel[(gate.shape[0] * pieces,)](
        dy, gate, up, d_gate, d_up, gate.shape[1], pieces, dy.stride(0), gate.stride(0), up.stride(0), **options,
    )  # fmt: skip
    return d_gate, d_up


def _row_pieces(columns: int) -> tuple[int, dict[str, int]]:
    """(pieces of a row of so many numbers, how the kernel is compiled)."""
    block = min(SWIGLU_TILE, triton.next_power_of_2(columns))
    return triton.cdiv(columns, block), {"BLOCK": block, "num_warps": 4, "enable_fp_fusion": False}
