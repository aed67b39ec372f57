"""Lesson 8 notices where it no longer tells the truth."""

import pytest
import torch
from lightning.pytorch import Trainer

import kernels
import maple.merged
from maple.lora import lora_parameters

TRAINED: dict[str, torch.Tensor] = {}  # of the first run of the lesson; the others begin where its training ends


@pytest.fixture(autouse=True)
def trained_once(monkeypatch):
    fit = Trainer.fit

    def remembered(self, module, batches):
        if not TRAINED:
            fit(self, module, batches)
            TRAINED.update({name: parameter.detach().clone() for name, parameter in lora_parameters(module.model)})
        for name, parameter in lora_parameters(module.model):
            parameter.data.copy_(TRAINED[name])

    monkeypatch.setattr(Trainer, "fit", remembered)


def test_it_notices_a_training_that_hardly_moves(run, monkeypatch):
    def hardly(self, module, batches):
        for name, parameter in lora_parameters(module.model):
            parameter.data.add_(1e-5 * name.endswith("lora_b"))

    monkeypatch.setattr(Trainer, "fit", hardly)
    with pytest.raises(AssertionError, match="training gained only"):
        run("8_merging")


def test_it_notices_a_merge_without_its_scaling(run, monkeypatch):
    def forgets(base, lora):
        weight = base.packed.dequantize() if base.is_packed else base.packed.float()
        return weight + lora.lora_b @ lora.lora_a

    monkeypatch.setattr(maple.merged, "merged_weight", forgets)
    with pytest.raises(AssertionError, match="merged layer is not the layer"):
        run("8_merging")


def test_it_notices_a_merge_into_8_bits(run, monkeypatch):
    rounded = torch.Tensor.bfloat16
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda t: rounded(t.to(torch.float8_e4m3fn)))
    with pytest.raises(AssertionError, match="one rounding to 16 bits is not small"):
        run("8_merging")


def while_folding(monkeypatch, change):
    """Break the quantiser for merged weights alone: they are in float32, those of the checkpoint in 16 bits."""
    quantize = kernels.quantize

    def broken(weight, **settings):
        packed = quantize(weight, **settings)
        return change(weight, packed) if weight.dtype == torch.float32 else packed

    monkeypatch.setattr(kernels, "quantize", broken)


def test_it_notices_swapped_nibbles(run, monkeypatch):
    def swapped(_, packed):
        packed.codes.copy_((packed.codes >> 4) | (packed.codes << 4))
        return packed

    while_folding(monkeypatch, swapped)
    with pytest.raises(AssertionError, match="not smaller than a step of NF4"):
        run("8_merging")


def test_it_notices_a_quantiser_that_rounds_nothing(run, monkeypatch):
    def exact(weight, packed):
        weight = weight.clone()
        weight.codes = packed.codes
        return weight

    while_folding(monkeypatch, exact)
    with pytest.raises(AssertionError, match="NF4 loses nothing"):
        run("8_merging")


def test_it_notices_a_merge_into_a_base_of_its_own(run, monkeypatch):
    merged_weight = maple.merged.merged_weight
    monkeypatch.setattr(maple.merged, "merged_weight", lambda _, lora: merged_weight(lora.base, lora))
    with pytest.raises(AssertionError, match="does not belong to its 4-bit base"):
        run("8_merging")
