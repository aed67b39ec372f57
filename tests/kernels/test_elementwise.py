"""RMSNorm, rotary embedding and SwiGLU held to the textbook in float64, and to transformers' modules."""

import pytest
import torch
from torch.nn.functional import silu
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

import kernels
from tests.elementwise import CASES, call, held_to_float64

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_results_and_gradients_by_name(name, shape, dtype):
    held_to_float64(call(name, shape, dtype), "naive")


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize(("name", "shape"), [CASES[2], CASES[8], CASES[14]], ids=str)
def test_a_result_that_is_off_by_two_percent_is_found(name, shape, dtype):
    one = call(name, shape, dtype)
    for spoilt in ("y0", *(f"d{leaf}" for leaf in one.inputs)):
        with pytest.raises(AssertionError, match=f"{spoilt} is off by"):
            held_to_float64(one, "naive", lambda found, name=spoilt: found | {name: found[name] * 1.02})


def test_in_float32_results_are_those_of_transformers_to_a_few_roundings():
    x, weight = torch.randn(5, 172), torch.randn(172)
    norm = LlamaRMSNorm(172, 1e-6)
    norm.weight.data.copy_(weight)
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-6), norm(x))
    q, k, angles = torch.randn(2, 4, 7, 16), torch.randn(2, 2, 7, 16), torch.randn(2, 7, 8).repeat(1, 1, 2)
    expected = apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    torch.testing.assert_close(kernels.rotary(q, k, angles.cos(), angles.sin()), expected)
    gate, up = torch.randn(5, 172), torch.randn(5, 172)
    torch.testing.assert_close(kernels.swiglu(gate, up), ACT2FN["silu"](gate) * up)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_norm_is_rounded_where_transformers_rounds(dtype):
    """In 16 bits: next to every number the same bits; where it differs, float32's last bit decided a rounding."""
    x, norm = torch.randn(64, 256).to(dtype), LlamaRMSNorm(256, 1e-5).to(dtype)
    norm.weight.data.normal_()
    found, expected = kernels.rms_norm(x, norm.weight.detach(), 1e-5), norm(x)
    assert (found != expected).float().mean() < 1e-3
    # rounded only once, at the end, it would be another number for many
    once = x.float() * torch.rsqrt(x.float().pow(2).mean(1, keepdim=True) + 1e-5) * norm.weight.float()
    assert (once.to(dtype) != expected).float().mean() > 0.05


def test_what_autograd_keeps():
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    x, weight = torch.randn(2, 3, 64, requires_grad=True), torch.randn(64)
    gate, up = (torch.randn(6, 64, requires_grad=True) for _ in range(2))
    q, k = (torch.randn(2, heads, 3, 8, requires_grad=True) for heads in (4, 2))
    cos, sin = torch.randn(2, 1, 3, 8)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kernels.rms_norm(x, weight, 1e-6)
        assert [tuple(t.shape) for t in kept] == [(2, 3, 64), (64,), (6,)] and kept[0].data_ptr() == x.data_ptr()
        kept.clear()
        kernels.rotary(q, k, cos, sin)
        assert [t.data_ptr() for t in kept] == [cos.data_ptr(), sin.data_ptr()]
        kept.clear()
        kernels.swiglu(gate, up)
        assert [t.data_ptr() for t in kept] == [gate.data_ptr(), up.data_ptr()]


def test_turned_heads_and_their_gradients_lie_as_a_projection_wants_them():
    projected = torch.randn(2, 5, 4 * 8, requires_grad=True)
    heads = projected.view(2, 5, 4, 8).transpose(1, 2)
    cos, sin = torch.randn(2, 1, 5, 8)
    q, k = kernels.rotary(heads, heads[:, :2], cos, sin)
    assert q.transpose(1, 2).is_contiguous() and k.transpose(1, 2).is_contiguous()
    seen = []
    heads.register_hook(seen.append)
    q.backward(torch.randn(2, 4, 5, 8))  # as attention gives it: heads outside
    assert seen[0].transpose(1, 2).is_contiguous()


def test_extremes_are_neither_nan_nor_lost():
    gate = torch.tensor([[-200.0, -88.0, 0.0, 88.0, 200.0]], requires_grad=True)
    y = kernels.swiglu(gate, torch.ones(1, 5))
    assert torch.equal(y, silu(gate))
    assert torch.autograd.grad(y.sum(), gate)[0].isfinite().all()
    rows = torch.tensor([[0.0] * 4, [1e-30] * 4, [1e4] * 4])
    y = kernels.rms_norm(rows, torch.ones(4), 1e-6)
    assert y[0].eq(0).all() and y.isfinite().all() and torch.allclose(y[2], torch.ones(4))
    assert kernels.rms_norm(torch.full((1, 4), torch.nan), torch.ones(4), 1e-6).isnan().all()
