"""RMSNorm, rotary embedding and SwiGLU beside transformers' modules, as they are and through torch.compile.

As in peers.py a provider is a function (point, operands, copies) -> one call for each copy of the operands; a call
returns all its results, and when it trains the gradients. `wrong` is to these points what correct.py is to the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import kernels
from benchmarks.correct import ROWS, fault
from benchmarks.peers import Calls, generator
from benchmarks.points import Elementwise
from benchmarks.targets import OURS

EAGER, COMPILED = "transformers", "transformers, compiled"
EPS = 1e-5
SETTINGS = {
    EAGER: "LlamaRMSNorm, apply_rotary_pos_emb, silu(gate) * up of LlamaMLP",
    COMPILED: "the same through torch.compile(dynamic=False), forward and backward",
}


class Operands(NamedTuple):
    """What all providers get: rows [m, width], whose gradients are asked for when the point trains, and the rest."""

    inputs: list[Tensor]  # x; q and k; gate and up
    others: list[Tensor]  # the weight; cos and sin
    dys: list[Tensor]


def operands(point: Elementwise, device: str) -> Operands:
    """Random ones: bf16 on a GPU, float32 on a CPU."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator(device)).to(dtype)

    inputs = [normal(point.m, width) for width in point.widths]
    if point.operation == "rms norm":
        return Operands(inputs, [normal(*point.widths)], [normal(point.m, *point.widths)])
    if point.operation == "swiglu":
        return Operands(inputs, [], [normal(point.m, point.widths[0])])
    angles = normal(1, point.m, point.head // 2).repeat(1, 1, 2)
    dys = [_heads(normal(point.m, width), point) for width in point.widths]  # in the layout that attention gives back
    return Operands(inputs, [angles.cos(), angles.sin()], dys)


def _heads(rows: Tensor, point: Elementwise) -> Tensor:
    """What a projection wrote as attention takes it: [1, heads, tokens, head_dim], a view."""
    return rows.view(1, len(rows), -1, point.head).transpose(1, 2)


def our_function(point: Elementwise) -> Callable:
    """Of the inputs and the others."""
    if point.operation == "rms norm":
        return lambda x, weight: kernels.rms_norm(x, weight, EPS)
    if point.operation == "swiglu":
        return kernels.swiglu
    return lambda q, k, cos, sin: kernels.rotary(_heads(q, point), _heads(k, point), cos, sin)


def their_function(point: Elementwise, o: Operands) -> Callable:
    """Of the inputs and the others; the norm's weight is the one in `o`."""
    from transformers.activations import ACT2FN
    from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

    if point.operation == "rms norm":
        norm = LlamaRMSNorm(*point.widths, EPS)
        norm.weight = torch.nn.Parameter(o.others[0], requires_grad=False)
        return lambda x, weight: norm(x)
    if point.operation == "swiglu":
        silu = ACT2FN["silu"]
        return lambda gate, up: silu(gate) * up
    return lambda q, k, cos, sin: apply_rotary_pos_emb(_heads(q, point), _heads(k, point), cos, sin)


def run(point: Elementwise, function: Callable, o: Operands) -> list[Tensor]:
    """The results, and when the point trains the gradients of the inputs."""
    if not point.train:
        with torch.no_grad():
            return _listed(function(*o.inputs, *o.others))
    leaves = [t.detach().requires_grad_() for t in o.inputs]  # their autograd nodes belong to the stream of this call
    ys = _listed(function(*leaves, *o.others))
    return ys + list(torch.autograd.grad(ys, leaves, o.dys))


def _listed(results: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else list(results)


def _calls(point: Elementwise, function: Callable, o: Operands, n: int) -> Calls:
    """On copies that keep the layout of what they copy."""
    rotation = [Operands(*([t.clone() for t in ts] for ts in o)) for _ in range(n)]
    return [lambda one=one: run(point, function, one) for one in rotation]


def maple(point: Elementwise, o: Operands, n: int) -> Calls:
    """Ours."""
    return _calls(point, our_function(point), o, n)


def eager(point: Elementwise, o: Operands, n: int) -> Calls:
    """A kernel for each operation in the modules' code."""
    return _calls(point, their_function(point, o), o, n)


def compiled(point: Elementwise, o: Operands, n: int) -> Calls:
    """Fused by torch.compile, as a decoder layer compiled whole would have it."""
    return _calls(point, torch.compile(their_function(point, o), dynamic=False), o, n)


PROVIDERS = {OURS: maple, EAGER: eager, COMPILED: compiled}


def wrong(point: Elementwise, o: Operands, results: list[Tensor]) -> tuple[str, float | None]:
    """(what is wrong with our results, empty if nothing; the relative RMS error of the first), at some of the rows."""
    rows = torch.linspace(0, point.m - 1, min(ROWS, point.m)).long().tolist()
    some = Operands(*([t if t.dim() == 1 else t[..., rows, :] for t in ts] for ts in o))
    doubles = Operands(*([t.double() for t in ts] for ts in some))
    plain = run(point, their_function(point, some), some)
    exact = run(point, _textbook if point.operation == "rms norm" else their_function(point, doubles), doubles)
    found = [result[..., rows, :] for result in results]
    error = ((found[0].double() - exact[0]).norm() / exact[0].norm()).item()
    return fault(found, exact, plain, exact), error


def _textbook(x: Tensor, weight: Tensor) -> Tensor:
    """In float64, where the module would go down to float32."""
    return x * (x.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * weight
