"""Triton kernels for int8 with one absmax a row: dequantise a weight, and multiply with it as it is.

w = codes * absmax / 127        a code has 7 bits and a sign, which every float format here holds exactly
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.packed import Int8Weight
from kernels.tiles import ALL, TRITON_DTYPES, LoraUp, Tile, epilogue, finish, splits_for

# Columns and rows of a program's tile when dequantising, 8 codes a thread of 256: what a thread reads is what it
# writes, as one 16-byte store of 16-bit floats. With more a thread values are traded through shared memory in between.
TILE_COLUMNS, TILE_ROWS, DEQUANTIZE_WARPS = 512, 4, 8
BLOCK_K = 64  # columns that a step of the product takes: 64 bytes of codes a row, four steps of wgmma


@triton.jit(do_not_specialize=["rows"])
def dequantize_kernel(
    codes, absmax, out, rows, columns, codes_row, out_row,
    DTYPE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Rows and columns of a weight to `out`; `codes` begins at the first of them, its rows lie `codes_row` apart."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    inside = (row[:, None] < rows) & (column < columns)
    scale = tl.load(absmax + row, mask=row < rows, other=0.0)[:, None]
    code = tl.load(codes + row[:, None] * codes_row + column, mask=inside, other=0).to(tl.float32)
    value = tl.div_rn(code * scale, 127.0)  # plain `/` is an approximation on a GPU
    tl.store(out + row[:, None] * out_row + column, value.to(DTYPE), mask=inside)


def dequantize(w: Int8Weight, out: Tensor, rows: slice = ALL, columns: slice = ALL) -> Tensor:
    """Rows and columns of the weight as floats into `out`, a matrix whose rows may lie apart; returns it."""
    codes = w.codes[rows, columns]
    height, width = codes.shape
    dequantize_kernel[(triton.cdiv(height, TILE_ROWS), triton.cdiv(width, TILE_COLUMNS))](
        codes, w.absmax[rows], out, height, width, codes.stride(0), out.stride(0),
        DTYPE=TRITON_DTYPES[out.dtype], BLOCK_ROWS=TILE_ROWS, BLOCK_COLUMNS=TILE_COLUMNS,
        num_warps=DEQUANTIZE_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["M", "xa_parts"])  # one compilation for 1 to 16 rows, not three
def linear_kernel(
    x, codes, absmax, M, N, K, x_row,
    y, bias, xa, b, scaling, R, xa_row, xa_parts, partials, arrived,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr, SPLIT_K: tl.constexpr,
):  # fmt: skip
    """A tile of y^T = W x^T: codes times x, exact products added in float32, and the row's absmax / 127 at the end."""
    tile_n, split, tile_m = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)[None, :]
    row = tl.minimum(n, N - 1).to(tl.int64)  # rows past the end read the last one again; they are not stored
    codes_tile = codes + row[:, None] * K + k
    x_tile = x + m[:, None].to(tl.int64) * x_row + k
    steps = tl.cdiv(K, BLOCK_K)  # in all; each of the SPLIT_K programs of a tile takes as many, or one fewer
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for step in range(steps * split // SPLIT_K, steps * (split + 1) // SPLIT_K):
        inside = k < K - step * BLOCK_K
        code = tl.load(codes_tile + step * BLOCK_K, mask=inside, other=0)
        rows = tl.load(x_tile + step * BLOCK_K, mask=(m[:, None] < M) & inside, other=0.0)
        acc = tl.dot(code.to(x.dtype.element_ty), rows.T, acc, input_precision="ieee")
    acc *= (tl.load(absmax + row) / 127.0)[:, None]
    tile = tile_m * tl.num_programs(0) + tile_n
    finish(acc, n, m, N, M, tile, split, y, bias, xa, b, scaling, R, xa_row, xa_parts, partials, arrived,
           HAS_BIAS, BLOCK_R, SPLIT_K)  # fmt: skip


def linear(x: Tensor, w: Int8Weight, tile: Tile, bias: Tensor | None = None, up: LoraUp | None = None) -> Tensor:
    """y = x W^T + bias + scaling * XA B^T for x [M, in] with rows of neighbours."""
    rows, (out, columns) = x.shape[0], w.shape
    y = torch.empty(rows, out, dtype=x.dtype, device=x.device)
    tiles_n, tiles_m = triton.cdiv(out, tile.block_n), triton.cdiv(rows, tile.block_m)
    splits = splits_for(tiles_n * tiles_m, triton.cdiv(columns, BLOCK_K), x.device)
    linear_kernel[(tiles_n, splits, tiles_m)](
        x, w.codes, w.absmax, rows, out, columns, x.stride(0),
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=BLOCK_K, **epilogue(y, bias, up, tile, splits),
        num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=False,
    )  # fmt: skip
    return y
