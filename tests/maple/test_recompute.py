"""Whatever is computed again or compiled, the loss and the gradients are the same."""

import pytest
import torch

import maple
from kernels import naive
from maple.data.packing import collate
from maple.live import LiveBytes
from maple.lora import lora_parameters
from maple.loss import token_loss
from maple.recompute import compile_layers, enable_recompute

ROWS = [[(list(range(5, 5 + n)), 2) for n in (9, 4, 12)], [(list(range(40, 70)), 7)]]  # samples of four lengths


def a_model(dropout: float = 0.3, **settings):
    """The embedded model, as it is in the middle of a training: B is not zero."""
    torch.manual_seed(5)
    model = maple.load_model("tiny", rank=4, dropout=dropout, **settings).train()
    for _, parameter in lora_parameters(model):
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def loss_and_gradients(model) -> list[torch.Tensor]:
    torch.manual_seed(1)
    loss, _ = token_loss(model, collate(ROWS, length=40, pad=0))
    loss.backward()
    return [loss.detach(), *(parameter.grad for _, parameter in lora_parameters(model))]


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("how", ["selective", "layer"])
def test_computing_again_changes_no_bit(how, bits):
    kept = loss_and_gradients(a_model(bits=bits))
    model = a_model(bits=bits)
    enable_recompute(model, how)
    again = loss_and_gradients(model)
    assert len(again) == len(kept) and all(torch.equal(*pair) for pair in zip(again, kept, strict=True))


def test_selective_does_no_product_again_and_keeps_less(monkeypatch):
    calls, kept = {}, {}
    for how in ("none", "selective", "layer"):
        model = a_model(dropout=0.0)
        enable_recompute(model, how)
        count = []
        products = naive.lora_linear
        with monkeypatch.context() as patch:
            patch.setattr(
                naive, "lora_linear", lambda *a, products=products, count=count: count.append(1) or products(*a)
            )
            with LiveBytes() as counter:
                loss, _ = token_loss(model, collate(ROWS, length=40, pad=0))
                kept[how] = counter.now
                loss.backward()
        calls[how] = len(count)
    assert calls["none"] == calls["selective"] == calls["layer"] / 2
    assert kept["layer"] < kept["selective"] < kept["none"]


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("how", ["none", "selective", "layer"])
@pytest.mark.parametrize("targets", ["all-linear", "qv"])
def test_a_compiled_layer_is_one_graph(how, bits, targets):
    """`fullgraph` raises at a break; `aot_eager` is all of the compiler but its code generation."""
    torch._dynamo.reset()
    plain = loss_and_gradients(a_model(bits=bits, targets=targets))
    model = a_model(bits=bits, targets=targets)
    enable_recompute(model, how)
    compile_layers(model, backend="aot_eager")
    for ours, theirs in zip(loss_and_gradients(model), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_layers_and_shapes_share_a_graph():
    torch._dynamo.reset()
    model = a_model()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_layers(model, backend=backend)
    for length in (40, 48, 56, 64):
        token_loss(model, collate(ROWS, length=length, pad=0))
    assert len(graphs) == 4  # the first layer, whose input needs no gradient, and the others; the first length, and any
