"""Lesson 2 notices where it no longer tells the truth."""

import pytest
import torch

import maple.lora
from maple import memory


def test_it_notices_a_base_that_is_packed_in_8_bits_where_4_are_asked_for(run, monkeypatch):
    packed = memory.without_memory
    monkeypatch.setattr(memory, "without_memory", lambda shape, _, *settings: packed(shape, 8, *settings))
    with pytest.raises(AssertionError, match="does not save what it should"):
        run("2_memory")


def test_it_notices_layers_that_are_not_recomputed(run, monkeypatch):
    monkeypatch.setattr(memory, "enable_recompute", lambda model, how: None)
    with pytest.raises(AssertionError, match="recomputing layers saves too little"):
        run("2_memory")


def test_it_notices_an_absmax_that_is_not_quantised(run, monkeypatch):
    packed = memory.without_memory
    monkeypatch.setattr(memory, "without_memory", lambda shape, bits, block_size, _: packed(shape, bits, block_size))
    with pytest.raises(AssertionError, match=r"has 4\.500 bits, not 4\.127"):
        run("2_memory")


def test_it_notices_a_prediction_that_takes_a_16_bit_head_for_a_float32_one(run, monkeypatch):
    monkeypatch.setattr(memory, "kept_dtype", lambda stored, dtype: dtype)
    with pytest.raises(AssertionError, match="not what real tensors take"):
        run("2_memory")


def test_it_notices_an_adapter_whose_moments_are_in_16_bits(run, monkeypatch):
    begin = maple.lora.LoRALinear.__init__

    def begins_in_16_bits(self, *arguments, **named):
        begin(self, *arguments, **named)
        for parameter in (self.lora_a, self.lora_b):
            parameter.data = parameter.data.to(torch.bfloat16)

    monkeypatch.setattr(maple.lora.LoRALinear, "__init__", begins_in_16_bits)
    with pytest.raises(AssertionError, match="not 12 bytes for a trained weight"):
        run("2_memory")
