"""Every operation in plain PyTorch: the specification that faster kernels are held to, and the path a CPU runs.

    quantise    float weight [out, in] -> NF4 (QLoRA, arXiv 2305.14314, section 3) or int8 per row (arXiv 2208.07339)
    dequantise  and back, in float32
    linear      y = x W^T + bias, rows of W dequantised a cache-sized chunk at a time
    LoRA        y = x W^T + bias + scaling * (dropout(x) A^T) B^T (arXiv 2106.09685), its gradients by hand

`gpu.py` has the same functions in Triton; `ops.py` checks what goes in and tells autograd which is whose gradient.

The bytes are those of bitsandbytes 0.50; where its CPU and CUDA paths differ, its CPU path. Nothing here keeps a
float32 copy of a whole weight: everything runs over chunks, in one reused buffer.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kernels.packed import NESTED_BLOCK_SIZE, Int8Weight, NF4Weight, Weight

# Elements worked on at a time: 4 MiB of float32. On 2 cores of an EPYC with 1 MiB of L2 each, a 4-bit linear at
# M = 1024 and 2048 x 2048 took 51 ms with chunks of 2^17, 46 with 2^20 and 52 in one piece (the product alone: 45).
CHUNK = 1 << 20

# ------------------------------------------------------------------------------------------------------------------
# NF4: the 16 values are quantiles of a normal distribution scaled to [-1, 1], with an exact 0 (QLoRA, appendix E).
# ------------------------------------------------------------------------------------------------------------------
# fmt: off
NF4_VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)
# fmt: on
# A block of zeros has absmax 0; this keeps 0 * (1 / absmax) at 0 instead of NaN, and gives bitsandbytes' code 7 (0.0).
SMALLEST_ABSMAX = 1e-38


def _midpoints(values: Tensor) -> Tensor:
    """Between two neighbours of a sorted table: above it the upper one is the nearest."""
    return (values[:-1] + values[1:]) / 2


def quantize_nf4(weight: Tensor, block_size: int = 64, double_quant: bool = False) -> NF4Weight:
    """Quantise a float weight [out, in] to NF4; with `double_quant` its absmax to 8 bits as well.

    Raises ValueError where the weight holds NaN or inf.
    """
    flat = weight.detach().reshape(-1)
    numel, device = flat.numel(), flat.device
    codes = torch.empty(math.ceil(numel / 2), dtype=torch.uint8, device=device)
    absmax = torch.empty(math.ceil(numel / block_size), dtype=torch.float32, device=device)
    for start in range(0, numel, CHUNK):  # CHUNK is a multiple of every block size
        chunk = flat[start : start + CHUNK]
        chunk = _buffers.get(len(chunk), torch.float32, device, "scaled").copy_(chunk)
        scaled, chunk_absmax = _scale_blocks(chunk, block_size)
        absmax[start // block_size :][: len(chunk_absmax)] = chunk_absmax
        codes[start // 2 :][: math.ceil(len(chunk) / 2)] = _pack_nibbles(_nf4_codes(scaled))
    _refuse_non_finite(weight, absmax)
    shape = (weight.shape[0], weight.shape[1])
    if not double_quant:
        return NF4Weight(codes, absmax, shape, block_size)
    return NF4Weight(codes, shape=shape, block_size=block_size, **quantize_absmax(absmax))


def _scale_blocks(chunk: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Divide each block by its absmax, in place: returns values in [-1, 1] and the absmax of each block."""
    whole = len(chunk) // block_size * block_size
    blocks, tail = chunk[:whole].view(-1, block_size), chunk[whole:]
    absmax = torch.abs(blocks, out=_buffers.get(whole, torch.float32, chunk.device).view_as(blocks)).amax(1)
    # Multiplying by the reciprocal rounds otherwise than dividing: bitsandbytes does the first for whole blocks and the
    # second for a last partial one, and its bytes are what we promise.
    blocks.mul_((1.0 / absmax.clamp(min=SMALLEST_ABSMAX))[:, None]).clamp_(-1, 1)
    if len(tail):
        tail_absmax = tail.abs().amax().clamp(min=SMALLEST_ABSMAX)
        tail.div_(tail_absmax).clamp_(-1, 1)
        absmax = torch.cat([absmax, tail_absmax[None]])
    return chunk, absmax


BINS = 32  # equal steps of [-1, 1]: 1/16 wide, where neighbouring midpoints are at least 0.080 apart


def _bin(scaled: Tensor) -> Tensor:
    """The step that a value lies in; the last one holds only 1. NaN, which is refused later, goes anywhere inside."""
    count, device = len(scaled), scaled.device
    steps = torch.add(scaled, 1, out=_buffers.get(count, torch.float32, device)).mul_(BINS / 2)
    return _buffers.get(count, torch.int32, device).copy_(steps).clamp_(0, BINS)


@functools.cache
def _bins(device: torch.device) -> tuple[Tensor, Tensor]:
    """For each step the number of midpoints that lie below it, and the one that lies in it, else infinity."""
    with torch.inference_mode(False):  # it outlives whatever asked for it first
        midpoints = _midpoints(torch.tensor(NF4_VALUES))
        found = _bin(midpoints)
        inside = torch.full((BINS + 1,), math.inf)
        inside[found.long()] = midpoints
        below = (found[None] < torch.arange(BINS + 1)[:, None]).sum(1, dtype=torch.uint8)
        return below.to(device), inside.to(device)


def _nf4_codes(scaled: Tensor) -> Tensor:
    """The nearest of the 16 values: a code is the number of midpoints that lie below.

    As torch.bucketize, but by equal steps of [-1, 1]: look up how many midpoints lie below the step, then compare with
    the only one that can lie in it. Exact, and 290 M weights/s and core, scaling and packing included, where comparing
    with all fifteen made 109 and torch.bucketize 45.
    """
    below, inside = _bins(scaled.device)
    steps = _bin(scaled)
    codes = below.index_select(0, steps)
    bounds = torch.index_select(inside, 0, steps, out=_buffers.get(len(scaled), torch.float32, scaled.device))
    return codes.add_(scaled > bounds)


def _pack_nibbles(codes: Tensor) -> Tensor:
    """Two codes a byte, the first in the high nibble; an odd last one is followed by the code of 0.0, which is 7."""
    if len(codes) % 2:
        codes = torch.cat([codes, codes.new_tensor([7])])
    return (codes[0::2] << 4) | codes[1::2]


def quantize_absmax(absmax: Tensor) -> dict[str, Tensor]:
    """Double quantisation (QLoRA, section 3): absmax minus its mean, in signed 8-bit codes of 256 to a block.

    absmax [blocks] in float32 -> the fields of an `NF4Weight` by name, their shapes as there.
    """
    offset = absmax.mean()
    nested_map = dynamic_map().to(absmax.device)
    centred, nested_absmax = _scale_blocks(absmax - offset, NESTED_BLOCK_SIZE)
    codes = torch.bucketize(centred, _midpoints(nested_map)).to(torch.uint8)
    return {"absmax": codes, "nested_absmax": nested_absmax, "nested_map": nested_map, "nested_offset": offset}


def dynamic_map() -> Tensor:
    """The 256 values of bitsandbytes' signed 8-bit code (arXiv 1511.04561), in seven decades.

    Decade i holds the midpoints of 2^i equal steps of [0.1, 1], times 10^(i - 6), of both signs; then 0 and 1.
    So they lie closest together near 0, and closest for their size near 1.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        steps = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        for middle in ((steps[:-1] + steps[1:]) / 2 * 10.0 ** (decade - 6)).tolist():
            values += [middle, -middle]
    return torch.tensor(sorted(values), dtype=torch.float32)


# ------------------------------------------------------------------------------------------------------------------
# int8 with one absmax a row: q = round(w * (127 / absmax)), w = q * absmax / 127
# ------------------------------------------------------------------------------------------------------------------


def quantize_int8(weight: Tensor) -> Int8Weight:
    """Quantise a float weight [out, in] to int8, one absmax a row. Raises ValueError where it holds NaN or inf."""
    weight = weight.detach()
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    absmax = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
    for start, stop in _row_ranges(weight.shape):
        rows = weight[start:stop].to(torch.float32, copy=True)  # scaled in place below
        absmax[start:stop] = rows.abs().amax(1)
        scale = 127.0 / absmax[start:stop].clamp(min=SMALLEST_ABSMAX)
        codes[start:stop] = rows.mul_(scale[:, None]).round_()
    _refuse_non_finite(weight, absmax)
    return Int8Weight(codes, absmax)


def _refuse_non_finite(weight: Tensor, absmax: Tensor) -> None:
    """NaN and inf survive into some absmax, so looking at those is enough; the weight itself only for the message."""
    if not torch.isfinite(absmax).all():
        row, column = (~torch.isfinite(weight)).nonzero()[0].tolist()
        raise ValueError(
            f"the weight holds {weight[row, column].item()} at row {row}, column {column}: not quantisable"
        )


# ------------------------------------------------------------------------------------------------------------------
# And back to floats
# ------------------------------------------------------------------------------------------------------------------


def dequantize(w: Weight, dtype: torch.dtype) -> Tensor:
    """A weight as floats [out, in] of `dtype`: products in float32, rounded once."""
    out = torch.empty(w.shape, dtype=dtype, device=w.device)
    for start, stop, rows in _float32_rows(w):
        out[start:stop] = rows
    return out


def dequantize_absmax(w: NF4Weight) -> Tensor:
    """The absmax of each block in float32: code * second-level absmax, and only then the offset, as two roundings."""
    if not w.double_quant:
        return w.absmax
    values = w.nested_map.index_select(0, w.absmax.int())
    scale = w.nested_absmax.repeat_interleave(NESTED_BLOCK_SIZE)[: len(values)]
    return values.mul_(scale).add_(w.nested_offset)


def _row_ranges(shape: tuple[int, int], multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about CHUNK elements, each but the last a multiple of `multiple` and of 32 rows.

    Of 32, because ragged heights cost: 95 rows at a time, as 2^20 / 11008 would give, took 35 % longer than 96.
    """
    out, columns = shape
    multiple = math.lcm(multiple, 32)
    step = max(CHUNK // columns // multiple, 1) * multiple
    for start in range(0, out, step):
        yield start, min(start + step, out)


def _rows(w: Weight, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
    """(start, stop, W[start:stop] as floats of `dtype`), chunk by chunk.

    The chunk lies in a buffer that the next one, of this weight or another, overwrites. A plain tensor of that dtype
    comes whole, as it is; in a 16-bit dtype every weight does, since a sum over chunks (dX) is rounded at each of them.
    """
    if isinstance(w, Tensor) and w.dtype == dtype:
        yield 0, w.shape[0], w
    elif dtype in (torch.float16, torch.bfloat16):
        yield 0, w.shape[0], dequantize(w, dtype)
    else:
        for start, stop, rows in _float32_rows(w):
            yield start, stop, rows.to(dtype)


def _float32_rows(w: Weight) -> Iterator[tuple[int, int, Tensor]]:
    if isinstance(w, NF4Weight):
        return _nf4_rows(w)
    if isinstance(w, Int8Weight):
        return _int8_rows(w)
    return ((start, stop, w[start:stop].float()) for start, stop in _row_ranges(w.shape))


class _Buffers(threading.local):
    """Memory that a thread keeps for its next weight: fresh pages for each took 1 ms of 3 for 2048 x 2048."""

    def __init__(self):
        self.kept: dict[tuple, Tensor] = {}

    def get(self, numel: int, dtype: torch.dtype, device: torch.device, name: str = "") -> Tensor:
        """A flat tensor with whatever is in it; of one dtype there may be several, by name."""
        key = name, dtype, device
        if key not in self.kept or self.kept[key].numel() < numel:
            with torch.inference_mode(False):  # or training could not write to what a validation asked for first
                self.kept[key] = torch.empty(numel, dtype=dtype, device=device)
        return self.kept[key][:numel]


_buffers = _Buffers()


def forget_buffers() -> None:
    """Give back the memory that this thread keeps; what comes next takes its own."""
    _buffers.kept.clear()


@functools.cache
def _pairs(device: torch.device) -> Tensor:
    """One lookup decodes a byte: its two float32 values side by side are one 64-bit entry of a table of 256.

    Selecting 64-bit entries took 3.4 ms for 2048 x 2048 where selecting rows of two floats took 9.
    """
    with torch.inference_mode(False):  # it outlives whatever asked for it first
        byte, values = torch.arange(256, device=device), torch.tensor(NF4_VALUES, device=device)
        return torch.stack([values[byte >> 4], values[byte & 15]], dim=1).view(torch.int64).view(-1)


def _nf4_rows(w: NF4Weight) -> Iterator[tuple[int, int, Tensor]]:
    columns, device = w.shape[1], w.device
    absmax = dequantize_absmax(w)
    pairs = _pairs(device)
    # A chunk begins where a block begins, and so on a whole byte, since block sizes are even.
    multiple = w.block_size // math.gcd(columns, w.block_size)
    for start, stop in _row_ranges(w.shape, multiple):
        first, count = start * columns, (stop - start) * columns
        codes = w.codes[first // 2 : math.ceil((first + count) / 2)]
        indices = _buffers.get(len(codes), torch.int32, device).copy_(codes)
        decoded = torch.index_select(pairs, 0, indices, out=_buffers.get(len(codes), torch.int64, device))
        chunk = decoded.view(torch.float32)[:count]
        scales = absmax[first // w.block_size :]
        whole = count // w.block_size * w.block_size
        chunk[:whole].view(-1, w.block_size).mul_(scales[: whole // w.block_size, None])
        if whole < count:  # only the very last block of the weight can be a partial one
            chunk[whole:].mul_(scales[-1])
        yield start, stop, chunk.view(stop - start, columns)


def _int8_rows(w: Int8Weight) -> Iterator[tuple[int, int, Tensor]]:
    for start, stop in _row_ranges(w.shape):
        rows = _buffers.get((stop - start) * w.shape[1], torch.float32, w.device).view(stop - start, -1)
        rows.copy_(w.codes[start:stop])
        # By a tensor: on a GPU PyTorch divides by a number by multiplying with its reciprocal, which rounds otherwise.
        yield start, stop, rows.mul_(w.absmax[start:stop, None]).div_(rows.new_full((), 127))


# ------------------------------------------------------------------------------------------------------------------
# Products with a frozen weight
# ------------------------------------------------------------------------------------------------------------------


def linear(x: Tensor, w: Weight, bias: Tensor | None) -> Tensor:
    """y = x W^T + bias for x [M, in] -> [M, out] in the dtype of x; each chunk of rows of W makes columns of y."""
    y = torch.empty(x.shape[0], w.shape[0], dtype=x.dtype, device=x.device)
    for start, stop, rows in _rows(w, x.dtype):
        torch.mm(x, rows.T, out=y[:, start:stop])
    return y if bias is None else y.add_(bias)


def linear_grad_x(dy: Tensor, w: Weight) -> Tensor:
    """dX = dY W for dY [M, out] -> [M, in]. The weight is frozen, so nothing of x is needed."""
    return _add_product_transposed(torch.zeros(dy.shape[0], w.shape[1], dtype=dy.dtype, device=dy.device), dy, w)


def _add_product_transposed(dx: Tensor, dy: Tensor, w: Weight) -> Tensor:
    """dX += dY W in place, for dY [M, out] and dX [M, in]: a sum over chunks of rows of W."""
    for start, stop, rows in _rows(w, dy.dtype):
        dx.addmm_(dy[:, start:stop], rows)
    return dx


# ------------------------------------------------------------------------------------------------------------------
# Dropout without a stored mask: whether element (row, column) is kept is a hash of seed, row and column
# ------------------------------------------------------------------------------------------------------------------
WORD = (
    0xFFFFFFFF  # arithmetic is on 32-bit unsigned words; here they sit in int64, which PyTorch can shift and multiply
)


def mix(h: Tensor) -> Tensor:
    """A bijection of 32-bit words that scatters neighbours: "15 2c1b3c6d 12 297a2d39 15" of hash-prospector.

    Its constants are below 2^31, so that the 64-bit products cannot overflow.
    """
    h = ((h ^ (h >> 15)) * 0x2C1B3C6D) & WORD
    h = ((h ^ (h >> 12)) * 0x297A2D39) & WORD
    return h ^ (h >> 15)


def dropout_mask(seed: int, shape: tuple[int, int], p: float, device: torch.device | str = "cpu") -> Tensor:
    """Which elements [M, in] are kept, as bool: element (row, column) is dropped where its hash is below p * 2^32.

        key = mix(seed), hash = mix(mix(column) ^ mix(row ^ key))

    Two hashes a row and a column and one an element, so a kernel's tile of rows x columns costs one mix an element.
    """
    rows = torch.arange(shape[0], dtype=torch.int64, device=device)
    columns = torch.arange(shape[1], dtype=torch.int64, device=device)
    key = mix(torch.tensor(seed & WORD, dtype=torch.int64, device=device))
    row_hashes, column_hashes = mix((rows & WORD) ^ key), mix(columns & WORD)
    mask = torch.empty(shape, dtype=torch.bool, device=device)
    for start, stop in _row_ranges(shape):  # 64-bit words for all elements at once would be eight times the mask
        hashes = mix(column_hashes[None, :] ^ row_hashes[start:stop, None])
        mask[start:stop] = hashes >= int(p * 2**32)
    return mask


def _keep(x: Tensor, p: float, seed: int | None) -> Tensor | None:
    return dropout_mask(seed, x.shape, p, x.device) if p else None


def _dropped(x: Tensor, keep: Tensor | None, p: float) -> Tensor:
    """dropout(x) for x [M, in]: elements kept are divided by 1 - p. Its own gradient, since it is linear."""
    return x if keep is None else x * keep * (1 / (1 - p))


# ------------------------------------------------------------------------------------------------------------------
# LoRA on one or several projections of one x (q, k, v; gate, up)
# ------------------------------------------------------------------------------------------------------------------


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
    """Projections i = 1..g of one x [M, in], each with its frozen W_i and its pair A_i [r_i, in], B_i [out_i, r_i].

    With x' = dropout(x):

        XA  = x' [A_1; ...; A_g]^T                      all A stacked (torch.cat), so x is read once
        y_i = x W_i^T + bias_i + s_i XA_i B_i^T         added in place, no copy of the base output

    Returns the y_i [M, out_i], and XA [M, r_1 + ... + r_g] for the backward pass.
    """
    stacked_a = torch.cat([t.to(x.dtype) for t in a])
    xa = _dropped(x, _keep(x, dropout, seed), dropout) @ stacked_a.T
    ys = []
    for w, bias, scaling, b_i, xa_i in zip(ws, biases, scalings, b, xa.split(_ranks(a), dim=1), strict=True):
        ys.append(linear(x, w, bias).addmm_(xa_i, b_i.to(x.dtype).T, alpha=scaling))  # addmm's alpha, not LoRA's
    return ys, xa


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
    """From dY_i = dL/dy_i to (dX, dA of the stacked A, [dB_1, ...]), all in the dtype of x; dX None unless `needs_dx`.

    G_i  = s_i dY_i B_i                             [M, r_i], computed once, used by the next two lines
    dA   = [G_1 ... G_g]^T x'
    dX   = sum_i dY_i W_i + dropout'([G_1 ... G_g] [A_1; ...; A_g])
    dB_i = s_i dY_i^T XA_i                          XA was saved: [M, r] is small beside [M, in]
    """
    g = torch.cat([s * (dy @ b_i.to(x.dtype)) for s, dy, b_i in zip(scalings, dys, b, strict=True)], dim=1)
    keep = _keep(x, dropout, seed)
    da = g.T @ _dropped(x, keep, dropout)
    dbs = [s * (dy.T @ xa_i) for s, dy, xa_i in zip(scalings, dys, xa.split(_ranks(a), dim=1), strict=True)]
    dx = None
    if needs_dx:
        dx = _dropped(g @ torch.cat([t.to(x.dtype) for t in a]), keep, dropout)
        for dy, w in zip(dys, ws, strict=True):
            _add_product_transposed(dx, dy, w)
    return dx, da, dbs


def _ranks(a: Sequence[Tensor]) -> list[int]:
    return [t.shape[0] for t in a]
