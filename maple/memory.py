"""What a training step will take, before a weight is read: the step itself, run on tensors that have no memory.

The model is built on PyTorch's meta device, from config.json alone, and does what it does in training: forward, loss,
backward, optimizer. Every operator then makes tensors of the right shape and no content, and `LiveBytes` counts them as
it would count real ones; what the code takes is predicted by that very code. Three things need an answer that shapes
do not give, and get one in `_Step`: which attention a device has, how many tokens are supervised, and whether a row
holds more than one sample.

On a CPU a process takes more than its tensors: the holes between them, which are measured and not derived (HOLES), and
while it loads the pages of the checkpoint.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PretrainedConfig, PreTrainedModel

from kernels import Weight
from kernels.packed import without_memory
from maple import prequantized
from maple.data.packing import TrainingBatches
from maple.live import LiveBytes
from maple.lora import add_lora, lora_parameters
from maple.loss import token_loss
from maple.model import empty_model, enable_recompute, fill_model, kept_dtype
from maple.shards import Shards

BASE, LORA, OPTIMIZER, ACTIVATIONS, LOSS = PARTS = "packed base", "LoRA", "optimizer", "activations", "loss"
ALIGNED = 16  # elements that the rows of a GPU's attention mask are padded to a multiple of
# What glibc keeps between tensors that came and went, as a share of activations and loss: what is freed is cut up by
# smaller things before its like is asked for again. Measured on a Llama of 100 M parameters (glibc 2.36; 1,024 and
# 4,096 tokens): 0.28 to 0.48, and with recomputed layers, where almost everything comes and goes, 1.4 to 1.9. Kept
# apart (mallopt, 1 MiB) they were gone, and steps of a small model took a quarter longer.
HOLES = {"none": 0.35, "layer": 1.5}
# PyTorch gives cuBLAS a workspace from its own allocator: 32 MiB on Hopper, 8 on other GPUs (its CublasHandlePool.cpp).
WORKSPACE = 32 << 20
META = torch.device("meta")
aten = torch.ops.aten


class MicroBatch(NamedTuple):
    """All that memory depends on: rows of `length` tokens, and the supervised tokens in them."""

    rows: int
    length: int
    supervised: int


@dataclass(frozen=True)
class Prediction:
    """Bytes of tensors by part at the moment when they are most, for the micro-batch that takes most."""

    parts: dict[str, int]
    micro_batch: MicroBatch
    holes: int = 0  # that a CPU's allocator keeps between them
    loading: int = 0  # packed model and mapped pages of the checkpoint when the last tensor has been read into a CPU

    @property
    def total(self) -> int:
        """The peak of live tensor bytes; on a GPU what PyTorch will have allocated."""
        return sum(self.parts.values())

    @property
    def needed(self) -> int:
        """What must be free for it."""
        return self.total + self.holes

    @property
    def resident(self) -> int:
        """The most that a process on a CPU has in memory above its libraries. Mapped pages it would give away."""
        return max(self.needed, self.loading)


def largest(batches: TrainingBatches) -> list[MicroBatch]:
    """The micro-batches of a run among which the one is that takes most memory, from the plan of its first epoch.

    A longer row costs more a token (its mask grows with the square), more tokens cost more: what is no more in either
    than another is left out. Supervised tokens are the most of any micro-batch of that shape.
    """
    order, planned = batches.planned(0)
    planned = planned[: batches.left]
    most: dict[int, int] = {}  # length -> rows
    for length, rows in planned:
        most[length] = max(most.get(length, 0), len(rows))
    shapes, tokens = [], 0
    for length, rows in sorted(most.items(), reverse=True):
        if rows * length > tokens:
            shapes.append((rows, length))
            tokens = rows * length
    supervised = {
        language: samples.lengths - samples.table["prompt_length"][:].clip(min=1)
        for language, samples in batches.samples.items()
    }

    def count(rows: list[list[int]]) -> int:
        return sum(int(supervised[language][i]) for row in rows for language, i in map(order.__getitem__, row))

    return [
        MicroBatch(rows, length, max(count(r) for found, r in planned if found == length and len(r) == rows))
        for rows, length in shapes
    ]


def predict(
    arguments: dict,
    config: PretrainedConfig,
    micro_batches: list[MicroBatch],
    device: str,
    dtype: torch.dtype,
    shards: Shards | None = None,
) -> Prediction:
    """The memory of a run with fit's `arguments`, of the micro-batch that takes most of it.

    device   "cpu" or "cuda"; neither need be there
    dtype    what the model computes in
    shards   the checkpoint, where it is here: its headers say what each tensor is stored in, else config.json does
    """
    model = model_without_memory(arguments, config, dtype, shards)
    found = [(_peak(model, batch, arguments["accumulate"], device), batch) for batch in micro_batches]
    parts, batch = max(found, key=lambda pair: sum(pair[0].values()))
    if arguments["strategy"] == "fsdp":
        parts = _shared(parts, model, arguments["devices"])
    if device == "cuda":
        return Prediction(parts | {ACTIVATIONS: parts[ACTIVATIONS] + WORKSPACE}, batch)
    holes = HOLES[arguments["recompute"]] * (parts[ACTIVATIONS] + parts[LOSS])
    return Prediction(parts, batch, int(holes), parts[BASE] + parts[LORA] + _stored_bytes(config, shards))


def _shared(parts: dict[str, int], model: PreTrainedModel, devices: int) -> dict[str, int]:
    """What one of several devices holds of each part: a share of the layers, and two whole, the second on its way."""
    layers = [sum(p.nbytes for p in layer.parameters()) for layer in model.base_model.layers]
    trained = parts[LORA]
    base = parts[BASE] - (sum(layers) - trained)
    shares = {LORA: -(-trained // devices), OPTIMIZER: -(-parts[OPTIMIZER] // devices)}
    return parts | shares | {BASE: base + -(-(sum(layers) - trained) // devices) + 2 * max(layers)}


def _stored_bytes(config: PretrainedConfig, shards: Shards | None) -> int:
    """Bytes of the tensors of a checkpoint: their pages are mapped until the last has been read."""
    if shards:
        return sum(math.prod(shards.shape(name)) * shards.dtype(name).itemsize for name in shards.names)
    return sum(p.numel() for p in empty_model(config).parameters()) * (config.dtype or torch.float32).itemsize


def model_without_memory(
    arguments: dict, config: PretrainedConfig, dtype: torch.dtype, shards: Shards | None = None
) -> PreTrainedModel:
    """What `load_model` and fit make of a checkpoint, on the meta device."""
    model = empty_model(config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    bits, block_size, double_quant = (arguments[name] for name in ("bits", "block_size", "double_quant"))
    packed = getattr(config, "quantization_config", None)  # by bitsandbytes, which packs in blocks of 64
    if packed:
        double_quant, block_size = bool(packed.get("bnb_4bit_use_double_quant")), 64

    def stored(name: str) -> Tensor:
        found = shards.dtype(name) if shards else config.dtype or torch.float32
        return torch.empty(shapes[name], dtype=kept_dtype(found, dtype), device=META)

    def pack(path: str, shape: tuple[int, int]) -> Weight:
        if bits == 16 or (packed and shards and not prequantized.keys_of(shards, path)):
            return stored(f"{path}.weight")
        return without_memory(shape, bits, block_size, double_quant)

    fill_model(model, stored, pack, META, dtype)
    add_lora(model, *(arguments[name] for name in ("rank", "alpha", "dropout", "targets", "rslora")))
    if arguments["recompute"] == "layer":
        enable_recompute(model)
    return model.train()


# ------------------------------------------------------------------------------------------------------------------
# The step
# ------------------------------------------------------------------------------------------------------------------


def _peak(model: PreTrainedModel, batch: MicroBatch, accumulate: int, device: str) -> dict[str, int]:
    """Bytes by part at the peak of two optimizer steps: only in the second is there an optimizer state before it.

    Of an accumulation two micro-batches show all: the gradients of the first live through the second. The order is
    Lightning's, which frees the gradients of the step before between forward and backward.
    """
    counter = _Step(batch.supervised, device)
    lora = [parameter for _, parameter in lora_parameters(model)]
    for tensor in (*model.parameters(), *model.buffers()):
        counter.count(tensor, BASE)
    for tensor in lora:
        counter.count(tensor, LORA)
    # as AdamW decides by itself: all tensors at once on a GPU, which takes copies of a state, one by one on a CPU
    optimizer = torch.optim.AdamW(lora, foreach=device == "cuda")
    with counter.everywhere(model):
        for _ in range(2):
            for micro_batch in range(min(accumulate, 2)):
                counter.part = ACTIVATIONS
                names = ("input_ids", "position_ids", "labels")
                tensors = {n: torch.empty(batch.rows, batch.length, dtype=torch.int64, device=META) for n in names}
                loss, _ = token_loss(model, tensors)
                if micro_batch == 0:
                    optimizer.zero_grad()
                counter.part = ACTIVATIONS
                loss.backward()
                del loss
            counter.part = OPTIMIZER
            optimizer.step()
    optimizer.zero_grad()
    return {part: counter.peak[part] for part in PARTS}


class _Step(LiveBytes):
    """Counts a training step on meta tensors, as `device` would do it."""

    def __init__(self, supervised: int, device: str):
        super().__init__()
        self.supervised, self.device = supervised, device
        triton = device == "cuda" and importlib.util.find_spec("triton") is not None
        self.backend = "triton" if triton else "naive"
        self.inside: dict[str, tuple[int, object]] = {}  # a call of an operator of ours -> what it takes on the way

    def everywhere(self, model: PreTrainedModel) -> ExitStack:
        """All that must be in place around the step."""
        stack = ExitStack()
        stack.enter_context(mock.patch.object(nn.functional, "scaled_dot_product_attention", _attention(self.device)))
        stack.callback(model.base_model.register_forward_hook(lambda *_: setattr(self, "part", LOSS)).remove)
        for _, parameter in lora_parameters(model):
            hook = parameter.register_post_accumulate_grad_hook(lambda p: self.count(p.grad, OPTIMIZER))
            stack.callback(hook.remove)
        if self.backend == "triton":
            from triton.runtime.jit import JITFunction

            stack.enter_context(mock.patch.object(JITFunction, "run", lambda *_, **__: None))  # nothing to launch on
        stack.enter_context(self)
        return stack

    def run(self, operator, args, kwargs):
        """One operator; where the answer lies in what tensors hold, the answer of a packed batch."""
        if operator is aten._local_scalar_dense.default and args[0].is_meta:
            return False  # "is there one sample in each row?": a mask is needed, as with almost every batch
        if operator is aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            return args[0].new_empty(self.supervised, *args[0].shape[args[1][0].dim() :])
        if operator.namespace != "maple":
            return operator(*args, **kwargs)
        return self._ours(operator, (*args[:-1], self.backend), kwargs)

    def _ours(self, operator, args, kwargs):
        """One of our operators. A second call with the same shapes is not run: what it would take is known.

        The weights of a 7B model are decoded in 500,000 pieces; that layers are alike makes 17 s of it one.
        """
        call = repr([operator, *map(_looks, args)])
        if call in self.inside:
            extra, results = self.inside[call]
            self.check(extra)
            return tree_map(_like, results)
        before = self.highest = self.now
        results = super().run(operator, args, kwargs)
        returned = sum(tensor.untyped_storage().nbytes() for tensor in tree_leaves(results))
        stays = self.now - before - returned  # the buffers that naive.py keeps
        self.inside[call] = self.highest - before - stays, tree_map(_like, results)
        return results


def _looks(value) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return [_looks(one) for one in value] if isinstance(value, (list, tuple)) else value


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


def _attention(device: str) -> Callable:
    """What scaled_dot_product_attention becomes on a device, which it decides where no meta tensor shows it.

    On a CPU its flash attention; on a GPU the memory-efficient one, since flash takes no mask. (cuDNN's, which a Hopper
    may take, keeps the same tensors.) A mask of bools becomes one of floats for every layer, kept for the backward.
    """

    def attend(query, key, value, attn_mask, dropout_p=0.0, is_causal=False, scale=None):
        """ATen's native/transformers/attention.cpp, for a packed batch: there is a mask, and so no grouped heads."""
        bias = torch.where(attn_mask, query.new_zeros(()), query.new_zeros(()))
        if device == "cpu":
            return aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, dropout_p, is_causal, attn_mask=bias, scale=scale
            )[0]
        length = bias.shape[-1]
        bias = nn.functional.pad(bias, (0, -length % ALIGNED))[..., :length] if length % ALIGNED else bias
        bias = bias.expand(*query.shape[:3], length)
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, True, dropout_p, is_causal, scale=scale
        )[0]

    return attend
