"""Lesson 6 notices where it no longer tells the truth."""

import itertools

import pytest
import torch

import kernels
from kernels import naive, ops

NAME = "6_backward"


def test_it_notices_a_weight_that_is_kept_in_floats(run, monkeypatch):
    flatten = ops._flatten

    def decoded(ws, biases):
        return flatten([naive.dequantize(w, torch.float32) for w in ws], biases)

    monkeypatch.setattr(ops, "_flatten", decoded)
    with pytest.raises(AssertionError, match=r"are kept for backward, once: .*W in floats"):
        run(NAME)


def test_it_notices_a_mask_that_is_kept(run, monkeypatch):
    grouped = kernels.lora_linear_grouped

    def drops_before(x, *arguments, dropout, seed):
        return grouped(x * naive.dropout_mask(seed, x.shape, dropout) / (1 - dropout), *arguments)

    monkeypatch.setattr(kernels, "lora_linear_grouped", drops_before)
    with pytest.raises(AssertionError, match=r"are kept for backward, once: .*mask"):
        run(NAME)


def test_it_notices_a_decoded_weight_that_stays_for_the_backward_pass(run, monkeypatch):
    rows, kept = naive._rows, {}

    def remembered(w, dtype):
        key = w.codes.data_ptr()
        if key not in kept:
            kept[key] = [(start, stop, piece.clone()) for start, stop, piece in rows(w, dtype)]
        return kept[key]

    monkeypatch.setattr(naive, "_rows", remembered)
    with pytest.raises(AssertionError, match="backward does not compute W and mask"):
        run(NAME)


def test_it_notices_another_mask_in_the_backward_pass(run, monkeypatch):
    mask, seeds = naive.dropout_mask, itertools.count()
    monkeypatch.setattr(naive, "dropout_mask", lambda seed, *rest: mask(next(seeds), *rest))
    with pytest.raises(AssertionError, match="the mask computed again is another one"):
        run(NAME)


def test_it_notices_a_backward_pass_without_its_scaling(run, monkeypatch):
    backward = naive.lora_linear_backward

    def forgets(dys, x, xa, ws, scalings, *rest, **named):
        return backward(dys, x, xa, ws, [1.0] * len(ws), *rest, **named)

    monkeypatch.setattr(naive, "lora_linear_backward", forgets)
    with pytest.raises(AssertionError, match="the gradients are not autograd's"):
        run(NAME)


def test_it_notices_projections_that_read_x_one_after_the_other(run, monkeypatch):
    forward = naive.lora_linear

    def one_by_one(x, ws, biases, scalings, a, b, dropout, seed):
        each = zip(ws, biases, scalings, a, b, strict=True)
        found = [forward(x, *([one] for one in of), 0.0, None) for of in each]
        return [ys[0] for ys, _ in found], torch.cat([xa for _, xa in found], dim=1)

    def without_dropout(*arguments):
        return forward(*arguments) if arguments[-2] else one_by_one(*arguments)

    monkeypatch.setattr(naive, "lora_linear", without_dropout)
    with pytest.raises(AssertionError, match="forward passes over x or y once more"):
        run(NAME)


def test_it_notices_a_dx_that_is_not_added_in_place(run, monkeypatch):
    def beside(dx, dy, w):
        dx += dy @ naive.dequantize(w, dy.dtype)
        return dx

    monkeypatch.setattr(naive, "_add_product_transposed", beside)
    with pytest.raises(AssertionError, match="backward passes over x or y once more"):
        run(NAME)
