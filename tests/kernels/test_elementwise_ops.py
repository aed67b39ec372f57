"""RMSNorm, rotary embedding and SwiGLU as operators: what is refused, what autograd and torch.compile are told."""

import pytest
import torch
from torch.library import opcheck

import kernels
from kernels import backend
from maple.lora import LoRALinear
from maple.quantized import QuantizedLinear

BACKENDS = ["naive", "triton"] if backend.interpreting() else ["naive"]  # `make test` runs this file both ways
X, W = torch.randn(3, 64), torch.randn(64)
Q, K, COS = torch.randn(2, 4, 5, 16), torch.randn(2, 2, 5, 16), torch.randn(1, 5, 16)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernels.rms_norm(X.long(), W, 1e-6), "x must be floats .* of torch.int64"),
        (lambda: kernels.rms_norm(X[:, :0], W, 1e-6), r"n at least 1, found \[3, 0\]"),
        (lambda: kernels.rms_norm(X, W[:60], 1e-6), r"weight must be floats \[64\] for x \[3, 64\], found \[60\]"),
        (lambda: kernels.rms_norm(X, W.clone().requires_grad_(), 1e-6), "the weight requires a gradient; a frozen"),
        (lambda: kernels.rms_norm(X, W.to("meta"), 1e-6), "x lies on cpu, the weight on meta"),
        (lambda: kernels.rms_norm(X, W, 1e-6, backend="cuda"), "backend is 'cuda'"),
        (lambda: kernels.rotary(Q[0], K, COS, COS), r"q must be floats \[batch, heads, tokens, head_dim\]"),
        (lambda: kernels.rotary(Q[..., :15], K, COS, COS), "an even head_dim"),
        (lambda: kernels.rotary(Q, K[:, :, :4], COS, COS), r"k must be \[2, heads, 5, 16\] of torch.float32"),
        (lambda: kernels.rotary(Q, K.half(), COS, COS), "of torch.float32 beside q, found .* of torch.float16"),
        (lambda: kernels.rotary(Q, K, COS[..., :8], COS), r"cos must be floats \[1 or 2, 5, 16\] .* \[1, 5, 8\]"),
        (lambda: kernels.rotary(Q, K, COS, COS.repeat(3, 1, 1)), r"sin must be floats .* found \[3, 5, 16\]"),
        (lambda: kernels.rotary(Q, K, COS, COS.clone().requires_grad_()), "sin requires a gradient"),
        (lambda: kernels.rotary(Q, K, COS.to("meta"), COS), "q lies on cpu, cos on meta"),
        (lambda: kernels.swiglu(X.long(), X), "gate must be floats .* of torch.int64"),
        (lambda: kernels.swiglu(X, X[:2]), r"up must be \[3, 64\] of torch.float32 as the gate, found \[2, 64\]"),
        (lambda: kernels.swiglu(X, X.half()), "found .* of torch.float16"),
        (lambda: kernels.swiglu(X, X.to("meta")), "gate lies on cpu, up on meta"),
    ],
)
def test_misfits_are_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend, dtype):
    x, gate, up = (torch.randn(5, 24, dtype=dtype, requires_grad=True) for _ in range(3))
    dy, weight = (torch.randn(shape, dtype=dtype) for shape in ((5, 24), (24,)))
    opcheck(torch.ops.maple.rms_norm, (x, weight, 1e-6, backend))
    opcheck(torch.ops.maple.rms_norm_backward, (dy, x.detach(), weight, torch.rand(5), backend))
    opcheck(torch.ops.maple.swiglu, (gate, up, backend))
    opcheck(torch.ops.maple.swiglu_backward, (dy, gate.detach(), up.detach(), backend))
    q, k = (torch.randn(2, 3, heads, 8, dtype=dtype, requires_grad=True).transpose(1, 2) for heads in (4, 2))
    cos, sin = torch.randn(2, 1, 3, 8, dtype=dtype)
    opcheck(torch.ops.maple.rotary, (q, k, cos, sin, 1.0, backend))
    outside = [torch.randn(2, heads, 3, 8, dtype=dtype, requires_grad=True) for heads in (4, 2)]
    opcheck(torch.ops.maple.rotary, (*outside, cos, sin, -1.0, backend))


class Block(torch.nn.Module):
    """A decoder layer of what `kernels` has: norm, LoRA on q/k/v, rotary, attention, norm, LoRA on gate/up, SwiGLU."""

    def __init__(self, backend):
        super().__init__()
        self.backend = backend
        for name, out, columns in (("q", 64, 64), ("k", 32, 64), ("gate", 96, 64), ("up", 96, 64), ("down", 64, 96)):
            packed = kernels.quantize(torch.randn(out, columns) / 8, 4, 32, True)
            layer = LoRALinear(QuantizedLinear(packed), 4, 4)
            torch.nn.init.normal_(layer.lora_b)
            self.add_module(name, layer)

    def forward(self, x, cos, sin):
        norm = kernels.rms_norm(x, W, 1e-6, self.backend)
        q, k = (layer(norm).unflatten(2, (-1, 16)).transpose(1, 2) for layer in (self.q, self.k))
        q, turned = kernels.rotary(q, k, cos, sin, self.backend)
        attended = torch.nn.functional.scaled_dot_product_attention(q, turned, k, enable_gqa=True)
        x = x + attended.transpose(1, 2).flatten(2)
        norm = kernels.rms_norm(x, W, 1e-6, self.backend)
        return x + self.down(kernels.swiglu(self.gate(norm), self.up(norm), self.backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_torch_compile_meets_no_graph_break_in_a_decoder_layer(backend):
    block, x = Block(backend), torch.randn(2, 5, 64, requires_grad=True)
    angles = torch.randn(1, 5, 8).repeat(1, 1, 2)
    operands, dy = (x, angles.cos(), angles.sin()), torch.randn(2, 5, 64)
    leaves = [x, *(p for p in block.parameters() if p.requires_grad)]
    plain = torch.autograd.grad(block(*operands), leaves, dy)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for grad, expected in zip(torch.autograd.grad(compiled(*operands), leaves, dy), plain, strict=True):
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frozen_input_needs_no_gradient_and_one_side_alone_may_need_one(backend):
    assert not kernels.rms_norm(X, W, 1e-6, backend).requires_grad
    gate = X.clone().requires_grad_()
    assert torch.autograd.grad(kernels.swiglu(gate, X, backend).sum(), gate)[0].shape == X.shape
    k = K.clone().requires_grad_()
    _, turned = kernels.rotary(Q, k, COS, COS, backend)
    assert torch.autograd.grad(turned.sum(), k)[0].shape == K.shape
