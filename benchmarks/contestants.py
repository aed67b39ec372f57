"""Those that `train.py` and `decode.py` let run: a model with random weights as maple has it, and as its peers do.

Weights are made on the device, one layer at a time, from a seed that is their name: both have the same ones, and the
16-bit model never exists as a whole. With B = 0 both have the same loss before training, which the table shows.
"""

from __future__ import annotations

import importlib.metadata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, PreTrainedModel

import kernels
from maple.data.packing import Batch
from maple.errors import first_line
from maple.lora import add_lora, lora_parameters
from maple.model import empty_model, enable_recompute, fill_model
from maple.module import FineTuning

STD = 0.02  # of the weights: transformers' own initializer_range
LEARNING_RATE, CLIP = 2e-4, 1.0  # as in maple.fit and, the latter, transformers' Trainer; speed depends on neither


@dataclass
class Contestant:
    """A model on the device, and what one optimizer step of it is."""

    provider: str
    model: nn.Module
    recompute: Callable[[], None]  # turns activation checkpointing on
    update: Callable[[Batch], float]  # one optimizer step; the mean loss before it
    held: int = 0  # bytes on the device between its steps
    first_loss: float | None = None

    def step(self, batch: Batch) -> None:
        """One optimizer step."""
        loss = self.update(batch)
        if self.first_loss is None:
            self.first_loss = loss


def random_weight(name: str, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Ones for a norm, else normal numbers seeded by the name."""
    if len(shape) == 1:
        return torch.ones(shape, device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator, device=device, dtype=dtype).mul_(STD)


def packed_by_maple(config: LlamaConfig, bits: int, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The model of `maple.load_model` without LoRA, of random weights."""
    model = empty_model(config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def stored(name: str) -> Tensor:
        return random_weight(name, shapes[name], device, dtype)

    def pack(path: str, _: tuple[int, int]) -> kernels.Weight:
        weight = stored(f"{path}.weight")
        return weight if bits == 16 else kernels.quantize(weight, bits, block_size=64, double_quant=True)

    fill_model(model, stored, pack, device, dtype)
    return model


def ours(config: LlamaConfig, bits: int, rank: int, device: torch.device, dtype: torch.dtype) -> Contestant:
    """The model of `maple.load_model`, and the step that Lightning takes with `maple.module` in `maple.fit`."""
    model = packed_by_maple(config, bits, device, dtype)
    add_lora(model, rank)
    model.train()
    module = FineTuning(model, lr=LEARNING_RATE, schedule="constant", warmup_steps=0, total_steps=1, languages=[])
    module.trainer = SimpleNamespace(accumulate_grad_batches=1, global_step=0)  # all that a step asks of it
    optimizer = module.configure_optimizers()["optimizer"]
    parameters = [parameter for _, parameter in lora_parameters(model)]

    def update(batch: Batch) -> float:
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()  # here, as Lightning does: the old gradients are there during the forward
        loss.backward()
        module.on_before_optimizer_step(optimizer)
        clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        return module.step_loss

    return Contestant("maple", model, partial(enable_recompute, model), update)


def why_no_peers(device: torch.device) -> str | None:
    """Why peft + bitsandbytes cannot be measured: not installed, or its library does not run on this device."""
    try:
        import peft  # noqa: F401
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        dequantize_4bit(*quantize_4bit(torch.ones(64, 64, device=device), quant_type="nf4"))
    except Exception as error:  # a library that does not fit the driver fails in many ways
        return first_line(error)
    return None


def peers(config: LlamaConfig, rank: int, device: torch.device, dtype: torch.dtype) -> Contestant:
    """NF4 with peft + bitsandbytes, after the recipe in peft's documentation.

    prepare_model_for_kbit_training puts norms, embedding and head in float32, LoRA is float32 too, and the step runs
    under autocast, as the Trainer of transformers does with bf16=True; so does its fused AdamW.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    base = of_transformers(config, 4, device, dtype)
    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)  # comes with Contestant.recompute
    lora = LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules="all-linear", bias="none", task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, lora).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def update(batch: Batch) -> float:
        ids, labels = batch["input_ids"], batch["labels"]
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            # our labels are shifted already
            loss = model(input_ids=ids, labels=labels, shift_labels=labels, use_cache=False).loss
        loss.backward()
        clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    provider = f"peft {importlib.metadata.version('peft')}"  # the ledger has the version of bitsandbytes
    return Contestant(provider, model, partial(enable_recompute, base), update)


def of_transformers(config: LlamaConfig, bits: int, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """What transformers loads, of random weights: bits 4 is load_in_4bit with nf4 and double quantisation, 16 plain."""
    model = empty_model(config)
    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if bits == 4 and isinstance(module, nn.Linear) and module is not head:
            weight = random_weight(f"{path}.weight", module.weight.shape, device, dtype)
            model.set_submodule(path, packed_by_bitsandbytes(weight))
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = random_weight(f"{path}.{name}", parameter.shape, device, dtype)
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
        if list(module.buffers(recurse=False)):  # rotary frequencies, as in maple.model
            module.to_empty(device=device, recurse=False)
            model._init_weights(module)
    model.is_loaded_in_4bit = bits == 4  # where peft looks
    return model


def packed_by_bitsandbytes(weight: Tensor) -> nn.Module:
    """A linear layer of bitsandbytes, where the weight is and computing in its dtype."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    out, columns = weight.shape
    layer = Linear4bit(columns, out, bias=False, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
    # packs on the way to the device
    layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", module=layer).to(weight.device)
    return layer
