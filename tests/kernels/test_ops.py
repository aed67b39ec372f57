"""Arguments that do not fit are refused by name before anything is computed."""

import dataclasses
import importlib.util

import pytest
import torch
from torch.library import opcheck

import kernels
from kernels import backend, naive, ops
from maple.lora import LoRALinear
from maple.quantized import QuantizedLinear

W = kernels.quantize(torch.randn(8, 64), 4)
A, B = torch.randn(2, 64), torch.randn(8, 2)
X = torch.randn(3, 64)
BACKENDS = ["naive", "triton"] if backend.interpreting() else ["naive"]  # `make test` runs this file both ways


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernels.quantize(torch.randn(64)), "weight must be a float matrix"),
        (lambda: kernels.quantize(torch.ones(4, 64, dtype=torch.int32)), "torch.int32"),
        (lambda: kernels.quantize(torch.randn(4, 64), bits=3), "bits is 3; 4 .NF4. and 8"),
        (lambda: kernels.quantize(torch.randn(4, 64), block_size=96), "block_size is 96; NF4 knows 32, 64"),
        (lambda: kernels.linear(X[:, :60], W), r"x must be floats \[..., 64\]"),
        (lambda: kernels.linear(X.long(), W), "x must be floats"),
        (lambda: kernels.linear(X, W, bias=torch.zeros(7)), r"bias must be floats \[8\]"),
        (lambda: kernels.linear(X, torch.randn(8, 64, requires_grad=True)), "frozen"),
        (lambda: kernels.linear(X, W, bias=torch.zeros(8, requires_grad=True)), "the bias requires a gradient"),
        (lambda: kernels.linear(X.to("meta"), W), "x lies on meta"),
        (lambda: kernels.linear(X.to(torch.float8_e4m3fn), W), "x must be floats .* of torch.float8_e4m3fn"),
        (lambda: kernels.linear(X, W, bias=torch.zeros(8, device="meta")), "x lies on cpu, the bias on meta"),
        (lambda: kernels.linear(X, W, bias=torch.zeros(8, dtype=torch.int8)), "bias must be floats .* of torch.int8"),
        (
            lambda: kernels.dequantize(W, torch.int8),
            "dtype is torch.int8; a weight is dequantised to torch.float64",
        ),
        (lambda: kernels.linear(X, W, backend="cuda"), "backend is 'cuda'"),
        (lambda: kernels.lora_linear(X, W, A[:, :9], B, 1.0), r"a must be \[r, 64\]"),
        (lambda: kernels.lora_linear(X, W, A, B[:, :1], 1.0), r"b must be \[8, 2\]"),
        (lambda: kernels.lora_linear(X, W, A, B.long(), 1.0), "b must be floats"),
        (lambda: kernels.lora_linear(X, W, A.to("meta"), B, 1.0), "x lies on cpu, a on meta"),
        (lambda: kernels.lora_linear(X, W, A[:0], B[:, :0], 1.0), r"a must be \[r, 64\] with r at least 1"),
        (lambda: kernels.lora_linear(X, W, A, B, 1.0, dropout=1.0), "dropout is 1.0"),
        (lambda: kernels.lora_linear(X, W, A, B, 1.0, dropout=0.1), "dropout needs a seed"),
        (lambda: kernels.lora_linear_grouped(X, [W, W], [A], [B], [1.0]), "one of each is needed"),
        (lambda: dataclasses.replace(W, absmax=W.absmax[:-1]), "absmax of a packed weight .* must be 8 values"),
        (lambda: dataclasses.replace(W, codes=W.codes[:-1]), "codes of a packed weight"),
        (lambda: dataclasses.replace(W, nested_absmax=torch.ones(1)), "absmax of a packed weight .*torch.uint8"),
        (lambda: dataclasses.replace(W, absmax=W.absmax.to("meta")), "absmax of a packed weight lies on meta"),
        (
            lambda: dataclasses.replace(W, codes=torch.stack([W.codes] * 2, 1)[:, 0]),
            r"codes of a packed weight must be contiguous, found strides \[2\]",
        ),
        (lambda: dataclasses.replace(W, block_size=48), "block_size is 48"),
        (lambda: kernels.Int8Weight(torch.zeros(4, 8, dtype=torch.int8), torch.ones(3)), "absmax of a packed weight"),
    ],
)
def test_misfits_are_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_packed_weight_is_rebuilt_from_its_tensors_and_settings():
    w = kernels.quantize(torch.randn(8, 64), 4, 32, double_quant=True)
    again = kernels.NF4Weight(**w.tensors(), **w.settings())
    assert torch.equal(again.dequantize(), w.dequantize())
    assert again.nbytes == sum(t.nbytes for t in w.tensors().values())


# ------------------------------------------------------------------------------------------------- backends


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X, "x lies on the CPU; there the kernels run only under TRITON_INTERPRET=1"),
        (X.double(), r"x is torch.float64; the kernels take torch.float32, torch.bfloat16, torch.float16"),
    ],
)
def test_triton_is_refused_by_name_where_it_cannot_run(x, words, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=f"backend 'triton' cannot run here: {words}"):
        kernels.linear(x, W, backend="triton")


def test_the_interpreter_refuses_bfloat16_and_without_being_asked_leaves_it_to_naive(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="bfloat16, which Triton's interpreter computes wrongly"):
        kernels.linear(X.bfloat16(), W, backend="triton")
    assert torch.equal(kernels.linear(X.bfloat16(), W), kernels.linear(X.bfloat16(), W, backend="naive"))


@pytest.fixture
def old_gpu(monkeypatch):
    """A GPU of compute capability 7.5, as far as `ops` asks."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    backend._too_old.cache_clear()
    yield torch.device("cuda", 0)
    backend._too_old.cache_clear()


def test_a_gpu_too_old_runs_plain_pytorch_and_says_so_once(old_gpu):
    with pytest.warns(UserWarning, match="Tesla T4 has compute capability 7.5; the kernels need 8.0") as warned:
        assert backend.choose("", old_gpu, torch.float16) is naive
        assert backend.choose("", old_gpu, torch.bfloat16) is naive
    assert len(warned) == 1
    with pytest.raises(ValueError, match=r"'triton' cannot run here: Tesla T4 has compute capability 7\.5"):
        backend.choose("triton", old_gpu, torch.float16)


def test_a_gpu_young_enough_runs_the_kernels(old_gpu, monkeypatch, recwarn):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert backend.choose("", old_gpu, torch.bfloat16).__name__ == "kernels.gpu"
    assert backend.choose("", old_gpu, torch.float64) is naive
    assert not recwarn.list


def test_without_triton_a_gpu_runs_plain_pytorch(old_gpu, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="triton is not installed"):
        assert backend.choose("", old_gpu, torch.float16) is naive


# ------------------------------------------------------------------------------------------------- operators


def operands():
    ws = [
        kernels.quantize(torch.randn(6, 64), 4, 32, True),
        kernels.quantize(torch.randn(10, 64), 8),
        torch.randn(3, 64),
    ]
    a = [torch.randn(r, 64, requires_grad=True) for r in (3, 1, 4)]
    b = [torch.randn(w.shape[0], t.shape[0], requires_grad=True) for w, t in zip(ws, a, strict=True)]
    return torch.randn(5, 64, requires_grad=True), ws, [None, torch.randn(10), None], a, b


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend, dtype):
    x, ws, biases, a, b = operands()
    x = x.detach().to(dtype).requires_grad_()
    tensors, layout = ops._flatten(ws, biases)
    seed = torch.tensor(7)
    opcheck(torch.ops.maple.lora_linear, (x, tensors, layout, [1.0, 2.0, 0.5], a, b, 0.3, seed, backend))
    ys = [torch.randn(5, w.shape[0], dtype=dtype) for w in ws]
    x, a, b = x.detach(), [t.detach() for t in a], [t.detach() for t in b]  # a gradient has no gradient of its own
    backward = (ys, x, torch.randn(5, 8, dtype=dtype), tensors, layout, [1.0, 2.0, 0.5], a, b, 0.3, seed, True, backend)
    opcheck(torch.ops.maple.lora_linear_backward, backward)
    x.requires_grad_()
    for w, bias, y in zip(ws, biases, ys, strict=True):
        tensors, layout = ops._flatten([w], [bias])
        opcheck(torch.ops.maple.linear, (x, tensors, layout, backend))
        opcheck(torch.ops.maple.linear_grad_x, (y, tensors, layout, backend))
        opcheck(torch.ops.maple.dequantize, (tensors, layout, torch.float16, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_torch_compile_meets_no_graph_break(backend):
    x, ws, biases, a, b = operands()

    def step(x, a, b, seed):
        ys = kernels.lora_linear_grouped(x, ws, a, b, [1.0, 2.0, 0.5], biases, 0.3, seed, backend or None)
        return kernels.linear(torch.cat(ys, 1).relu(), ws[0].dequantize().new_ones(4, 19), backend=backend or None)

    seed, dy = torch.tensor(7), torch.randn(5, 4)
    plain = torch.autograd.grad(step(x, a, b, seed), [x, *a, *b], dy)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for grad, expected in zip(torch.autograd.grad(compiled(x, a, b, seed), [x, *a, *b], dy), plain, strict=True):
        torch.testing.assert_close(grad, expected)


def test_a_module_with_dropout_compiles_whole_and_draws_the_same_masks():
    layer = LoRALinear(QuantizedLinear(kernels.quantize(torch.randn(8, 64), 4, 64, True)), 4, 4, dropout=0.5).train()
    torch.nn.init.normal_(layer.lora_b)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for call in (layer, compiled):
        torch.manual_seed(3)
        call.outputs = [call(X), call(X)]
    assert not torch.equal(*layer.outputs)
    assert all(map(torch.equal, layer.outputs, compiled.outputs))
