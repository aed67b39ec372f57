"""Calls of RMSNorm, rotary embedding and SwiGLU, and what each is held to: by naive.py's path and by the kernels."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

import kernels
from tests.reference import assert_within_rounding

EPS = 1e-5
# x [..., n]; and [batch, heads of q, heads of k, tokens, head_dim, batch of the angles]
ROWS = [(1, 1), (3, 17), (17, 172), (3, 4097), (130, 64), (2, 3, 128), (4,)]
HEADS = [(1, 1, 1, 1, 2, 1), (2, 4, 2, 7, 16, 1), (2, 5, 1, 3, 34, 2), (1, 8, 8, 4, 128, 1), (3, 3, 2, 5, 6, 3)]
CASES = [*(("rms_norm", s) for s in ROWS), *(("rotary", s) for s in HEADS), *(("swiglu", s) for s in ROWS)]


class Call(NamedTuple):
    """One function three times: as we do it, as transformers does, and as a book writes it, for float64."""

    ours: Callable
    plain: Callable
    exact: Callable
    inputs: dict[str, Tensor]  # by name; their gradients are compared
    others: list[Tensor]  # that get none
    # dx of the norm is a difference: a row of one number leaves next to none of the dy * weight / rms that it is taken
    # from. No other sum here is much larger than what it comes to.
    steepest: Tensor | None = None


def call(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu") -> Call:
    """Fresh random inputs."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    if name == "rms_norm":

        def norm(x: Tensor, weight: Tensor) -> Tensor:
            return x * (x.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * weight

        def module(x: Tensor, weight: Tensor) -> Tensor:
            llama = LlamaRMSNorm(len(weight), EPS)
            llama.weight = torch.nn.Parameter(weight, requires_grad=False)
            return llama(x)

        def ours(x: Tensor, weight: Tensor, backend: str) -> Tensor:
            return kernels.rms_norm(x, weight, EPS, backend)

        x, weight = normal(*shape), normal(shape[-1])
        steepest = weight.double() * (x.double().pow(2).mean(-1, keepdim=True) + EPS).rsqrt()
        return Call(ours, module, norm, {"x": x}, [weight], steepest)
    if name == "swiglu":

        def plain(gate: Tensor, up: Tensor) -> Tensor:
            return silu(gate) * up

        return Call(kernels.swiglu, plain, plain, {"gate": normal(*shape), "up": normal(*shape)}, [])
    batch, q_heads, k_heads, tokens, width, angles = shape
    q, k = (normal(batch, tokens, heads, width).transpose(1, 2) for heads in (q_heads, k_heads))
    angle = normal(angles, tokens, width // 2).repeat(1, 1, 2)
    others = [angle.cos(), angle.sin()]
    return Call(kernels.rotary, apply_rotary_pos_emb, apply_rotary_pos_emb, {"q": q, "k": k}, others)


def run(function: Callable, inputs: dict[str, Tensor], others: list[Tensor], dys: list[Tensor]) -> dict[str, Tensor]:
    """Results y0, y1 and gradients dx by name; as many dys as there are results are used."""
    leaves = [t.detach().requires_grad_() for t in inputs.values()]
    ys = function(*leaves, *others)
    ys = [ys] if isinstance(ys, Tensor) else list(ys)
    grads = torch.autograd.grad(ys, leaves, [dy.to(y.dtype) for dy, y in zip(dys, ys, strict=True)])
    return {f"y{i}": y.detach() for i, y in enumerate(ys)} | {
        f"d{name}": grad for name, grad in zip(inputs, grads, strict=True)
    }


def held_to_float64(one: Call, backend: str, harm: Callable = dict) -> None:
    """Ours beside transformers' in the same dtype, both against the book in float64; `harm` spoils ours, for a test."""
    first = next(iter(one.inputs.values()))
    dys = [torch.randn_like(t) for t in ([first] if one.ours is not kernels.rotary else one.inputs.values())]
    found = harm(run(lambda *t: one.ours(*t, backend=backend), one.inputs, one.others, dys))
    doubles = {name: t.double() for name, t in one.inputs.items()}, [t.double() for t in one.others], dys
    exact = run(one.exact, *doubles)
    plain = run(one.plain, one.inputs, one.others, dys) if first.dtype != torch.float64 else exact
    assert found.keys() == exact.keys()
    for name, result in found.items():
        assert result.dtype == first.dtype and result.shape == exact[name].shape, name
        if first.dtype == torch.float64:
            torch.testing.assert_close(result, exact[name])
        else:
            size = (one.steepest * dys[0] if name == "dx" else exact[name]).abs().max().item()
            assert_within_rounding(result, exact[name], size, plain[name], name)
