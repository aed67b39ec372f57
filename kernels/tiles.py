"""Which tile a product with a packed weight is cut into, by its shape; and the end that all those products share.

The products are solved transposed, y^T [out, M] = W [out, in] x^T [in, M]: the decoded weight is then the left operand,
which Hopper's wgmma takes from registers. x^T, the right one, comes from shared memory.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

ALL = slice(None)
TRITON_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
MOST_SPLIT_TILES = 4096  # a sum is split where tiles are fewer than programs wanted, 1,216 on the largest chip here
CALLS = 256  # split products that may be under way at once


class Tile(NamedTuple):
    """A piece of y^T that one program computes: block_n rows of W by block_m rows of x."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


# (rows of x up to which, tile). What the compiled code shows (`python -m benchmarks.codegen`, sm_90) chose these tiles;
# a GPU has not measured them yet. wgmma takes 64 rows of W for each four warps and every chip 16 columns; 128 rows of W
# halve the reads of x from L2, which with 64 rows and M = 16 would be as many bytes as those of W; at M = 64 and 128
# eight warps take 128 registers a thread, where four take 230 or spill.
# Above 128 rows the product is limited by arithmetic, not by bytes: reading 4 bits instead of 16 could gain at most
# 1.4 times at 128 and nothing from 184 on (790 TFLOP/s over 4.3 TB/s, an H200), and a library's GEMM is better at that.
FUSED = (
    (16, Tile(16, 128, 4, 4)),
    (64, Tile(64, 128, 8, 3)),
    (128, Tile(128, 128, 8, 3)),
)
FUSED_ROWS = FUSED[-1][0]
PROGRAMS_PER_PROCESSOR = 4  # so that some load while others compute; as many of the smallest tile as registers allow
FEWEST_STEPS = 8  # of a program's loop over `in`: below that, starting and ending it costs more than the loop


def tile_for(rows: int) -> Tile | None:
    """The tile for x of so many rows; None where dequantising once and a library's product is the better way."""
    return next((tile for most, tile in FUSED if rows <= most), None)


def splits_for(programs: int, steps: int, device: torch.device) -> int:
    """Into how many parts the sum over `in` (of `steps` steps) is split, so that `programs` tiles fill the device."""
    splits = 1
    if torch.version.hip:  # between a part's stores and the count of it, AMD's code waits for one of the waves only
        return splits
    while programs * splits < PROGRAMS_PER_PROCESSOR * _processors(device) and steps >= 2 * splits * FEWEST_STEPS:
        splits *= 2
    return splits


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


class LoraUp(NamedTuple):
    """What a product adds to its tile for LoRA: scaling * XA B^T."""

    xa: Tensor  # float32 [parts, M, r], possibly columns of a wider one: parts of the sum over `in`, still to be added
    b: Tensor  # [out, r]
    scaling: float


def epilogue(y: Tensor, bias: Tensor | None, up: LoraUp | None, tile: Tile, splits: int) -> dict[str, object]:
    """The arguments of `finish` by name, for a product that fills y [M, out]."""
    arguments = {
        "y": y,
        "bias": bias if bias is None else bias.contiguous(),
        "HAS_BIAS": bias is not None,
        "SPLIT_K": splits,
    }
    arguments |= {"xa": None, "b": None, "scaling": 0.0, "R": 0, "xa_row": 0, "xa_parts": 0, "BLOCK_R": 0}
    arguments |= {"partials": None, "arrived": None}
    if up is not None:
        rank = up.b.shape[1]
        arguments |= {"xa": up.xa, "b": up.b.contiguous(), "scaling": up.scaling, "R": rank, "xa_row": up.xa.stride(1)}
        arguments |= {"xa_parts": up.xa.shape[0], "BLOCK_R": min(64, max(16, triton.next_power_of_2(rank)))}
    if splits > 1:
        tiles = triton.cdiv(y.shape[0], tile.block_m) * triton.cdiv(y.shape[1], tile.block_n)
        size = tiles * splits * tile.block_n * tile.block_m
        arguments["partials"] = torch.empty(size, dtype=torch.float32, device=y.device)
        arguments["arrived"] = _counters(y.device)
    return arguments


def _counters(device: torch.device) -> Tensor:
    """Zeros that the programs of a split product are counted in, and that its kernel leaves as zeros.

    Products under way at the same time on several streams must not share them, so each takes the next of CALLS sets; a
    captured CUDA graph keeps those that it took, so it must not be replayed beside products on another stream.
    """
    pool, calls = _counter_pool(device)
    return pool[next(calls) % CALLS]


@functools.cache
def _counter_pool(device: torch.device) -> tuple[Tensor, Iterator[int]]:
    refuse_capture(device)
    # From the CPU, which is over when it returns: zeros written by one stream may come too late for another.
    return torch.zeros(CALLS, MOST_SPLIT_TILES, dtype=torch.int32).to(device), itertools.count()


def refuse_capture(device: torch.device) -> None:
    """Raise RuntimeError where what a device needs once would be captured in a CUDA graph, and made at its replay."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("the first product of its kind must not be captured in a CUDA graph: call it once before")


@triton.jit
def finish(
    acc, n, m, N, M, tile, split, y, bias, xa, b, scaling, R, xa_row, xa_parts, partials, arrived,
    HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr, SPLIT_K: tl.constexpr,
):  # fmt: skip
    """From the sum of one program to y [M, N]: join the parts of a split sum, add LoRA and bias, store.

    acc [BLOCK_N, BLOCK_M] is this program's part; n and m are its rows of W and of x. The last of the SPLIT_K programs
    of a tile to arrive adds the parts, always in the order of their numbers: the same input gives the same bits.
    """
    if SPLIT_K == 1:
        _store(acc, n, m, N, M, y, bias, xa, b, scaling, R, xa_row, xa_parts, HAS_BIAS, BLOCK_R)
    else:
        size: tl.constexpr = acc.shape[0] * acc.shape[1]
        place = tl.arange(0, acc.shape[0])[:, None] * acc.shape[1] + tl.arange(0, acc.shape[1])[None, :]
        parts = partials + tile.to(tl.int64) * SPLIT_K * size + place
        tl.store(parts + split * size, acc)
        tl.debug_barrier()  # every thread's part is written before one of them says so
        if tl.atomic_add(arrived + tile, 1) == SPLIT_K - 1:
            total = tl.zeros_like(acc)
            for part in range(SPLIT_K):
                total += tl.load(parts + part * size, cache_modifier=".cg")  # from L2, where the others wrote them
            _store(total, n, m, N, M, y, bias, xa, b, scaling, R, xa_row, xa_parts, HAS_BIAS, BLOCK_R)
            tl.store(arrived + tile, 0)


@triton.jit
def _store(
    acc, n, m, N, M, y, bias, xa, b, scaling, R, xa_row, xa_parts, HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr
):  # fmt: skip
    """y[m, n] = acc^T + scaling * XA B^T + bias: LoRA costs no pass of its own over y."""
    if BLOCK_R > 0:
        dtype = y.dtype.element_ty
        for first in range(0, R, BLOCK_R):
            r = first + tl.arange(0, BLOCK_R)
            b_tile = tl.load(
                b + n[:, None].to(tl.int64) * R + r[None, :], mask=(n[:, None] < N) & (r[None, :] < R), other=0.0
            )
            xa_tile = tl.zeros((m.shape[0], BLOCK_R), tl.float32)
            for part in range(xa_parts):
                place = (part * M + m[:, None].to(tl.int64)) * xa_row + r[None, :]
                xa_tile += tl.load(xa + place, mask=(m[:, None] < M) & (r[None, :] < R), other=0.0)
            xa_tile = (xa_tile * scaling).to(dtype)
            acc = tl.dot(b_tile.to(dtype), xa_tile.T, acc, input_precision="ieee")
    if HAS_BIAS:
        acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    inside = (n[:, None] < N) & (m[None, :] < M)
    tl.store(y + m[None, :].to(tl.int64) * N + n[:, None], acc.to(y.dtype.element_ty), mask=inside)
