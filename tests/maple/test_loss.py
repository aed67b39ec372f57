"""The chunked loss beside PyTorch's on all logits at once."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from maple import loss
from maple.loss import HeadCrossEntropy
from maple.quantized import QuantizedLinear


@pytest.mark.parametrize("tokens", [0, 1, 7, 8, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_loss_and_gradient_are_those_of_cross_entropy(tokens, bias, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK", 8)
    weight, hidden = torch.randn(50, 16, dtype=torch.float64), torch.randn(tokens, 16, dtype=torch.float64)
    head = QuantizedLinear(weight, torch.randn(50, dtype=torch.float64) if bias else None)
    targets = torch.randint(50, (tokens,))
    ours, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    found = HeadCrossEntropy.apply(ours, head, targets)
    expected = cross_entropy(head(theirs), targets, reduction="sum")
    (3 * found).backward()
    (3 * expected).backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_a_16_bit_head_meets_float32_states():
    weight, hidden, targets = torch.randn(50, 16), torch.randn(9, 16), torch.randint(50, (9,))
    found = HeadCrossEntropy.apply(hidden, QuantizedLinear(weight.bfloat16()), targets)
    torch.testing.assert_close(found, cross_entropy(hidden @ weight.bfloat16().float().T, targets, reduction="sum"))


def test_no_gradient_is_made_where_none_is_asked_for():
    hidden = torch.randn(9, 16)
    found = HeadCrossEntropy.apply(hidden, QuantizedLinear(torch.randn(50, 16)), torch.randint(50, (9,)))
    assert not found.requires_grad


def test_all_logits_are_never_held_at_once():
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                largest = max(largest, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return result

    tokens, vocabulary = 5000, 300
    hidden = torch.randn(tokens, 16, requires_grad=True)
    head, targets = QuantizedLinear(torch.randn(vocabulary, 16)), torch.randint(vocabulary, (tokens,))
    with Watch():
        HeadCrossEntropy.apply(hidden, head, targets).backward()
    assert largest == loss.CHUNK * vocabulary
