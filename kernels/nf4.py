"""Triton kernels for NF4: dequantise a weight, and multiply with it while it is decoded in registers.

    byte of codes  --table of 256 pairs-->  two values, side by side in one word  --absmax of the block-->  two weights

One lookup decodes two weights: the table holds for each byte both of its NF4 values, the first element in the lower
half of a word, so that a word is also what lies in memory. `naive.py` says what is computed. tl.fma(a, b, c) is
a * b + c with one rounding; any other product and sum is two, as the launches forbid the compiler to join them
(enable_fp_fusion=False; the default changes between versions of Triton).

Triton in a few lines: a kernel is the code of one program. kernel[(a, b, c)](...) runs a * b * c of them at once, and
tl.program_id says which one this is. A tensor arrives as a pointer to its first element; pointer + offsets is a tile of
addresses, which tl.load reads in one go, only where its mask is true. A tl.constexpr is known when the kernel is
compiled. tl.dot multiplies two tiles, and .to(dtype, bitcast=True) is Tensor.view(dtype).
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.naive import NF4_VALUES
from kernels.packed import NF4Weight
from kernels.tiles import ALL, TRITON_DTYPES, LoraUp, Tile, epilogue, finish, refuse_capture, splits_for

# Bytes of codes that one program dequantises, 4 a thread of 256: what a thread reads is what it writes, as one 16-byte
# store of 16-bit floats. With 8 bytes a thread the compiler trades values through shared memory in between.
TILE_BYTES, DEQUANTIZE_WARPS = 1024, 8
SPAN = 256  # columns of x looked at together for the largest: 118 registers a thread; 512 takes 161, 1024 takes 204
WORDS = {2: tl.uint32, 4: tl.uint64}  # of two elements, by the bytes of one


@triton.jit
def _block_absmax(absmax, nested_absmax, nested_map, nested_offset, block, DOUBLE: tl.constexpr):
    """The absmax of blocks in float32; double-quantised: code * second-level absmax, then the offset, two roundings."""
    if DOUBLE:
        code = tl.load(absmax + block).to(tl.int32)
        scale = tl.load(nested_map + code) * tl.load(nested_absmax + block // 256) + tl.load(nested_offset)
    else:
        scale = tl.load(absmax + block)
    return scale


@triton.jit
def _halves(word, DTYPE: tl.constexpr):
    """The two values that lie side by side in a word: the lower half is the first element."""
    if DTYPE.primitive_bitwidth == 32:
        first, second = word.to(tl.uint32), (word >> 32).to(tl.uint32)
    else:
        first, second = word.to(tl.uint16), (word >> 16).to(tl.uint16)
    return first.to(DTYPE, bitcast=True), second.to(DTYPE, bitcast=True)


@triton.jit
def _word(first, second, DTYPE: tl.constexpr):
    """Two float32 values, rounded to DTYPE and put side by side into a word."""
    if DTYPE.primitive_bitwidth == 32:
        low, high = first.to(tl.uint32, bitcast=True), second.to(tl.uint32, bitcast=True)
        word = low.to(tl.uint64) | (high.to(tl.uint64) << 32)
    else:
        low, high = first.to(DTYPE).to(tl.uint16, bitcast=True), second.to(DTYPE).to(tl.uint16, bitcast=True)
        word = low.to(tl.uint32) | (high.to(tl.uint32) << 16)
    return word


# ------------------------------------------------------------------------------------------------------------------
# Dequantising
# ------------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["first_block", "blocks", "width", "row_blocks"])
def dequantize_kernel(
    codes, absmax, nested_absmax, nested_map, nested_offset, table, out,
    first_block, blocks, width, row_blocks, out_row, bytes_in_all,
    DTYPE: tl.constexpr, BLOCK_SIZE: tl.constexpr, DOUBLE: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """`blocks` quantisation blocks to `out`, `width` of them to a row, whose rows lie `out_row` elements apart.

    Block q of the piece is block `first_block + q // width * row_blocks + q % width` of the weight. `table` and `out`
    are words of two elements: with 4 bytes of codes a thread writes 16 bytes of 16-bit floats.
    """
    half: tl.constexpr = BLOCK_SIZE // 2
    q = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    inside = q < blocks
    q = tl.minimum(q, blocks - 1)  # past the end, the last one again
    source = first_block + q // width * row_blocks + q % width
    target = q // width * (out_row // 2) + q % width * half
    scale = _block_absmax(absmax, nested_absmax, nested_map, nested_offset, source, DOUBLE)[:, None]
    j = tl.arange(0, half)[None, :]
    place = source[:, None] * half + j
    inside = inside[:, None] & (place < bytes_in_all)
    byte = tl.load(codes + place, mask=inside, other=0).to(tl.int32)
    first, second = _halves(tl.load(table + byte), tl.float32)
    tl.store(out + target[:, None] + j, _word(first * scale, second * scale, DTYPE), mask=inside)


def dequantize(w: NF4Weight, out: Tensor, rows: slice = ALL, columns: slice = ALL) -> Tensor:
    """Rows and columns of the weight as floats into `out`, a matrix whose rows may lie apart; returns it.

    Anything but the whole weight needs rows that are whole blocks, columns that begin and end with a block, and rows
    of `out` that begin on 16 bytes. A whole weight with an odd number of elements writes one element past its end.
    """
    first_row, last_row, _ = rows.indices(w.shape[0])
    first_column, last_column, _ = columns.indices(w.shape[1])
    if w.shape[1] % w.block_size:  # blocks run across rows: the whole weight as one list of them
        width = row_blocks = blocks = w.absmax.numel()
        first_block = 0
    else:
        row_blocks, width = w.shape[1] // w.block_size, (last_column - first_column) // w.block_size
        first_block, blocks = first_row * row_blocks + first_column // w.block_size, (last_row - first_row) * width
    blocks_each = max(1, TILE_BYTES // (w.block_size // 2))
    dequantize_kernel[(triton.cdiv(blocks, blocks_each),)](
        w.codes, *_absmax(w), pair_table(torch.float32, out.device), triton.reinterpret(out, WORDS[out.element_size()]),
        first_block, blocks, width, row_blocks, out.stride(0), w.codes.numel(),
        DTYPE=TRITON_DTYPES[out.dtype], BLOCK_SIZE=w.block_size, DOUBLE=w.double_quant, BLOCKS=blocks_each,
        num_warps=DEQUANTIZE_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def _absmax(w: NF4Weight) -> tuple[Tensor | None, ...]:
    return w.absmax, w.nested_absmax, w.nested_map, w.nested_offset


@functools.cache
def pair_table(dtype: torch.dtype, device: torch.device) -> Tensor:
    """For each byte its two NF4 values in `dtype`, side by side in one word: [256] of 32 bits, or of 64 for float32."""
    refuse_capture(device)
    byte, values = torch.arange(256), torch.tensor(NF4_VALUES)
    pairs = torch.stack([values[byte >> 4], values[byte & 15]], dim=1).to(dtype)
    return pairs.view(torch.int64 if dtype == torch.float32 else torch.int32).view(-1).to(device)


# ------------------------------------------------------------------------------------------------------------------
# y = x W^T
# ------------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["M", "row_blocks", "xa_parts"])  # one compilation for 1 to 16 rows, not three
def linear_kernel(
    x, codes, absmax, nested_absmax, nested_map, nested_offset, table, M, N, K, x_row, row_bytes, row_blocks,
    y, bias, xa, b, scaling, R, xa_row, xa_parts, partials, arrived,
    DTYPE: tl.constexpr, RESCALE: tl.constexpr, SCALE_VALUES: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, DOUBLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPAN: tl.constexpr,
    HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr, SPLIT_K: tl.constexpr,
):  # fmt: skip
    """A tile of y^T = W x^T: unscaled NF4 values times x, and each block's partial sum times its absmax in float32.

        y[m, n] = sum over blocks i of absmax[n, i] * sum over the block's columns j of value[n, j] * x[m, j]

    x [M, K] with K = in, W [N, K] with N = out; x_row, row_bytes and row_blocks are how many elements of x, bytes of
    codes and blocks one row has, so absmax[n, i] lies at n * row_blocks + i. BLOCK_SIZE is NF4's; BLOCK_M, BLOCK_N and
    BLOCK_K are the sides of a tile. The second line of arguments is for `finish` (tiles.py): LoRA, bias, split sums.

    The pairs that the table gives are, joined, the register operand of wgmma as it stands: neighbours along `in` lie
    in one 32-bit register there. DTYPE is what is multiplied; with RESCALE, x becomes float16 after an exact power of
    two, since a float16 table is eight times as exact as a bfloat16 one but its range is small. With SCALE_VALUES
    the absmax goes to the values, as when dequantising: fewer products where x has more rows than a step has columns.
    """
    tile_n, split, tile_m = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    # Rows past the end read the last one again, which needs no mask in the loop; they are not stored.
    row = tl.minimum(n, N - 1).to(tl.int64)
    codes_tile = codes + row[:, None] * row_bytes + tl.arange(0, BLOCK_K // 2)[None, :]
    x_tile = x + m[:, None].to(tl.int64) * x_row + tl.arange(0, BLOCK_K)[None, :]
    real = m[:, None] < M
    steps = K // BLOCK_K  # in all; each of the SPLIT_K programs of a tile takes as many, or one fewer
    first, last = steps * split // SPLIT_K, steps * (split + 1) // SPLIT_K
    if RESCALE:
        scale, unscale = _power_of_two(x, m, M, x_row, first * BLOCK_K, last * BLOCK_K, BLOCK_M, SPAN)
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    # Two loads that depend on each other, fetched one step ahead so that nothing waits for them.
    block = row * row_blocks
    s = _block_absmax(absmax, nested_absmax, nested_map, nested_offset, block + first * BLOCK_K // BLOCK_SIZE, DOUBLE)
    for step in range(first, last):
        following = block + tl.minimum(step + 1, last - 1) * BLOCK_K // BLOCK_SIZE
        next_s = _block_absmax(absmax, nested_absmax, nested_map, nested_offset, following, DOUBLE)
        byte = tl.load(codes_tile + step * (BLOCK_K // 2)).to(tl.int32)
        values = _in_order(tl.load(table + byte), s, DTYPE, SCALE_VALUES)
        rows = tl.load(x_tile + step * BLOCK_K, mask=real, other=0.0)
        if RESCALE:
            rows = (rows.to(tl.float32) * scale[:, None]).to(DTYPE)
        if SCALE_VALUES:
            acc = tl.dot(values, rows.T, acc, input_precision="ieee")
        else:
            acc = tl.fma(tl.dot(values, rows.T, input_precision="ieee"), s[:, None], acc)
        s = next_s
    if RESCALE:
        acc *= unscale[None, :]
    tile = tile_m * tl.num_programs(0) + tile_n
    finish(acc, n, m, N, M, tile, split, y, bias, xa, b, scaling, R, xa_row, xa_parts, partials, arrived,
           HAS_BIAS, BLOCK_R, SPLIT_K)  # fmt: skip


@triton.jit
def _in_order(word, s, DTYPE: tl.constexpr, SCALE_VALUES: tl.constexpr):
    """Words [rows, k] of two values -> the values [rows, 2 k], times the absmax s [rows] with SCALE_VALUES."""
    even, odd = _halves(word, DTYPE)
    if SCALE_VALUES:
        even = (even.to(tl.float32) * s[:, None]).to(DTYPE)
        odd = (odd.to(tl.float32) * s[:, None]).to(DTYPE)
    # As integers until they lie in order: from floats, Triton 3.6 and 3.9 fail to compile the product for Blackwell.
    INTEGER: tl.constexpr = tl.uint32 if DTYPE.primitive_bitwidth == 32 else tl.uint16
    joined = tl.join(even.to(INTEGER, bitcast=True), odd.to(INTEGER, bitcast=True))
    return joined.reshape(word.shape[0], 2 * word.shape[1]).to(DTYPE, bitcast=True)


@triton.jit
def _power_of_two(x, m, M, x_row, first, last, BLOCK_M: tl.constexpr, SPAN: tl.constexpr):
    """For each row of x[:, first:last]: the power of two that takes its largest element to [2^14, 2^15), and 1 over it.

    Float16 ends at 65504. What lies 2^28 times below the largest element of its row begins to lose digits.
    """
    largest = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(first, last, SPAN):
        k = start + tl.arange(0, SPAN)
        inside = (m[:, None] < M) & (k[None, :] < last)
        piece = tl.load(x + m[:, None].to(tl.int64) * x_row + k[None, :], mask=inside, other=0.0)
        largest = tl.maximum(largest, tl.max(tl.abs(piece.to(tl.float32)), axis=1))
    # A float32 is 2^(exponent - 127) * 1.f; both powers must have an exponent from 1 to 254.
    exponent = tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 15)
    scale, unscale = (268 - exponent) << 23, (exponent - 14) << 23
    return scale.to(tl.float32, bitcast=True), unscale.to(tl.float32, bitcast=True)


def rescaled(x: Tensor, tile: Tile) -> bool:
    """Whether rows go through float16: where the weight is read and not the product is what takes time."""
    return x.dtype == torch.bfloat16 and tile.block_m == 16


def linear(x: Tensor, w: NF4Weight, tile: Tile, bias: Tensor | None = None, up: LoraUp | None = None) -> Tensor:
    """y = x W^T + bias + scaling * XA B^T for x [M, in] with rows of neighbours; in must be whole blocks."""
    rows, (out, columns) = x.shape[0], w.shape
    y = torch.empty(rows, out, dtype=x.dtype, device=x.device)
    rescale = rescaled(x, tile)
    dtype = torch.float16 if rescale else x.dtype
    block_k = min(w.block_size, 64)
    tiles_n, tiles_m = triton.cdiv(out, tile.block_n), triton.cdiv(rows, tile.block_m)
    splits = splits_for(tiles_n * tiles_m, columns // block_k, x.device)
    linear_kernel[(tiles_n, splits, tiles_m)](
        x, w.codes, *_absmax(w), pair_table(dtype, x.device), rows, out, columns,
        x.stride(0), columns // 2, columns // w.block_size,
        DTYPE=TRITON_DTYPES[dtype], RESCALE=rescale, SCALE_VALUES=tile.block_m > block_k,
        BLOCK_SIZE=w.block_size, DOUBLE=w.double_quant,
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=block_k, SPAN=SPAN,
        **epilogue(y, bias, up, tile, splits),
        num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=False,
    )  # fmt: skip
    return y
