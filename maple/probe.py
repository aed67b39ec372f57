"""The fast kernels beside plain PyTorch, once, on the first micro-batch: a kernel that is wrong here trains nothing.

A kernel can be right on every machine it was tested on and wrong on this one: another chip, another compiler, another
shape. The first layer of each shape gets the inputs that it has in the first micro-batch, and a random B, since B is
zero at the start and would hide A's gradient.
"""

from __future__ import annotations

import torch
from lightning.pytorch import Callback
from torch import Tensor

import kernels
from kernels import naive
from kernels.backend import choose
from maple.data.packing import Batch
from maple.errors import InputError
from maple.lora import LoRALinear, lora_layers

# How far two results may be apart, as a part of their length. Rounding to bfloat16 alone is 2^-9 of it, to float16
# 2^-12, to float32 2^-25, and sums in another order some times that; a scale that is off by 1 % is 2^-6.6.
TOLERANCE = {torch.bfloat16: 2**-7, torch.float16: 2**-9, torch.float32: 2**-15}
SEED = 0  # of B, of dY and of the dropout: both paths get the same


class KernelProbe(Callback):
    """Stops a run whose kernels disagree with plain PyTorch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Before the first micro-batch, where the model is on its device."""
        if batch_idx == 0:
            compare_kernels(pl_module.model, batch)


def compare_kernels(model, batch: Batch) -> int:
    """Compare one layer of each shape; how many were. None where plain PyTorch computes anyway.

    Raises InputError that names layer, result and difference. Draws no random number of the run's.
    """
    compared, hooks = set(), []
    if choose("", batch["input_ids"].device, model.get_input_embeddings().dtype) is naive:
        return 0

    def before(layer: LoRALinear, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0].detach()
        kind = (layer.base.out_features, layer.base.in_features, layer.rank)
        if kind not in compared:
            compared.add(kind)
            _compare(layer, x, names[id(layer)])

    names = {id(layer): path for path, layer in lora_layers(model).items()}
    for layer in lora_layers(model).values():
        hooks.append(layer.register_forward_pre_hook(before))
    device = batch["input_ids"].device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            model.base_model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        naive.forget_buffers()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # the comparison is no part of what training takes
    return len(compared)


def _compare(layer: LoRALinear, x: Tensor, path: str) -> None:
    generator = torch.Generator(x.device).manual_seed(SEED)
    b = torch.randn(layer.lora_b.shape, generator=generator, device=x.device) / layer.rank
    dy = torch.randn(*x.shape[:-1], layer.base.out_features, generator=generator, device=x.device).to(x.dtype)
    fast, plain = (_results(layer, x, b, dy, backend) for backend in (None, "naive"))
    for name, found in fast.items():
        difference = (found.float() - plain[name].float()).norm() / plain[name].float().norm()
        if not difference <= TOLERANCE[x.dtype]:  # NaN is no agreement either
            raise InputError(
                f"{path}: the Triton kernel's {name} is {float(difference):.2g} of its length away from plain "
                f"PyTorch's, {TOLERANCE[x.dtype]:.2g} is rounding; run with --device cpu, and report GPU and versions"
            )


def _results(layer: LoRALinear, x: Tensor, b: Tensor, dy: Tensor, backend: str | None) -> dict[str, Tensor]:
    with torch.enable_grad():
        x, a, b = (t.detach().requires_grad_() for t in (x, layer.lora_a, b))
        y = kernels.lora_linear(
            x, layer.base.packed, a, b, layer.scaling, layer.base.bias, layer.dropout, SEED, backend
        )
        dx, da, db = torch.autograd.grad(y, (x, a, b), dy)
    return {"y": y.detach(), "dX": dx, "dA": da, "dB": db}
