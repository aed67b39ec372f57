"""Is our result right? Asked of every point before it is timed: of a wrong one no time is reported.

The bound is that of the tests: at most twice the error of plain PyTorch (dequantise + matmul in the same dtype), or
four float32 roundings of the largest sum, or two of the largest result in its dtype, all against float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.peers import SCALING, Operands, packed
from benchmarks.points import BITS, BLOCK, Point
from kernels import naive

ROWS = 8  # of x, spread over all: float64 products with every row would take longer than the timing


def wrong(point: Point, o: Operands, results: list[Tensor]) -> tuple[str, float | None]:
    """(what is wrong with our results, empty if nothing; the relative RMS error of y)."""
    if point.operation == "quantize":
        return _wrong_bytes(point, o, results), None
    packs = [packed(out, point.columns, o.x.device.type, point.bits) for out in point.outs]
    if point.operation == "dequantize":
        exact, plain = ([naive.dequantize(packs[0], dtype)] for dtype in (torch.float64, o.x.dtype))
        sizes = exact
    else:
        rows = torch.linspace(0, point.m - 1, min(ROWS, point.m)).long().tolist()
        exact, plain = (formula(point, o, packs, dtype, rows) for dtype in (torch.float64, o.x.dtype))
        sizes = formula(point, o, packs, torch.float64, rows, Tensor.abs)
        count = len(point.outs) + point.train  # y, and dX: of these the rows; dA and dB come whole
        results = [result[rows] for result in results[:count]] + results[count:]
    sentence = fault(results, exact, plain, sizes)
    if sentence:
        return sentence, None
    return "", ((results[0].double() - exact[0]).norm() / exact[0].norm()).item()


def fault(results: list[Tensor], exact: list[Tensor], plain: list[Tensor], sizes: list[Tensor]) -> str:
    """Which result is off by more than the bound, empty if none is."""
    for i, (found, right, near, size) in enumerate(zip(results, exact, plain, sizes, strict=True)):
        roundings = torch.finfo(near.dtype).eps * right.abs().max().item()
        error = _largest(found, right)
        allowed = max(2 * _largest(near, right), 4 * 2**-23 * size.abs().max().item(), roundings)
        if not error <= allowed:  # NaN is not either
            return f"result {i + 1} of {len(exact)} is off by {error:.3g}, {allowed:.3g} is allowed"
    return ""


def _largest(found: Tensor, exact: Tensor) -> float:
    return (found.double() - exact).abs().max().item()


def formula(point: Point, o: Operands, packs: list, dtype: torch.dtype, rows: list[int], sign=lambda t: t):
    """In `dtype`, for `rows` of x: y of each projection, and when it trains dX; then for all rows each dA and dB.

    With `sign` = abs the sizes of the sums instead.
    """
    x = sign(o.x if point.rank else o.x[rows]).to(dtype)
    dys = [sign(dy if point.rank else dy[rows]).to(dtype) for dy in o.dys]
    ws = [sign(naive.dequantize(w, dtype)) for w in packs]
    a, b = ([sign(t).to(dtype) for t in ts] for ts in (o.a, o.b))
    some = rows if point.rank else slice(None)
    ys = [x[some] @ w.T for w in ws]
    if point.rank:
        ys = [y + SCALING * (x[some] @ a_i.T) @ b_i.T for y, a_i, b_i in zip(ys, a, b, strict=True)]
    if not point.train:
        return ys
    dx = sum(dy[some] @ w for dy, w in zip(dys, ws, strict=True))
    gs = [SCALING * dy @ b_i for dy, b_i in zip(dys, b, strict=False)]  # no b without a LoRA
    for g, a_i in zip(gs, a, strict=True):
        dx = dx + g[some] @ a_i
    das = [g.T @ x for g in gs]
    dbs = [SCALING * dy.T @ (x @ a_i.T) for dy, a_i in zip(dys, a, strict=False)]
    return [*ys, dx, *das, *dbs]


def _wrong_bytes(point: Point, o: Operands, results: list[Tensor]) -> str:
    # naive.py quantises on every device, so this finds a wrong copy; the tests hold its bytes to bitsandbytes.
    bits, double = BITS[point.bits]
    weight = o.weights[0]
    exact = naive.quantize_int8(weight) if bits == 8 else naive.quantize_nf4(weight, BLOCK, double)
    for (name, tensor), found in zip(exact.tensors().items(), results, strict=True):
        if not torch.equal(found, tensor):
            return f"{name} differs from the specification in {(found != tensor).sum().item()} places"
    return ""
