"""Lesson 3 notices where it no longer tells the truth."""

import pytest
import torch

import maple.model
from kernels import naive, packed


def test_it_notices_values_in_equal_steps(run, monkeypatch):
    monkeypatch.setattr(naive, "NF4_VALUES", tuple(torch.linspace(-1, 1, 16).tolist()))
    with pytest.raises(AssertionError, match="not the quantiles of a normal distribution"):
        run("3_nf4")


def test_it_notices_swapped_nibbles(run, monkeypatch):
    monkeypatch.setattr(naive, "_pack_nibbles", lambda codes: codes[0::2] | (codes[1::2] << 4))
    with pytest.raises(AssertionError, match="bytes packed by hand are not the kernels'"):
        run("3_nf4")


def test_it_notices_weights_that_get_the_absmax_of_the_block_before(run, monkeypatch):
    right = naive.dequantize_absmax
    monkeypatch.setattr(naive, "dequantize_absmax", lambda w: right(w).roll(1))
    with pytest.raises(AssertionError, match="weights unpacked by hand are not the kernels'"):
        run("3_nf4")


def test_it_notices_an_absmax_that_is_quantised_without_taking_its_mean_off(run, monkeypatch):
    right = naive.quantize_absmax

    def without_mean(absmax):
        parts = right(absmax)
        scaled, nested_absmax = naive._scale_blocks(absmax.clone(), packed.NESTED_BLOCK_SIZE)
        codes = torch.bucketize(scaled, naive._midpoints(parts["nested_map"])).to(torch.uint8)
        return parts | {"absmax": codes, "nested_absmax": nested_absmax, "nested_offset": torch.zeros(())}

    monkeypatch.setattr(naive, "quantize_absmax", without_mean)
    with pytest.raises(AssertionError, match="doubly quantised absmax are not the kernels'"):
        run("3_nf4")


def test_it_notices_an_absmax_that_stays_in_float32(run, monkeypatch):
    right = packed.without_memory
    monkeypatch.setattr(packed, "without_memory", lambda shape, bits, block_size, _: right(shape, bits, block_size))
    with pytest.raises(AssertionError, match=r"not 4\.5 and 4\.127"):
        run("3_nf4")


def test_it_notices_an_absmax_that_comes_back_without_its_mean(run, monkeypatch):
    right = naive.dequantize_absmax
    monkeypatch.setattr(
        naive, "dequantize_absmax", lambda w: right(w) - w.nested_offset if w.double_quant else right(w)
    )
    with pytest.raises(AssertionError, match=r"double quantisation adds .* of error, not a little"):
        run("3_nf4")


def test_it_notices_a_block_size_that_is_ignored(run, monkeypatch):
    right = naive.quantize_nf4
    monkeypatch.setattr(naive, "quantize_nf4", lambda weight, block_size, double: right(weight, 64, double))
    with pytest.raises(AssertionError, match="larger blocks do not cost more error"):
        run("3_nf4")


def test_it_notices_weights_that_are_not_like_a_normal_distribution(run, monkeypatch):
    filled = maple.model.fill_model

    def uniform(model, stored, pack, *others):
        def pack_uniform(path, shape):
            return pack(path, shape).uniform_(-1, 1)

        filled(model, stored, pack_uniform, *others)

    monkeypatch.setattr(maple.model, "fill_model", uniform)
    with pytest.raises(AssertionError, match="no better than int4"):
        run("3_nf4")
