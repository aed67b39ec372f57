"""Whatever is computed again or compiled, the loss and the gradients are the same."""

import functools
import json

import pytest
import torch

import maple
from kernels import naive
from maple.data.packing import collate
from maple.fit import fit
from maple.live import LiveBytes
from maple.lora import lora_parameters
from maple.loss import token_loss
from maple.recompute import compile_layers, enable_recompute, uncompiled

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


@pytest.mark.parametrize(("bits", "targets"), [(4, "all-linear"), (8, "all-linear"), (16, "all-linear"), (4, "qv")])
@pytest.mark.parametrize("how", ["selective", "layer"])
def test_computing_again_changes_no_bit(how, bits, targets):
    kept = loss_and_gradients(a_model(bits=bits, targets=targets))
    model = a_model(bits=bits, targets=targets)
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


@pytest.mark.parametrize("how", ["none", "layer"])
def test_a_compiled_model_still_generates_and_can_be_looked_into(how):
    """Outside of training its layers run as they are: hooks are called, and a growing cache makes no graphs."""
    torch._dynamo.reset()
    model = a_model(dropout=0.0).eval()
    enable_recompute(model, how)
    compile_layers(model, backend="aot_eager")
    ids = torch.tensor([[5, 6, 7]])
    before = a_model(dropout=0.0).eval().generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    seen = []
    model.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: seen.append(1))
    with uncompiled():
        assert torch.equal(model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0), before)
    assert seen


def test_a_compiled_run(tmp_path, monkeypatch):
    """A whole fit, with its validations, samples and recomputation; `aot_eager` compiles no C++."""
    monkeypatch.setattr("maple.run.compile_layers", functools.partial(compile_layers, backend="aot_eager"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = {"languages": "en", "max_steps": 2, "rank": 2, "targets": "qv", "device": "cpu"}
    losses = []
    for name, more in {"plain": {}, "compiled": {"compile": True, "recompute": "selective"}}.items():
        torch._dynamo.reset()
        fit(out=str(tmp_path / name), **flags, **more)
        losses.append(json.loads((tmp_path / name / "summary.json").read_text())["train_loss_last"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
