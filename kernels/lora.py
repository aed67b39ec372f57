"""Triton kernels for what LoRA adds to a product: x A^T and its gradients, with a dropout that is never stored.

    XA  = dropout(x) A^T           reads x once, and copies it on the way where the caller wants it in a wider matrix
    dA  = G^T dropout(x)           G = scaling * dY B, [M, r]
    dX += dropout'(G A)            kept where the forward kept, divided by 1 - p

y gets scaling * XA B^T inside the product with W: in the epilogue of `tiles.finish`, or as r more columns of in.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.tiles import splits_for

BLOCK_M, BLOCK_K = 64, 64  # rows and columns of x a step
MOST_RANKS = 128  # rows of A in one tile: x is read once for each tile of them


def _warps(block_r: int) -> int:
    return 4 if block_r <= 64 else 8  # with 128 ranks four warps spill on an A100


@triton.jit
def _mix(h):
    """`naive.mix`: a bijection of 32-bit words that scatters neighbours."""
    h = (h ^ (h >> 15)) * 0x2C1B3C6D
    h = (h ^ (h >> 12)) * 0x297A2D39
    return h ^ (h >> 15)


@triton.jit
def kept(rows, columns, seed, threshold):
    """`naive.dropout_mask` for a tile: rows [m, 1] and columns [1, k] -> whether each element is kept [m, k]."""
    row_hash = _mix(rows.to(tl.uint32) ^ _mix(seed.to(tl.uint32)))
    return _mix(_mix(columns.to(tl.uint32)) ^ row_hash) >= threshold.to(tl.uint32)


@triton.jit
def _dropped(tile, rows, columns, seed, threshold, keep_scale):
    """dropout(tile) in its own dtype: what is kept is divided by 1 - p, that is multiplied by `keep_scale`."""
    scaled = (tile.to(tl.float32) * keep_scale).to(tile.dtype)
    return tl.where(kept(rows, columns, seed, threshold), scaled, 0.0)


@triton.jit(do_not_specialize=["M", "seed", "threshold"])
def down_kernel(
    x, a, xa, copy, M, K, R, x_row, copy_row, seed, threshold, keep_scale,
    DROPOUT: tl.constexpr, COPY: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
):  # fmt: skip
    """XA[split] [M, R] in float32: the part of dropout(x) A^T that comes from this program's columns of x."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    split = tl.program_id(2)
    steps = tl.cdiv(K, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
    for step in range(steps * split // SPLIT_K, steps * (split + 1) // SPLIT_K):
        k = step * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
        inside = (m < M) & (k < K)
        x_tile = tl.load(x + m.to(tl.int64) * x_row + k, mask=inside, other=0.0)
        if COPY and tl.program_id(1) == 0:
            tl.store(copy + m.to(tl.int64) * copy_row + k, x_tile, mask=inside)
        if DROPOUT:
            x_tile = _dropped(x_tile, m, k, seed, threshold, keep_scale)
        a_tile = tl.load(a + r.to(tl.int64) * K + k, mask=(r < R) & (k < K), other=0.0)
        acc = tl.dot(x_tile, a_tile.T, acc, input_precision="ieee")
    column = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)[None, :]
    tl.store(xa + (split * M + m.to(tl.int64)) * R + column, acc, mask=(m < M) & (column < R))


def down(x: Tensor, a: Tensor, dropout: float, seed: int | None, copy: Tensor | None = None) -> Tensor:
    """Parts of XA = dropout(x) A^T, [parts, M, r] in float32, to be added by whoever reads them.

    Shapes: x [M, in] and a [r, in] in one dtype; `copy` [M, in], whose rows may lie apart, receives x as it is.
    """
    (rows, columns), rank = x.shape, a.shape[0]
    block_m = 16 if rows <= 16 else 32
    block_r = min(MOST_RANKS, max(16, triton.next_power_of_2(rank)))
    tiles = (triton.cdiv(rows, block_m), triton.cdiv(rank, block_r))
    splits = splits_for(tiles[0] * tiles[1], triton.cdiv(columns, BLOCK_K), x.device)
    xa = torch.empty(splits, rows, rank, dtype=torch.float32, device=x.device)
    down_kernel[(*tiles, splits)](
        x, a, xa, copy, rows, columns, rank, x.stride(0), 0 if copy is None else copy.stride(0),
        *_dropout_arguments(dropout, seed),
        DROPOUT=dropout > 0, COPY=copy is not None, BLOCK_M=block_m, BLOCK_R=block_r, BLOCK_K=BLOCK_K, SPLIT_K=splits,
        num_warps=_warps(block_r), enable_fp_fusion=False,
    )  # fmt: skip
    return xa


@triton.jit(do_not_specialize=["M", "seed", "threshold"])
def grad_a_kernel(
    g, x, parts, M, K, R, x_row, rows_each, seed, threshold, keep_scale,
    BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """parts[split] [R, K] in float32: G^T dropout(x) over `rows_each` rows of x."""
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)[None, :]
    split = tl.program_id(2)
    acc = tl.zeros((BLOCK_R, BLOCK_K), tl.float32)
    for first in range(split * rows_each, tl.minimum(split * rows_each + rows_each, M), BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)[:, None]
        x_tile = tl.load(x + m.to(tl.int64) * x_row + k, mask=(m < M) & (k < K), other=0.0)
        x_tile = _dropped(x_tile, m, k, seed, threshold, keep_scale)
        g_tile = tl.load(g + m.to(tl.int64) * R + r, mask=(m < M) & (r < R), other=0.0)
        acc = tl.dot(g_tile.T, x_tile, acc, input_precision="ieee")
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    tl.store(parts + (split * R + row.to(tl.int64)) * K + k, acc, mask=(row < R) & (k < K))


def grad_a(g: Tensor, x: Tensor, dropout: float, seed: int) -> Tensor:
    """dA = G^T dropout(x) [r, in], for g [M, r] and x [M, in] of one dtype, which it gets."""
    (rows, columns), rank = x.shape, g.shape[1]
    block_r = min(MOST_RANKS, max(16, triton.next_power_of_2(rank)))
    tiles = (triton.cdiv(columns, BLOCK_K), triton.cdiv(rank, block_r))
    splits = splits_for(tiles[0] * tiles[1], triton.cdiv(rows, BLOCK_M), x.device)
    rows_each = triton.cdiv(triton.cdiv(rows, BLOCK_M), splits) * BLOCK_M
    parts = torch.empty(splits, rank, columns, dtype=torch.float32, device=x.device)
    grad_a_kernel[(*tiles, splits)](
        g, x, parts, rows, columns, rank, x.stride(0), rows_each, *_dropout_arguments(dropout, seed),
        BLOCK_M=BLOCK_M, BLOCK_R=block_r, BLOCK_K=BLOCK_K, num_warps=_warps(block_r), enable_fp_fusion=False,
    )  # fmt: skip
    return parts.sum(0).to(x.dtype)


@triton.jit(do_not_specialize=["M", "seed", "threshold"])
def grad_x_kernel(
    g, a, dx, M, K, R, seed, threshold, keep_scale,
    BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dX [M, K] = dropout'(G A)."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for first in range(0, R, BLOCK_R):
        columns = first + tl.arange(0, BLOCK_R)[None, :]
        rows = first + tl.arange(0, BLOCK_R)[:, None]
        g_tile = tl.load(g + m.to(tl.int64) * R + columns, mask=(m < M) & (columns < R), other=0.0)
        a_tile = tl.load(a + rows.to(tl.int64) * K + k, mask=(rows < R) & (k < K), other=0.0)
        acc = tl.dot(g_tile, a_tile, acc, input_precision="ieee")
    acc = _dropped(acc, m, k, seed, threshold, keep_scale)
    tl.store(dx + m.to(tl.int64) * K + k, acc.to(dx.dtype.element_ty), mask=(m < M) & (k < K))


def grad_x(g: Tensor, a: Tensor, dropout: float, seed: int) -> Tensor:
    """dropout'(G A) [M, in] for g [M, r] and a [r, in] of one dtype."""
    (rows, rank), columns = g.shape, a.shape[1]
    dx = torch.empty(rows, columns, dtype=g.dtype, device=g.device)
    block_r = min(64, max(16, triton.next_power_of_2(rank)))
    grad_x_kernel[(triton.cdiv(rows, BLOCK_M), triton.cdiv(columns, BLOCK_K))](
        g, a, dx, rows, columns, rank, *_dropout_arguments(dropout, seed),
        BLOCK_M=BLOCK_M, BLOCK_R=block_r, BLOCK_K=BLOCK_K, enable_fp_fusion=False,
    )  # fmt: skip
    return dx


def _dropout_arguments(dropout: float, seed: int | None) -> tuple[int, int, float]:
    """(seed, threshold, keep_scale): an element is dropped where its hash is below threshold = p * 2^32."""
    return _signed(seed or 0), _signed(int(dropout * 2**32)), 1 / (1 - dropout)


def _signed(word: int) -> int:
    """The lower 32 bits, signed: from 2^31 on an unsigned number would be passed, and compiled for, as 64 bits."""
    return (word + 2**31) % 2**32 - 2**31
