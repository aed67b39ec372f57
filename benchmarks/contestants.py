"""Those that `train.py` and `decode.py` let run: a model with random weights, as maple has it and as others do.

    maple                 `maple.load_model`'s modules and the step that Lightning takes with `maple.module`
    peft                  peft on transformers' model, its linear layers bitsandbytes' in 4 and 8 bits, plain in 16
    unsloth's schedule    transformers' model with a LoRA layer that does what unsloth's does: bitsandbytes' dequantise,
                          one product, one addmm, all by hand in both directions. Not unsloth itself, which needs a GPU,
                          and without its kernels for norms, rotations and the loss.

Weights are made on the device, one at a time, from a seed that is their name: all have the same ones, and the 16-bit
model never exists as a whole. With B = 0 all have the same loss before training, which the table shows.
"""

from __future__ import annotations

import importlib.metadata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

import kernels
from maple.data.packing import Batch
from maple.errors import first_line
from maple.lora import add_lora, lora_layers, lora_parameters
from maple.model import empty_model, fill_model
from maple.module import FineTuning
from maple.recompute import compile_layers, enable_recompute

STD = 0.02  # of the weights: transformers' own initializer_range
LEARNING_RATE, CLIP = 2e-4, 1.0  # as in maple.fit and, the latter, transformers' Trainer; speed depends on neither
BLOCK_SIZE = 64
MAPLE, PEFT, UNSLOTH = "maple", "peft", "unsloth's schedule"


@dataclass
class Contestant:
    """A model on the device, and what one optimizer step of it is."""

    provider: str
    model: nn.Module
    update: Callable[[Batch], float]  # one optimizer step; the mean loss before it
    parameters: list[nn.Parameter]  # those that are trained
    first_loss: float | None = None

    def step(self, batch: Batch) -> None:
        """One optimizer step."""
        loss = self.update(batch)
        if self.first_loss is None:
            self.first_loss = loss


@dataclass(frozen=True)
class Case:
    """The frozen model that is trained on."""

    config: LlamaConfig
    bits: int
    device: torch.device
    dtype: torch.dtype
    recompute: str = "none"  # or layer; maple knows selective too
    compile: bool = False


class Provider(NamedTuple):
    """A frozen model is made once for each bit-width, and gets LoRA of one rank after the other."""

    bits: tuple[int, ...]  # that it knows
    base: Callable[[Case], nn.Module]
    attach: Callable[[Case, nn.Module, int], Contestant]
    detach: Callable[[nn.Module], None]


def random_weight(name: str, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Ones for a norm, else normal numbers seeded by the name."""
    if len(shape) == 1:
        return torch.ones(shape, device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator, device=device, dtype=dtype).mul_(STD)


# ----------------------------------------------------------------------------------------------------------------------
# maple
# ----------------------------------------------------------------------------------------------------------------------


def packed_by_maple(case: Case) -> PreTrainedModel:
    """The model that `maple.load_model` makes of a checkpoint, without LoRA."""
    model = empty_model(case.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def stored(name: str) -> Tensor:
        return random_weight(name, shapes[name], case.device, case.dtype)

    def pack(path: str, _: tuple[int, int]) -> kernels.Weight:
        weight = stored(f"{path}.weight")
        return weight if case.bits == 16 else kernels.quantize(weight, case.bits, BLOCK_SIZE, double_quant=True)

    fill_model(model, stored, pack, case.device, case.dtype)
    return model


def maple_base(case: Case) -> PreTrainedModel:
    """That model, ready to be trained."""
    model = packed_by_maple(case)
    enable_recompute(model, case.recompute)
    if case.compile:
        compile_layers(model)
    return model.train()


def maple_attach(case: Case, model: PreTrainedModel, rank: int) -> Contestant:
    """The step that Lightning takes with `maple.module` in `maple.fit`."""
    add_lora(model, rank)
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

    return Contestant(MAPLE, model, update, parameters)


def maple_detach(model: PreTrainedModel) -> None:
    """Take the LoRA off again."""
    for path, layer in lora_layers(model).items():
        model.set_submodule(path, layer.base)


# ----------------------------------------------------------------------------------------------------------------------
# peft, and unsloth's schedule
# ----------------------------------------------------------------------------------------------------------------------


def why_no_peers(device: torch.device) -> str | None:
    """Why peft + bitsandbytes cannot be measured: not installed, or its library does not run on this device."""
    try:
        import peft  # noqa: F401
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        dequantize_4bit(*quantize_4bit(torch.ones(64, 64, device=device), quant_type="nf4"))
    except Exception as error:  # a library that does not fit the driver fails in many ways
        return first_line(error)
    return None


def peft_base(case: Case) -> PreTrainedModel:
    """After the recipe in peft's documentation; in 16 bits nothing is prepared.

    prepare_model_for_kbit_training puts norms, embedding and head in float32.
    """
    from peft import prepare_model_for_kbit_training

    base = of_transformers(case)
    if case.bits < 16:
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    if case.recompute == "layer":
        base.gradient_checkpointing_enable({"use_reentrant": False})
    return base.train()


def peft_attach(case: Case, base: PreTrainedModel, rank: int) -> Contestant:
    """LoRA of peft's, in float32, as it is by default."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    provider = f"{PEFT} {importlib.metadata.version('peft')}"  # the ledger has the version of bitsandbytes
    return as_the_trainer_does(provider, case, model)


def peft_detach(base: PreTrainedModel) -> None:
    """Take the LoRA off again."""
    for path, module in list(base.named_modules()):
        if hasattr(module, "base_layer"):
            base.set_submodule(path, module.base_layer)
    del base.peft_config


def unsloth_base(case: Case) -> PreTrainedModel:
    """transformers' model with the schedule of unsloth's LoRA layer (its kernels/utils.py, matmul_lora)."""
    model = theirs(case, lambda path, weight: DequantisedLoRA(weight))
    if case.recompute == "layer":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def unsloth_attach(case: Case, model: PreTrainedModel, rank: int) -> Contestant:
    """LoRA in the model's dtype."""
    for layer in model.modules():
        if isinstance(layer, DequantisedLoRA):
            layer.attach(rank, case.dtype)
    return as_the_trainer_does(UNSLOTH, case, model)


def of_transformers(case: Case) -> PreTrainedModel:
    """What transformers loads with load_in_4bit (nf4, double quantisation), load_in_8bit, or neither."""
    model = theirs(case, partial(packed_by_bitsandbytes, case))
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = case.bits == 4, case.bits == 8  # where peft looks
    return model


def theirs(case: Case, linear: Callable[[str, Tensor], nn.Module]) -> PreTrainedModel:
    """transformers' own model, frozen, with `linear(path, weight)` for each linear layer but the head."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(case.config, attn_implementation="sdpa", trust_remote_code=False)
    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            weight = random_weight(f"{path}.weight", module.weight.shape, case.device, case.dtype)
            model.set_submodule(path, linear(path, weight))
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = random_weight(f"{path}.{name}", parameter.shape, case.device, case.dtype)
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
        if list(module.buffers(recurse=False)):  # rotary frequencies, as in maple.model
            module.to_empty(device=case.device, recurse=False)
            model._init_weights(module)
    return model


def packed_by_bitsandbytes(case: Case, path: str, weight: Tensor) -> nn.Module:
    """A linear layer of bitsandbytes in 4 and 8 bits, of PyTorch in 16."""
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    if case.bits == 4:
        layer = Linear4bit(
            *weight.T.shape, bias=False, compute_dtype=case.dtype, quant_type="nf4", quant_storage=torch.uint8,
            device="meta",
        )  # fmt: skip
        # packs on the way to the device
        layer.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", module=layer).to(case.device)
    elif case.bits == 8:
        layer = Linear8bitLt(*weight.T.shape, bias=False, has_fp16_weights=False, device="meta")
        layer.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(case.device)
    else:
        layer = nn.Linear(*weight.T.shape, bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def as_the_trainer_does(provider: str, case: Case, model: nn.Module) -> Contestant:
    """The step of transformers' Trainer: with bf16=True under autocast, and a fused AdamW."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def update(batch: Batch) -> float:
        names = ("input_ids", "attention_mask", "position_ids", "labels")
        inputs = {name: batch[name] for name in names if name in batch}
        with torch.autocast(case.device.type, torch.bfloat16, enabled=case.dtype == torch.bfloat16):
            # our labels are shifted already
            loss = model(**inputs, shift_labels=batch["labels"], use_cache=False).loss
        loss.backward()
        clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return Contestant(provider, model, update, parameters)


class DequantisedLoRA(nn.Module):
    """A weight packed by bitsandbytes, and a LoRA pair in the model's dtype."""

    def __init__(self, weight: Tensor):
        super().__init__()
        from bitsandbytes.functional import quantize_4bit

        self.codes, self.state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        self.shape, self.device = weight.shape, weight.device

    def attach(self, rank: int, dtype: torch.dtype) -> None:
        """A new pair, in the place of an earlier one."""
        out, columns = self.shape
        a = torch.empty(rank, columns, device=self.device, dtype=dtype).uniform_(-(columns**-0.5), columns**-0.5)
        self.a, self.b = nn.Parameter(a), nn.Parameter(torch.zeros(out, rank, device=self.device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return _Schedule.apply(x, self.codes, self.state, self.a, self.b)


class _Schedule(Function):
    """Y = X W^T + (X A^T) B^T; dX = dY W + (dY B) A, each product with W on a whole dequantised weight."""

    @staticmethod
    def forward(ctx, x, codes, state, a, b):
        from bitsandbytes.functional import dequantize_4bit

        rows = x.reshape(-1, x.shape[-1])
        y = rows @ dequantize_4bit(codes, state).T
        y.addmm_(rows @ a.T, b.T)
        ctx.save_for_backward(x, codes, a, b)
        ctx.state = state
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, dy):
        from bitsandbytes.functional import dequantize_4bit

        x, codes, a, b = ctx.saved_tensors
        rows, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        dyb = dy @ b
        da, db = dyb.T @ rows, dy.T @ (rows @ a.T)
        dx = dy @ dequantize_4bit(codes, ctx.state)
        dx.addmm_(dyb, a)
        return dx.view(x.shape), None, None, da, db


PROVIDERS = {
    MAPLE: Provider((4, 8, 16), maple_base, maple_attach, maple_detach),
    PEFT: Provider((4, 8, 16), peft_base, peft_attach, peft_detach),
    UNSLOTH: Provider((4,), unsloth_base, unsloth_attach, lambda model: None),  # a new pair takes the old one's place
}
