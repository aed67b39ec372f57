"""How maple, PyTorch, bitsandbytes, peft and torchao do a point: at their documented best, on the same tensors.

A provider is a function (point, operands, copies) -> one call for each copy of its weights, or None where it has no
such operation. A call returns all its results as tensors: of a product y, and when it trains the gradients of x, A, B.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

import kernels
from benchmarks.points import BITS, BLOCK, Point
from benchmarks.targets import BF16, OURS, PEFT

Calls = list[Callable[[], list[Tensor]]]
BNB, AO, FLOAT32 = "bitsandbytes", "torchao", "PyTorch float32"
SCALING = 1.0  # of the LoRA: alpha = rank
TORCHAO_NF4 = "torchao.quantization.quantize_.workflows.nf4.nf4_tensor"  # where 0.18 has it

SETTINGS = {
    OURS: "kernels.quantize(block_size 64), kernels.linear, lora_linear and lora_linear_grouped, A and B float32",
    BF16: "torch.nn.functional.linear on a bf16 weight; beside a LoRA it does the base alone",
    FLOAT32: "torch.nn.functional.linear on a float32 weight; beside a LoRA it does the base alone",
    BNB: "quantize_4bit(nf4, blocksize 64), matmul_4bit, dequantize_4bit; 8 bits: matmul, threshold 0 (W8A8 on a GPU)",
    PEFT: "LoraConfig(lora_dropout 0) around nn.Linear4bit(nf4); autocast_adapter_dtype, its default: A and B float32",
    AO: "to_nf4(block 64, scaler block 256), linear_nf4; its own double quantisation, no LoRA",
}


@dataclass(frozen=True)
class Operands:
    """What all providers get: float weights [out, in] and A, B, dY for each projection, and one x."""

    weights: list[Tensor]
    x: Tensor
    dys: list[Tensor]
    a: list[Tensor]
    b: list[Tensor]


@functools.lru_cache(maxsize=16)  # more than there are shapes: 1.3 GB
def weight(out: int, columns: int, device: str) -> Tensor:
    """A bf16 weight with outputs as large as its inputs, the same one at every call."""
    generator = torch.Generator(device).manual_seed(out * columns)
    return (torch.randn(out, columns, device=device, generator=generator) * columns**-0.5).bfloat16()


@functools.lru_cache(maxsize=16)
def packed(out: int, columns: int, device: str, bits: str):
    """The same weight as our format, or as it is."""
    dense = weight(out, columns, device)
    return dense if bits == "16-bit" else kernels.quantize(dense, BITS[bits][0], BLOCK, BITS[bits][1])


@functools.cache
def generator(device: str) -> torch.Generator:
    """Of all random operands on a device."""
    return torch.Generator(device).manual_seed(0)  # its own, so that a captured graph has no part in its state


def operands(point: Point, device: str) -> Operands:
    """Random ones: bf16 on a GPU, float32 on a CPU, A and B float32 in either."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator(device))

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    weights = [weight(out, point.columns, device) for out in point.outs]
    x = normal(point.m, point.columns).to(dtype)
    dys = [normal(point.m, out).to(dtype) for out in point.outs if point.train]
    a = [normal(point.rank, point.columns) * point.columns**-0.5 for _ in point.outs if point.rank]
    b = [normal(out, point.rank) * 0.1 for out in point.outs if point.rank]  # zero, as B starts, would be easy numbers
    return Operands(weights, x, dys, a, b)


def run(point: Point, o: Operands, forward: Callable, parameters: list[Tensor] = ()) -> list[Tensor]:
    """y of every projection, and when the point trains the gradients of x and the parameters, A first."""
    if not point.train:
        with torch.no_grad():
            return list(forward(o.x))
    x = o.x.detach().requires_grad_()  # a leaf of its own: its autograd node then belongs to the stream of this call
    ys = list(forward(x))
    return ys + list(torch.autograd.grad(ys, [x, *parameters], o.dys))


def maple(point: Point, o: Operands, n: int) -> Calls | None:
    """Ours."""
    device = o.x.device.type
    if point.operation == "quantize":
        bits, double = BITS[point.bits]
        weights = [o.weights[0].clone() for _ in range(n)]
        return [lambda w=w: list(kernels.quantize(w, bits, BLOCK, double).tensors().values()) for w in weights]

    def forward(x: Tensor, w: list, a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        if not point.rank:
            return [kernels.linear(x, w[0])]
        if len(w) == 1:
            return [kernels.lora_linear(x, w[0], a[0], b[0], SCALING)]
        return list(kernels.lora_linear_grouped(x, w, a, b, [SCALING] * len(w)))

    def one() -> Callable[[], list[Tensor]]:
        w = [_clone(packed(out, point.columns, device, point.bits)) for out in point.outs]
        if point.operation == "dequantize":
            return lambda: [w[0].dequantize(o.x.dtype)]
        a, b = ([t.clone().requires_grad_(point.train) for t in ts] for ts in (o.a, o.b))
        return lambda: run(point, o, lambda x: forward(x, w, a, b), [*a, *b])

    return [one() for _ in range(n)]


def _clone(w):
    if isinstance(w, Tensor):
        return w.clone()
    return type(w)(**w.settings(), **{name: tensor.clone() for name, tensor in w.tensors().items()})


def dense(point: Point, o: Operands, n: int) -> Calls | None:
    """cuBLAS in bf16, or float32 on a CPU: the base layer alone, forward and dX."""
    if point.operation != "linear":
        return None
    ws = [[w.to(o.x.dtype, copy=True) for w in o.weights] for _ in range(n)]
    return [lambda w=w: run(point, o, lambda x: [functional.linear(x, one) for one in w]) for w in ws]


def bitsandbytes(point: Point, o: Operands, n: int) -> Calls | None:
    """Its functional interface, which its layers call."""
    if point.rank or point.bits == "16-bit":
        return None
    return (_bnb_int8 if point.bits == "int8" else _bnb_nf4)(point, o, n)


def _bnb_nf4(point: Point, o: Operands, n: int) -> Calls:
    import bitsandbytes as bnb

    options = {"blocksize": BLOCK, "quant_type": "nf4", "compress_statistics": point.bits == "nf4 double"}
    if point.operation == "quantize":
        weights = [o.weights[0].clone() for _ in range(n)]
        return [lambda w=w: [bnb.functional.quantize_4bit(w, **options)[0]] for w in weights]
    codes, state = bnb.functional.quantize_4bit(o.weights[0], **options)
    state.dtype = o.x.dtype  # what it is dequantised to
    ws = [(codes.clone(), copy.deepcopy(state)) for _ in range(n)]
    if point.operation == "dequantize":
        return [lambda w=w: [bnb.functional.dequantize_4bit(*w)] for w in ws]
    return [lambda w=w: run(point, o, lambda x: [bnb.matmul_4bit(x, *w)]) for w in ws]


def _bnb_int8(point: Point, o: Operands, n: int) -> Calls:
    import bitsandbytes as bnb

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # says at each call that it casts x
    half = o.weights[0].half()  # the only dtype that its CUDA kernel quantises
    if point.operation == "quantize":
        weights = [half.clone() for _ in range(n)]
        return [lambda w=w: list(bnb.functional.int8_vectorwise_quant(w)[:2]) for w in weights]
    codes, absmax, _ = bnb.functional.int8_vectorwise_quant(half)
    ws = [(codes.clone(), absmax.clone()) for _ in range(n)]
    if point.operation == "dequantize":  # as its backward pass does it, faster than its int8_vectorwise_dequant
        return [lambda q=q, s=s: [q.to(o.x.dtype, copy=True).mul_(s.unsqueeze(1).mul(1 / 127))] for q, s in ws]
    states = [bnb.MatmulLtState(CB=q, SCB=s) for q, s in ws]
    for state in states:
        state.has_fp16_weights = False  # as in its Linear8bitLt when it holds int8
    return [lambda s=s: run(point, o, lambda x: [bnb.matmul(x, s.CB, state=s)]) for s in states]


def peft(point: Point, o: Operands, n: int) -> Calls | None:
    """Linear4bit layers in an nn.Sequential, wrapped by get_peft_model; its layers are then called one by one."""
    if not point.rank or point.bits not in ("nf4", "nf4 double"):
        return None
    import bitsandbytes as bnb
    from peft import LoraConfig, get_peft_model

    double, device = point.bits == "nf4 double", o.x.device
    layers = []
    for w in o.weights * n:
        # made on "meta", because nn.Linear would first fill a float32 weight with random numbers
        layer = bnb.nn.Linear4bit(
            point.columns, len(w), False, o.x.dtype, compress_statistics=double, quant_type="nf4", device="meta"
        )
        layer.weight = bnb.nn.Params4bit(
            w, requires_grad=False, compress_statistics=double, quant_type="nf4", module=layer
        )
        layers.append(layer.to(device))  # quantises
    model = torch.nn.Sequential(*layers)
    model.is_loaded_in_4bit = True  # how transformers marks it; without it peft takes these for plain linear layers
    names = [str(i) for i in range(len(layers))]
    config = LoraConfig(r=point.rank, lora_alpha=point.rank * SCALING, lora_dropout=0.0, target_modules=names)
    wrapped = list(get_peft_model(model, config).base_model.model)
    parameters = [[layer.lora_A["default"].weight, layer.lora_B["default"].weight] for layer in wrapped]
    with torch.no_grad():
        for i, (a, b) in enumerate(parameters):
            a.copy_(o.a[i % len(o.a)])
            b.copy_(o.b[i % len(o.b)])

    def call(first: int) -> list[Tensor]:
        own = slice(first, first + len(point.outs))
        trained = [pair[side] for side in (0, 1) for pair in parameters[own]]
        return run(point, o, lambda x: [layer(x) for layer in wrapped[own]], trained)

    return [functools.partial(call, i * len(point.outs)) for i in range(n)]


def torchao(point: Point, o: Operands, n: int) -> Calls | None:
    """Its NF4 tensor."""
    if point.rank or point.bits != "nf4 double" or point.operation == "quantize":
        return None
    nf4 = importlib.import_module(TORCHAO_NF4)
    ws = [nf4.to_nf4(o.weights[0].to(o.x.dtype), BLOCK, 256) for _ in range(n)]
    if point.operation == "dequantize":
        return [lambda w=w: [w.to(o.x.dtype)] for w in ws]
    return [lambda w=w: run(point, o, lambda x: [nf4.linear_nf4(x, w)]) for w in ws]


def available(device: str) -> tuple[dict[str, Callable], list[str]]:
    """(providers by name, ours first; what is missing, in sentences)."""
    found = {OURS: maple, BF16 if device == "cuda" else FLOAT32: dense}
    missing = []
    for name, function, packages in (
        (BNB, bitsandbytes, ["bitsandbytes"]),
        (PEFT, peft, ["peft", "bitsandbytes"]),
        (AO, torchao, [TORCHAO_NF4]),
    ):
        absent = [package for package in packages if not _importable(package)]
        if absent:
            missing.append(f"{name} is left out: {' and '.join(absent)} not installed")
        else:
            found[name] = function
    return found, missing


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of a parent, which is missing or does not fit this PyTorch
        return False
