"""Lesson 1 notices where it no longer tells the truth."""

import pytest
import torch

import maple.lora
from kernels import naive


def test_it_notices_a_forward_pass_without_its_scaling(run, monkeypatch):
    forward = naive.lora_linear
    monkeypatch.setattr(naive, "lora_linear", lambda x, ws, biases, s, *rest: forward(x, ws, biases, [1.0], *rest))
    with pytest.raises(AssertionError, match="not autograd's"):
        run("1_lora")


def test_it_notices_a_backward_pass_that_forgets_the_adapter_in_dx(run, monkeypatch):
    backward = naive.lora_linear_backward

    def forgets(dys, x, xa, ws, scalings, a, b, *rest, **named):
        _, da, dbs = backward(dys, x, xa, ws, scalings, a, b, *rest, **named)
        return naive.linear_grad_x(dys[0], ws[0]), da, dbs

    monkeypatch.setattr(naive, "lora_linear_backward", forgets)
    with pytest.raises(AssertionError, match="not autograd's"):
        run("1_lora")


def test_it_notices_a_b_that_does_not_start_at_zero(run, monkeypatch):
    begin = maple.lora.LoRALinear.__init__

    def begins_elsewhere(self, *arguments, **named):
        begin(self, *arguments, **named)
        torch.nn.init.normal_(self.lora_b)

    monkeypatch.setattr(maple.lora.LoRALinear, "__init__", begins_elsewhere)
    with pytest.raises(AssertionError, match="does not begin at the base"):
        run("1_lora")


def test_it_notices_rslora_without_its_root(run, monkeypatch):
    begin = maple.lora.LoRALinear.__init__

    def without_root(self, base, rank, alpha, dropout=0.0, rslora=False):
        begin(self, base, rank, alpha, dropout, rslora=False)

    monkeypatch.setattr(maple.lora.LoRALinear, "__init__", without_root)
    with pytest.raises(AssertionError, match=r"rsLoRA: the first step grows as rank\^-"):
        run("1_lora")
