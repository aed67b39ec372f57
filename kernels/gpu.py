"""The operations of `naive.py` as a GPU runs them: Triton kernels, a library's product, and the choice between them.

    few rows of x    one kernel that decodes the weight in registers (nf4.linear, int8.linear), LoRA in its epilogue
    many rows        the weight is dequantised a piece at a time into one scratch that stays in the L2 cache, and each
                     piece is multiplied by the library's GEMM

With many rows LoRA is r more columns of in: [x | s XA] [W | B]^T = x W^T + s XA B^T, so y is written once and never
read. The functions have the names and arguments of those in `naive.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kernels import int8, lora, nf4
from kernels.packed import Int8Weight, NF4Weight, Weight
from kernels.tiles import ALL, LoraUp, Tile, tile_for

# Bytes of the scratch: half of an H200's 50 MB of L2, so that a piece and what is multiplied with it fit together.
SCRATCH = 24 << 20
# Tiles of 128 x 256 that a product should have: two for each of 132 multiprocessors, or the last wave is most of it. A
# weight of 117 MB that is written to memory and read again costs 55 us, a wave too many of a large product more.
FEWEST_TILES = 264
ALIGNED = 128  # rows or columns of a piece: whole tiles of a library's GEMM
ROW_ALIGNED = 16  # elements that rows of the scratch and of [x | s XA] are a multiple of apart: 32 bytes of 16-bit ones


def linear(x: Tensor, w: Weight, bias: Tensor | None) -> Tensor:
    """y = x W^T + bias: x [M, in] -> [M, out]."""
    tile = _fused_tile(x, [w])
    if tile is not None:
        return _module(w).linear(x, w, tile, bias)
    return _product(x, w, bias)


def linear_grad_x(dy: Tensor, w: Weight) -> Tensor:
    """dX = dY W for dY [M, out] -> [M, in]. A batch worth training on has enough rows for a library's product."""
    return _add_product_transposed(None, dy, w)


def lora_linear(
    x: Tensor,
    ws: Sequence[Weight],
    biases: Sequence[Tensor | None],
    scalings: Sequence[float],
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    dropout: float,
    seed: int | None,
) -> tuple[list[Tensor], Tensor]:
    """(y_1, ..., y_g) of `naive.lora_linear`, and XA [M, r_1 + ... + r_g], unscaled, for the backward pass."""
    (rows, columns), ranks = x.shape, [t.shape[0] for t in a]
    stacked_a = torch.cat([t.to(x.dtype) for t in a])
    tile = _fused_tile(x, ws)
    if tile is not None:
        parts = lora.down(x, stacked_a, dropout, seed)
        ups = map(LoraUp, parts.split(ranks, dim=2), b, scalings)
        ys = [_module(w).linear(x, w, tile, bias, up) for w, bias, up in zip(ws, biases, ups, strict=True)]
        return ys, parts.sum(0).to(x.dtype)
    window = _matrix(rows, columns + max(ranks), x)  # [x | s XA]
    xa = lora.down(x, stacked_a, dropout, seed, copy=window[:, :columns]).sum(0)
    ys = []
    for w, bias, scaling, b_i, xa_i in zip(ws, biases, scalings, b, xa.split(ranks, dim=1), strict=True):
        if _in_pieces(w):
            end = columns + b_i.shape[1]
            torch.mul(xa_i, scaling, out=window[:, columns:end])
            ys.append(_product(window[:, :end], w, bias, b_i))
        else:
            ys.append(_product(x, w, bias).addmm_(xa_i.to(x.dtype), b_i.to(x.dtype).T, alpha=scaling))
    return ys, xa.to(x.dtype)


def lora_linear_backward(
    dys: Sequence[Tensor],
    x: Tensor,
    xa: Tensor,
    ws: Sequence[Weight],
    scalings: Sequence[float],
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    dropout: float,
    seed: int | None,
    needs_dx: bool,
) -> tuple[Tensor | None, Tensor, list[Tensor]]:
    """(dX, dA of the stacked A, [dB_1, ...]) of `naive.lora_linear_backward`; dX is None unless `needs_dx`."""
    ranks = [t.shape[0] for t in a]
    g = torch.empty_like(xa)  # scaling * dY B, once for dA and dX
    for dy, b_i, s, g_i in zip(dys, b, scalings, g.split(ranks, dim=1), strict=True):
        _scaled(s, dy, b_i.to(x.dtype), out=g_i)
    da = lora.grad_a(g, x, dropout, seed) if dropout else g.T @ x
    dbs = [_scaled(s, dy.T, xa_i) for dy, xa_i, s in zip(dys, xa.split(ranks, dim=1), scalings, strict=True)]
    if not needs_dx:
        return None, da, dbs
    stacked_a = torch.cat([t.to(x.dtype) for t in a])
    dx = lora.grad_x(g, stacked_a, dropout, seed) if dropout else g @ stacked_a
    for dy, w in zip(dys, ws, strict=True):
        _add_product_transposed(dx, dy, w)
    return dx, da, dbs


# ------------------------------------------------------------------------------------------------------------------
# A weight by pieces
# ------------------------------------------------------------------------------------------------------------------


def dequantize(w: Weight, dtype: torch.dtype) -> Tensor:
    """A weight as floats [out, in] of `dtype`."""
    if isinstance(w, Tensor):
        return w.to(dtype, copy=True)
    out, columns = w.shape
    flat = torch.empty(out * columns + 1, dtype=dtype, device=w.device)  # nf4.dequantize writes whole pairs
    return _fill(w, flat[:-1].view(out, columns))


def _module(w: Weight):
    return nf4 if isinstance(w, NF4Weight) else int8


def _fused_tile(x: Tensor, ws: Sequence[Weight]) -> Tile | None:
    """The tile of the fused product, or None where it is not the faster one or cannot scale a block's partial sum."""
    return tile_for(x.shape[0]) if all(map(_in_pieces, ws)) else None


def _in_pieces(w: Weight) -> bool:
    """Whether a part of the weight can be decoded alone: it is packed, and no NF4 block runs across rows."""
    return isinstance(w, Int8Weight) or (isinstance(w, NF4Weight) and w.shape[1] % w.block_size == 0)


def _plain(w: Weight, dtype: torch.dtype) -> Tensor:
    return w.to(dtype) if isinstance(w, Tensor) else dequantize(w, dtype)


def _fill(w: NF4Weight | Int8Weight, out: Tensor, rows: slice = ALL, columns: slice = ALL) -> Tensor:
    if isinstance(w, NF4Weight):
        return nf4.dequantize(w, out, rows, columns)
    return int8.dequantize(w, out, rows, columns)


def _matrix(rows: int, columns: int, like: Tensor) -> Tensor:
    """An empty matrix whose rows begin on 32 bytes, whatever `columns`, in the dtype and on the device of `like`."""
    return like.new_empty(rows, -(-columns // ROW_ALIGNED) * ROW_ALIGNED)[:, :columns]


def _pieces(length: int, other: int, multiple: int, x: Tensor) -> list[slice]:
    """Ranges of `length` rows (or columns) of `other` elements: as many as fit the scratch, in steps of `multiple`.

    More where a product with the rows of `x` would otherwise have too few tiles to keep every multiprocessor busy.
    """
    fill = FEWEST_TILES // -(-max(1, x.shape[0]) // 128) * 256
    step = max(1, max(fill, SCRATCH // (other * x.element_size())) // multiple) * multiple
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _product(x: Tensor, w: Weight, bias: Tensor | None, b: Tensor | None = None) -> Tensor:
    """x W^T + bias, or [x | s XA] [W | B]^T + bias: each piece of rows of W makes columns of y."""
    y = torch.empty(x.shape[0], w.shape[0], dtype=x.dtype, device=x.device)
    for rows, piece in _row_pieces(w, x, b):
        if bias is None:
            torch.mm(x, piece.T, out=y[:, rows])
        else:
            torch.addmm(bias[rows].to(x.dtype), x, piece.T, out=y[:, rows])
    return y


def _row_pieces(w: Weight, x: Tensor, b: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """(rows, those rows of W as floats like x, of B beside them): the scratch, which the next piece overwrites."""
    if not _in_pieces(w):
        yield ALL, _plain(w, x.dtype)
        return
    out, columns = w.shape
    width = columns if b is None else columns + b.shape[1]
    pieces = _pieces(out, width, ALIGNED, x)
    scratch = _matrix(pieces[0].stop, width, x)
    for rows in pieces:
        piece = scratch[: rows.stop - rows.start]
        _fill(w, piece[:, :columns], rows=rows)
        if b is not None:
            piece[:, columns:].copy_(b[rows])
        yield rows, piece


def _scaled(scaling: float, one: Tensor, other: Tensor, out: Tensor | None = None) -> Tensor:
    """scaling * one @ other, rounded once."""
    if out is None:
        out = torch.empty(one.shape[0], other.shape[1], dtype=one.dtype, device=one.device)
    return torch.addmm(out, one, other, beta=0, alpha=scaling, out=out)


def _add_product_transposed(dx: Tensor | None, dy: Tensor, w: Weight) -> Tensor:
    """dX + dY W, in place unless dX is None; in pieces of columns, as a sum over pieces of rows is rounded at each."""
    fresh = dx is None
    if fresh:
        dx = torch.empty(dy.shape[0], w.shape[1], dtype=dy.dtype, device=dy.device)
    for columns, piece in _column_pieces(w, dy):
        target = dx[:, columns]
        torch.addmm(target, dy, piece, beta=0 if fresh else 1, out=target)
    return dx


def _column_pieces(w: Weight, dy: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(columns, those columns of W as floats like dY): the scratch, which the next piece overwrites."""
    if not _in_pieces(w):
        yield ALL, _plain(w, dy.dtype)
        return
    multiple = max(ALIGNED, w.block_size) if isinstance(w, NF4Weight) else ALIGNED
    pieces = _pieces(w.shape[1], w.shape[0], multiple, dy)
    scratch = _matrix(w.shape[0], pieces[0].stop, dy)
    for columns in pieces:
        yield columns, _fill(w, scratch[:, : columns.stop - columns.start], columns=columns)
