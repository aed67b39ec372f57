"""The fast kernels beside plain PyTorch, once, on the first micro-batch: a kernel that is wrong here trains nothing.

A kernel can be right on every machine it was tested on and wrong on this one: another chip, another compiler, another
shape. The first layer of each shape gets the inputs that it has in the first micro-batch, and a random B, since B is
zero at the start and would hide A's gradient. What lies between the layers gets random numbers in the model's shapes.
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
from maple.loss import hidden_states
from maple.recompute import uncompiled

# How far two results may be apart, as a part of their length. Rounding to bfloat16 alone is 2^-9 of it, to float16
# 2^-12, to float32 2^-25, and sums in another order some times that; a scale that is off by 1 % is 2^-6.6.
TOLERANCE = {torch.bfloat16: 2**-7, torch.float16: 2**-9, torch.float32: 2**-15}
RESULTS = ("y", "dA", "dB", "dX")  # the last is one for all layers of a group
SEED = 0  # of B, of dY and of the dropout: both paths get the same


class KernelProbe(Callback):
    """Stops a run whose kernels disagree with plain PyTorch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Before the first micro-batch, where the model is on its device."""
        if batch_idx == 0:
            compare_kernels(pl_module.model, batch)


def compare_kernels(model, batch: Batch) -> int:
    """Compare one layer, or group of layers, of each shape; how many were. None where plain PyTorch computes anyway.

    Raises InputError that names layer, result and difference. Draws no random number of the run's.
    """
    compared, hooks = set(), []
    if choose("", batch["input_ids"].device, model.get_input_embeddings().dtype) is naive:
        return 0

    _compare_between(model, batch)

    def before(layer: LoRALinear, arguments: tuple) -> None:
        x, layers = arguments[0].detach(), [layer, *(arguments[1] if len(arguments) > 1 else ())]
        kind = tuple((one.base.out_features, one.base.in_features, one.rank) for one in layers)
        if kind not in compared:
            compared.add(kind)
            _compare(layers, x, [names[id(one)] for one in layers])

    names = {id(layer): path for path, layer in lora_layers(model).items()}
    for layer in lora_layers(model).values():
        hooks.append(layer.register_forward_pre_hook(before))
    device = batch["input_ids"].device
    try:
        generators = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(generators), torch.no_grad(), uncompiled():  # compiled layers call no hooks
            hidden_states(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
        naive.forget_buffers()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # the comparison is no part of what training takes
    return len(compared)


def _compare_between(model, batch: Batch) -> None:
    """Norm, rotation and SwiGLU of the first decoder layer."""
    layer, config = model.base_model.layers[0], model.config
    attention, norm = layer.self_attn, layer.input_layernorm
    generator = torch.Generator(batch["input_ids"].device).manual_seed(SEED)

    def random(*shape: int) -> Tensor:
        values = torch.randn(*batch["input_ids"].shape, *shape, generator=generator, device=generator.device)
        return values.to(model.get_input_embeddings().dtype)

    q, k = (random(heads, attention.head_dim) for heads in (config.num_attention_heads, config.num_key_value_heads))
    angles = model.base_model.rotary_emb(q, batch["position_ids"])
    heads = [t.transpose(1, 2) for t in (q, k)]
    x, gate, up = random(config.hidden_size), random(config.intermediate_size), random(config.intermediate_size)
    for name, function, inputs in (
        ("rms_norm", lambda x, backend: kernels.rms_norm(x, norm.weight, norm.variance_epsilon, backend), [x]),
        ("rotary", lambda q, k, backend: kernels.rotary(q, k, *angles, backend), heads),
        ("swiglu", kernels.swiglu, [gate, up]),
    ):
        fast, plain = (_with_gradients(function, inputs, backend) for backend in (None, "naive"))
        for found, expected in zip(fast, plain, strict=True):
            _require_equal(f"{name} or its gradient", found, expected)


def _with_gradients(function, inputs: list[Tensor], backend: str | None) -> list[Tensor]:
    """Results, and the gradients of the inputs for dY = Y."""
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        results = function(*inputs, backend)
        results = [results] if isinstance(results, Tensor) else list(results)
        detached = [result.detach() for result in results]
        return [*detached, *torch.autograd.grad(results, inputs, detached)]


def _require_equal(what: str, found: Tensor, expected: Tensor) -> None:
    """Raise InputError where two results are further apart than rounding."""
    difference = (found.float() - expected.float()).norm() / expected.float().norm()
    if not difference <= TOLERANCE[found.dtype]:  # NaN is no agreement either
        raise InputError(
            f"the Triton kernel's {what} is {float(difference):.2g} of its length away from plain PyTorch's, "
            f"{TOLERANCE[found.dtype]:.2g} is rounding; run with --device cpu, and report GPU and versions"
        )


def _compare(layers: list[LoRALinear], x: Tensor, paths: list[str]) -> None:
    generator = torch.Generator(x.device).manual_seed(SEED)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=x.device)

    bs = [random(*layer.lora_b.shape) / layer.rank for layer in layers]
    dys = [random(*x.shape[:-1], layer.base.out_features).to(x.dtype) for layer in layers]
    fast, plain = (_results(layers, x, bs, dys, backend) for backend in (None, "naive"))
    for number, (found, expected) in enumerate(zip(fast, plain, strict=True)):
        kind, which = RESULTS[number // len(layers)], number % len(layers)
        _require_equal(f"{kind} of {paths[which]}", found, expected)


def _results(layers: list[LoRALinear], x: Tensor, bs: list[Tensor], dys: list[Tensor], backend) -> list[Tensor]:
    """y, dA and dB of each layer, then dX."""
    with torch.enable_grad():
        x, *pairs = (t.detach().requires_grad_() for t in (x, *(layer.lora_a for layer in layers), *bs))
        a, b = pairs[: len(layers)], pairs[len(layers) :]
        ws, biases = [layer.base.packed for layer in layers], [layer.base.bias for layer in layers]
        scalings = [layer.scaling for layer in layers]
        ys = kernels.lora_linear_grouped(x, ws, a, b, scalings, biases, layers[0].dropout, SEED, backend)
        return [*(y.detach() for y in ys), *torch.autograd.grad(ys, (*a, *b, x), dys)]
