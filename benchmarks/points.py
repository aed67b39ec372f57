"""What benchmarks.kernels measures: the list of points, the bytes and operations of each.

A point is one call: an operation on weights of one format, at M rows of x, with a LoRA of some rank or none, forward
or forward and backward; or what lies between the linear layers, on M rows. Shapes are those of Llama-2-7B, Mistral-7B
and Llama-3-8B; of these the last two share theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

BITS = {"nf4": (4, False), "nf4 double": (4, True), "int8": (8, False)}  # -> bits and double_quant of kernels.quantize
BLOCK = 64  # elements that share one absmax in NF4


@dataclass(frozen=True)
class Point:
    """One call to measure. Several `outs` are projections of one x [m, columns]: q/k/v, gate/up."""

    operation: str  # quantize, dequantize, linear
    bits: str  # a key of BITS, or "16-bit": a plain tensor in the dtype of x
    outs: tuple[int, ...]
    columns: int
    m: int = 0
    rank: int = 0  # 0: no LoRA
    train: bool = False  # forward, and the gradients of x and of the LoRA

    @property
    def name(self) -> str:
        """The operation in words."""
        operation = "lora linear" if self.rank else self.operation
        return f"{operation} {self.bits}" + (" forward + backward" if self.train else "")

    @property
    def shape(self) -> str:
        """4096+1024+1024x4096 M=1 r=16: a weight [out, in] for each projection, rows of x, rank."""
        weight = "+".join(map(str, self.outs)) + f"x{self.columns}"
        return weight + (f" M={self.m}" if self.m else "") + (f" r={self.rank}" if self.rank else "")

    def weight_bytes(self, bits: str, size: int = 2) -> int:
        """Of all weights in a format; `size` is that of one number of x, and of a plain weight."""
        total = 0
        for numel in (out * self.columns for out in self.outs):
            blocks = math.ceil(numel / BLOCK)
            total += {
                "16-bit": size * numel,
                "int8": numel + 4 * numel // self.columns,
                "nf4": math.ceil(numel / 2) + 4 * blocks,
                # a code a block, a second-level absmax for 256 of them, the map of 256 values and the offset
                "nf4 double": math.ceil(numel / 2) + blocks + 4 * math.ceil(blocks / 256) + 4 * 256 + 4,
            }[bits]
        return total

    def bytes(self, bits: str | None = None, size: int = 2) -> int:
        """The fewest that a call with weights in `bits` can move: each operand read and each result written once.

        Once in the forward and once in the backward pass, that is; what lies between (x A^T, dY B) counts nothing.
        """
        n, k, m, r = sum(self.outs), self.columns, self.m, self.rank
        weight = self.weight_bytes(bits or self.bits, size)
        if self.operation != "linear":
            return weight + size * n * k
        lora = 4 * r * (k * len(self.outs) + n)  # A and B are float32, as in training
        forward = weight + lora + size * m * (k + n)  # x and y
        if not self.train:
            return forward
        backward = weight + size * m * (n + k)  # dY and dX
        return forward + backward + (2 * lora + size * m * k if r else 0)  # A, B, dA, dB, and x again for dA

    @property
    def flop(self) -> int:
        """Of the matrix products, a multiplication and an addition each counted: those a frozen weight needs."""
        n, k, m, r = sum(self.outs), self.columns, self.m, self.rank
        if self.operation != "linear":
            return 0
        base, lora = 2 * m * n * k, 2 * m * r * (k * len(self.outs) + n)
        return 2 * base + 3 * lora if self.train else base + lora  # backward: dX; of the LoRA G, dA, dB and its dX


@dataclass(frozen=True)
class Elementwise:
    """One call of what lies between the linear layers; nothing is multiplied with a weight, so bytes alone decide."""

    operation: str  # rms norm, rotary, swiglu
    widths: tuple[int, ...]  # numbers of a row: of x; of q and of k; of gate and of up
    m: int  # rows
    head: int = 0  # numbers of a head of q and k
    train: bool = False  # forward, and the gradients of x; of q and k; of gate and up

    bits: ClassVar[str] = "16-bit"
    flop: ClassVar[int] = 0

    @property
    def name(self) -> str:
        """The operation in words."""
        return self.operation + (" forward + backward" if self.train else "")

    @property
    def shape(self) -> str:
        """4096+1024 M=4096 head=128."""
        return "+".join(map(str, self.widths)) + f" M={self.m}" + (f" head={self.head}" if self.head else "")

    def weight_bytes(self, bits: str, size: int = 2) -> int:
        """Of the rows that come in, which stand here for a weight: a copy of them is what a cache must not hold."""
        return size * self.m * sum(self.widths) * (2 if self.train else 1)

    def bytes(self, bits: str | None = None, size: int = 2) -> int:
        """The fewest that a call can move: each operand read and each result written once, in each direction."""
        rows, directions = self.m * sum(self.widths), 2 if self.train else 1
        if self.operation == "rms norm":  # x, y; dY, x, dX
            return size * (rows * (5 if self.train else 2) + directions * self.widths[0])
        if self.operation == "rotary":  # q, k, the same turned, half of cos and of sin; and back
            return size * directions * (2 * rows + self.m * self.head)
        return size * rows * (8 if self.train else 3) // 2  # gate, up, y; dY, gate, up, dGate, dUp


SQUARE, QKV_LLAMA2, GATE_LLAMA2, GATE_UP_LLAMA2, DOWN_LLAMA2 = (
    (4096, 4096), (12288, 4096), (11008, 4096), (22016, 4096), (4096, 11008),
)  # fmt: skip
KV, QKV, GATE, GATE_UP, DOWN = (1024, 4096), (6144, 4096), (14336, 4096), (28672, 4096), (4096, 14336)
SHAPES = [GATE, SQUARE, DOWN, GATE_UP, QKV, KV, GATE_LLAMA2, DOWN_LLAMA2, QKV_LLAMA2, GATE_UP_LLAMA2]
GROUPS = [((4096, 1024, 1024), 4096), ((14336, 14336), 4096), ((4096,) * 3, 4096), ((11008, 11008), 4096)]
SWEEP = tuple(2**i for i in range(14))  # M = 1 .. 8192
RANKS = (8, 16, 32, 64, 128)


def linear(bits: str, shape: tuple[int, int], m: int, rank: int = 0, train: bool = False) -> Point:
    """A linear layer of one weight."""
    return Point("linear", bits, (shape[0],), shape[1], m, rank, train)


def convert(operation: str, bits: str, shape: tuple[int, int]) -> Point:
    """Quantise or dequantise one weight."""
    return Point(operation, bits, (shape[0],), shape[1])


def elementwise(m: int, hidden: int, kv: int, mlp: int, head: int, train: bool) -> list[Elementwise]:
    """Those of a decoder layer at m tokens."""
    return [
        Elementwise("rms norm", (hidden,), m, 0, train),
        Elementwise("rotary", (hidden, kv), m, head, train),
        Elementwise("swiglu", (mlp, mlp), m, 0, train),
    ]


def gpu_points() -> list[Point | Elementwise]:
    """The fixed list: first what the targets are about, then whole families, the most used first; at most 400."""
    points = [convert("dequantize", "nf4 double", DOWN)]
    points += [linear("nf4 double", shape, 1) for shape in ((8192, 8192), GATE_UP)]
    points += [linear("nf4 double", shape, m) for shape in (GATE, SQUARE) for m in (1, 2, 4, 8, 16, 64, 128, 4096)]
    points += [linear("nf4 double", GATE, 4096, 16, True)]
    for train in (True, False):
        points += elementwise(4096, 4096, 1024, 14336, 128, train)
    points += [linear("nf4 double", shape, m) for shape in (GATE, SQUARE, DOWN) for m in SWEEP]
    points += [linear("nf4 double", GATE, 4096, rank, True) for rank in RANKS]
    points += [linear("nf4 double", GATE, m, 16, train) for train in (False, True) for m in SWEEP]
    points += [convert("dequantize", bits, shape) for shape in SHAPES for bits in BITS]
    points += [convert("quantize", bits, DOWN) for bits in BITS]
    points += [Point("linear", "nf4 double", *group, m, 16, m > 1) for group in GROUPS for m in (1, 4096)]
    points += [linear("nf4 double", shape, m, 0, True) for shape in SHAPES for m in (512, 4096)]
    points += [linear(bits, shape, 4096, 16, True) for shape in SHAPES for bits in ("nf4 double", "int8", "16-bit")]
    points += [linear("int8", shape, m) for shape in SHAPES for m in (1, 16, 128, 1024, 4096)]
    points += [linear("nf4", shape, m) for shape in (GATE, SQUARE, DOWN) for m in (1, 16, 64, 256, 1024, 4096)]
    points += [linear("nf4 double", s, 4096, r, t) for s in (SQUARE, DOWN) for r in RANKS for t in (False, True)]
    points += [linear("nf4 double", shape, m) for shape in SHAPES for m in (1, 4, 16, 32, 64, 128, 512, 2048, 8192)]
    points += [linear("int8", shape, 4096, 0, True) for shape in SHAPES]
    return list(dict.fromkeys(points))


def full_grid() -> list[Point]:
    """Every shape, format, M and rank, forward and forward + backward; hours."""
    points = [convert(operation, *rest) for operation, *rest in product(("dequantize", "quantize"), BITS, SHAPES)]
    grid = product((*BITS, "16-bit"), SHAPES, SWEEP, (0, *RANKS), (False, True))
    return points + [linear(*cell) for cell in grid if cell[0] != "16-bit" or cell[3]]  # kernels.linear on a tensor


def cpu_points(side: int = 2048, large: int = 4096, m: int = 1024) -> list[Point | Elementwise]:
    """What ends in two and a half minutes on two cores: all operations on a square weight, the README's on a large one.

    What lies between linear layers is that of half a `side`: hidden 1,024, an MLP of 2,816, 16 + 8 heads of 64.
    """
    points = [convert(operation, bits, (side, side)) for operation in ("quantize", "dequantize") for bits in BITS]
    points += [linear(bits, (side, side), m) for bits in BITS]
    points += [linear(bits, (side, side), m, 0, True) for bits in ("nf4 double", "int8")]
    points += [linear("nf4 double", (side, side), m, rank, True) for rank in (8, 128)]
    points += [linear("nf4 double", (side, side), rows) for rows in (1, 16, m // 8)]
    points += [convert("quantize", bits, (large, large)) for bits in BITS]
    for bits in ("nf4 double", "int8"):
        points += [convert("dequantize", bits, (large, large)), linear(bits, (large, large), m)]
    return points + elementwise(m, side // 2, side // 4, side * 11 // 8, side // 32, True)
