"""Lesson 4 notices where it no longer tells the truth."""

import pytest
import torch

import maple.model
from kernels import Int8Weight, naive


def test_it_notices_codes_that_are_cut_off_and_not_rounded(run, monkeypatch):
    def cut_off(weight):
        absmax = weight.float().abs().amax(1)
        return Int8Weight((weight * (127 / absmax)[:, None]).to(torch.int8), absmax)

    monkeypatch.setattr(naive, "quantize_int8", cut_off)
    with pytest.raises(AssertionError, match="by hand are not the kernels'"):
        run("4_int8")


def test_it_notices_codes_that_are_divided_by_128(run, monkeypatch):
    right = naive._int8_rows
    monkeypatch.setattr(naive, "_int8_rows", lambda w: ((*where, rows * 127 / 128) for *where, rows in right(w)))
    with pytest.raises(AssertionError, match=r"the error of a row is .* times absmax/440"):
        run("4_int8")


def test_it_notices_an_absmax_that_leaves_outliers_out(run, monkeypatch):
    right = naive.quantize_int8

    def without_outliers(weight):
        bound = 8 * weight.square().mean(1, keepdim=True).sqrt()
        return right(torch.where(weight > bound, 0, weight))

    monkeypatch.setattr(naive, "quantize_int8", without_outliers)
    with pytest.raises(AssertionError, match="makes int8's error"):
        run("4_int8")


def test_it_notices_one_absmax_for_a_whole_row_of_nf4(run, monkeypatch):
    right = naive.quantize_nf4
    monkeypatch.setattr(naive, "quantize_nf4", lambda weight, _, double: right(weight, 4096, double))
    with pytest.raises(AssertionError, match="does not stay in its block"):
        run("4_int8")


def test_it_notices_a_model_that_is_in_4_bits_where_8_are_asked_for(run, monkeypatch):
    right = maple.model.packing
    monkeypatch.setattr(maple.model, "packing", lambda bits, *settings: right({8: 4}.get(bits, bits), *settings))
    with pytest.raises(AssertionError, match="8 bits cost no less than 4"):
        run("4_int8")
