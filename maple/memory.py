"""What a training step will take, before a weight is read: the step itself, run on tensors that have no memory.

The model is built on PyTorch's meta device, from config.json alone, and does what it does in training: forward, loss,
backward, optimizer. Every operator then makes tensors of the right shape and no content, and `LiveBytes` counts them as
it would count real ones; what the code takes is predicted by that very code. One thing needs an answer that shapes do
not give, and gets it in `_Step`: how many tokens are supervised.

On a CPU a process takes more than its tensors: the holes between them, which are measured and not derived (HOLES), and
while it loads the pages of the checkpoint.
"""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PretrainedConfig, PreTrainedModel

from kernels import Weight
from kernels.packed import without_memory
from maple import prequantized
from maple.data.packing import TrainingBatches
from maple.live import LiveBytes
from maple.lora import add_lora, lora_parameters
from maple.loss import token_loss
from maple.model import empty_model, fill_model
from maple.recompute import enable_recompute
from maple.shards import Shards
from maple.weights import kept_dtype

BASE, LORA, OPTIMIZER, ACTIVATIONS, LOSS = PARTS = "packed base", "LoRA", "optimizer", "activations", "loss"
FLOAT = 4  # bytes
# What glibc keeps between tensors that came and went, as a share of activations and loss: what is freed is cut up by
# smaller things before its like is asked for again. Measured on a Llama of 100 M parameters (glibc 2.36; 128, 1,024 and
# 4,096 tokens): 0.17 to 0.24, 0.23 to 0.29 with selective recomputation, and with whole layers, where almost everything
# comes and goes, 0.7 to 1.4. Kept apart (mallopt, 1 MiB) they were gone, and steps of a small model took 25 % more.
HOLES = {"none": 0.22, "selective": 0.27, "layer": 1.1}
# PyTorch gives cuBLAS a workspace from its own allocator: 32 MiB on Hopper, 8 on other GPUs (its CublasHandlePool.cpp).
WORKSPACE = 32 << 20
META = torch.device("meta")
aten = torch.ops.aten


class MicroBatch(NamedTuple):
    """All that memory depends on: rows of `length` tokens, the supervised ones of these, and the samples in them."""

    rows: int
    length: int
    supervised: int
    samples: int = 1


@dataclass(frozen=True)
class Prediction:
    """Bytes of tensors by part at the moment when they are most."""

    parts: dict[str, int]
    holes: int = 0  # that a CPU's allocator keeps between them
    loading: int = 0  # packed model and the pages of the checkpoint that are mapped while a CPU reads it

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


def largest(batches: TrainingBatches) -> MicroBatch:
    """The micro-batch of a run that takes most memory, from the plan of its first epoch: the one with most tokens."""
    order, planned = batches.planned(0)
    planned = planned[: batches.left]
    most = max(length * len(rows) for length, rows in planned)
    supervised = {
        language: samples.lengths - samples.table["prompt_length"][:].clip(min=1)
        for language, samples in batches.samples.items()
    }

    def count(rows: list[list[int]]) -> int:
        return sum(int(supervised[language][i]) for row in rows for language, i in map(order.__getitem__, row))

    found = [(length, rows) for length, rows in planned if length * len(rows) == most]
    shapes = [MicroBatch(len(rows), length, count(rows), sum(map(len, rows))) for length, rows in found]
    return max(shapes, key=lambda shape: shape.supervised)


@dataclass(frozen=True)
class Setting:
    """What the memory of a run depends on."""

    arguments: dict  # fit's
    config: PretrainedConfig
    micro_batch: MicroBatch  # the largest
    device: str  # "cpu" or "cuda"; neither need be there
    dtype: torch.dtype  # what the model computes in
    shards: Shards | None = None  # the checkpoint, where it is here: its headers say what each tensor is stored in

    def changed(self, **flags) -> Setting:
        """The same with other flags."""
        return replace(self, arguments=self.arguments | flags)


def predict(setting: Setting) -> Prediction:
    """The memory of a run."""
    model = model_without_memory(setting.arguments, setting.config, setting.dtype, setting.shards)
    enable_recompute(model, setting.arguments["recompute"])
    parts = _peak(model, setting.micro_batch, setting.arguments["accumulate"], setting.device)
    if setting.arguments["strategy"] == "fsdp":
        parts = _shared(parts, model, setting.arguments["devices"])
    if setting.device == "cuda":
        return Prediction(parts | {ACTIVATIONS: parts[ACTIVATIONS] + WORKSPACE})
    holes = HOLES[setting.arguments["recompute"]] * (parts[ACTIVATIONS] + parts[LOSS])
    loading = parts[BASE] + parts[LORA] + _mapped_bytes(setting.config, setting.shards)
    return Prediction(parts, int(holes), loading)


def _shared(parts: dict[str, int], model: PreTrainedModel, devices: int) -> dict[str, int]:
    """What one of several devices holds of each part: a share of the layers, and two whole, the second on its way."""
    layers = [sum(p.nbytes for p in layer.parameters()) for layer in model.base_model.layers]
    trained = parts[LORA]
    base = parts[BASE] - (sum(layers) - trained)
    shares = {LORA: -(-trained // devices), OPTIMIZER: -(-parts[OPTIMIZER] // devices)}
    return parts | shares | {BASE: base + -(-(sum(layers) - trained) // devices) + 2 * max(layers)}


def _mapped_bytes(config: PretrainedConfig, shards: Shards | None) -> int:
    """Bytes of a checkpoint that are mapped at once while it is read: one tensor in work and the next one."""
    if shards:
        return 2 * max(map(shards.nbytes, shards.names))
    return 2 * max(p.numel() for p in empty_model(config).parameters()) * (config.dtype or torch.float32).itemsize


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
    return model.train()


# ------------------------------------------------------------------------------------------------------------------
# The step
# ------------------------------------------------------------------------------------------------------------------


def _peak(model: PreTrainedModel, batch: MicroBatch, accumulate: int, device: str) -> dict[str, int]:
    """Bytes by part at the peak of two optimizer steps: only in the second is there an optimizer state before it.

    Of an accumulation two micro-batches show all: the gradients of the first live through the second. The order is
    Lightning's, which frees the gradients of the step before between forward and backward.
    """
    counter = _Step(batch, device)
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

    def __init__(self, batch: MicroBatch, device: str):
        super().__init__()
        self.batch, self.device = batch, device
        triton = device == "cuda" and importlib.util.find_spec("triton") is not None
        self.backend = "triton" if triton else "naive"
        self.inside: dict[str, tuple[int, object]] = {}  # a call of an operator of ours -> what it takes on the way

    def everywhere(self, model: PreTrainedModel) -> ExitStack:
        """All that must be in place around the step."""
        stack = ExitStack()
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
        """One operator; where the shape of the answer lies in what tensors hold, that of a packed batch."""
        if operator is aten.nonzero.default:
            return args[0].new_empty(self.batch.samples, args[0].dim(), dtype=torch.int64)  # where samples begin
        if operator is aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            return args[0].new_empty(self.batch.supervised, *args[0].shape[args[1][0].dim() :])
        if operator.namespace != "maple":
            return operator(*args, **kwargs)
        if "packed_attention" in operator._opname and self.device == "cuda":
            self.check(_attention_workspace(operator, args, self.batch))
        if isinstance(args[-1], str):
            args = (*args[:-1], self.backend)
        return self._ours(operator, args, kwargs)

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


def _attention_workspace(operator, args, batch: MicroBatch) -> int:
    """Bytes that attention over packed samples takes on a GPU beside its operands, its results among them.

    In 16 bits what mha_varlen_bwd of PyTorch's flash_api.cpp makes: dQ is summed in float32 over tokens padded to 128 a
    sample, and heads of q that share k and v have a dK and dV of their own first. In float32 the scores of a sample are
    written out, and four more like them.
    """
    backward = operator is torch.ops.maple.packed_attention_backward.default
    q, k = args[backward : backward + 2]
    tokens, heads, dim = q.shape
    results = q.nbytes + (2 * k.nbytes if backward else FLOAT * heads * tokens)
    if q.dtype == torch.float32:
        return results + 5 * FLOAT * heads * batch.length**2
    if not backward:
        return results
    padded = tokens + 128 * batch.samples
    shared = 2 * q.nbytes if k.shape[1] < heads else 0
    return results + padded * heads * (-(-dim // 32) * 32 + 1) * FLOAT + shared


def _looks(value) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return [_looks(one) for one in value] if isinstance(value, (list, tuple)) else value


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
