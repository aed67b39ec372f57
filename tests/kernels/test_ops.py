"""Arguments that do not fit are refused by name before anything is computed."""

import dataclasses

import pytest
import torch

import kernels

W = kernels.quantize(torch.randn(8, 64), 4)
A, B = torch.randn(2, 64), torch.randn(8, 2)
X = torch.randn(3, 64)


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
        (lambda: kernels.linear(X, W, backend="cuda"), "backend is 'cuda'"),
        (lambda: kernels.lora_linear(X, W, A[:, :9], B, 1.0), r"a must be \[r, 64\]"),
        (lambda: kernels.lora_linear(X, W, A, B[:, :1], 1.0), r"b must be \[8, 2\]"),
        (lambda: kernels.lora_linear(X, W, A, B.long(), 1.0), "b must be floats"),
        (lambda: kernels.lora_linear(X, W, A, B, 1.0, dropout=1.0), "dropout is 1.0"),
        (lambda: kernels.lora_linear(X, W, A, B, 1.0, dropout=0.1), "dropout needs a seed"),
        (lambda: kernels.lora_linear_grouped(X, [W, W], [A], [B], [1.0]), "one of each is needed"),
        (lambda: dataclasses.replace(W, absmax=W.absmax[:-1]), "absmax of a packed weight .* must be 8 values"),
        (lambda: dataclasses.replace(W, codes=W.codes[:-1]), "codes of a packed weight"),
        (lambda: dataclasses.replace(W, nested_absmax=torch.ones(1)), "absmax of a packed weight .*torch.uint8"),
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
