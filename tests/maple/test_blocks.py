"""Our norm, attention and MLP do what transformers' do, packed or not, in every family."""

import pytest
import torch

import maple
from maple.blocks import GatedMLP, boundaries
from maple.data.packing import collate
from maple.lora import LoRALinear, lora_layers
from maple.loss import hidden_states
from tests.maple.test_model import FAMILIES, saved

SAMPLES = [(torch.arange(5, 5 + n), 1) for n in (12, 3, 20, 2)]
PACKED = collate([SAMPLES[:2], SAMPLES[2:]], length=24, pad=0)
WINDOWS = {"mistral": {"sliding_window": 4}, "qwen2": {"sliding_window": 4, "use_sliding_window": True}}


def test_boundaries_are_where_positions_begin_again_and_the_end():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]])
    found = boundaries(positions)
    assert found.dtype == torch.int32 and found.dim() == 4
    assert found.flatten().tolist() == [0, 3, 5, 6, 7, 12]


@pytest.mark.parametrize("family", dict(FAMILIES))
@pytest.mark.parametrize("windowed", [False, True])
def test_packed_samples_are_what_transformers_makes_of_them(tmp_path, family, windowed):
    """transformers finds the samples by their positions; the float32 of its norms and angles is what differs."""
    settings = WINDOWS.get(family, {}) if windowed else {}
    if settings and family == "qwen2":
        settings = settings | {"max_window_layers": 1, "layer_types": None}
    theirs = saved(tmp_path, family=family, **settings).double()
    ours = maple.load_model(tmp_path.as_posix(), bits=16, rank=2, dtype=torch.float64)
    names = "input_ids", "position_ids"
    expected = theirs.base_model(**{name: PACKED[name] for name in names}, use_cache=False).last_hidden_state
    torch.testing.assert_close(hidden_states(ours, PACKED), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targets", ["all-linear", "qv", "down_proj", "gate_proj"])
def test_some_projections_with_lora_and_some_without(tmp_path, targets):
    """Pairs beside their weights give what weights give that the pairs were added to."""
    saved(tmp_path)
    merged = maple.load_model(tmp_path.as_posix(), bits=16, rank=0, dtype=torch.float64)
    model = maple.load_model(tmp_path.as_posix(), bits=16, rank=2, targets=targets, dtype=torch.float64)
    before = hidden_states(merged, PACKED)
    for path, layer in lora_layers(model).items():
        torch.nn.init.normal_(layer.lora_b, std=0.3)
        weight = merged.get_submodule(path).weight
        weight += layer.scaling * (layer.lora_b.double() @ layer.lora_a.double()).detach()
    found = hidden_states(model, PACKED)
    torch.testing.assert_close(found, hidden_states(merged, PACKED))
    assert not torch.allclose(found, before)


def test_the_mlp_reads_its_input_once(monkeypatch):
    model = maple.load_model("tiny", rank=2)
    groups = []
    forward = LoRALinear.forward

    def counted(self, x, beside=()):
        groups.append(len(beside))
        return forward(self, x, beside)

    monkeypatch.setattr(LoRALinear, "forward", counted)
    mlp = next(module for module in model.modules() if isinstance(module, GatedMLP))
    mlp(torch.randn(1, 3, model.config.hidden_size))
    assert groups == [1, 0]  # gate with up, then down
