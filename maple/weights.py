"""Where the weights come from that `model.fill_model` asks for, read ahead of it: a checkpoint, or its packed copy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import kernels
from kernels import Weight
from maple import prequantized
from maple.ahead import Stream
from maple.errors import InputError
from maple.packed_copy import PackedCopy
from maple.shards import HALVES, Shards

Stored = Callable[[str], Tensor]
Pack = Callable[[str, tuple[int, int]], Weight]
Progress = Callable[[int, int], object]  # is told how many bytes were read, and of how many


class Weights:
    """What a model's modules are filled with, in their order.

    model      without memory; its parameters say what is read, and when
    settings   bits and for 4 bits block_size and double_quant, as `kernels.quantize` takes them
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shards: Shards,
        settings: dict,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress | None = None,
    ):
        self.shards, self.settings, self.device, self.dtype, self.progress = shards, settings, device, dtype, progress
        self.shapes = linear_shapes(model)
        self.names = [name for name, _ in model.named_parameters()]  # through the modules, as fill_model goes

    @contextlib.contextmanager
    def from_checkpoint(
        self, packed: bool, keep: Callable[[Weight], None] | None = None
    ) -> Iterator[tuple[Stored, Pack]]:
        """`stored` and `pack` of fill_model. `packed`: by bitsandbytes; `keep` gets every weight that is quantised."""
        keys = {path: prequantized.keys_of(self.shards, path) if packed else [] for path in self.shapes}
        done = {f"{path}.weight" for path, others in keys.items() if others}
        with self._reading([name for name in self.names if name not in done]) as (stream, stored):

            def pack(path: str, shape: tuple[int, int]) -> Weight:
                name = f"{path}.weight"
                if keys[path]:
                    return prequantized.read(self.shards, path, shape, self.device)
                if packed or self.settings["bits"] == 16:
                    return stored(name)
                try:
                    weight = kernels.quantize(stream.take(name), **self.settings)
                except ValueError as error:
                    raise InputError(f"{self.shards.where(name)}: {error}") from error
                if keep:
                    keep(weight)
                return weight

            yield stored, pack

    @contextlib.contextmanager
    def from_copy(self, copy: PackedCopy) -> Iterator[tuple[Stored, Pack]]:
        """The same; raises packed_copy.Damaged, be it at the end of the block."""
        inside = {f"{path}.weight" for path in self.shapes}
        rest = [name for name in self.names if name not in inside]
        with (
            self._reading(rest, copy.nbytes - len(copy.header)) as (stream, stored),
            contextlib.closing(copy.read(self.device)) as weights,
        ):

            def pack(path: str, _: tuple[int, int]) -> Weight:
                found, weight = next(weights)
                assert found == path, f"{path} is asked for, {found} was read"
                stream.tell(weight.nbytes)
                return weight

            yield stored, pack
            for _ in weights:  # there is none left, but at the end the hash is compared
                raise AssertionError("the copy holds more than the model")

    @contextlib.contextmanager
    def _reading(self, names: list[str], others: int = 0) -> Iterator[tuple[Stream, Stored]]:
        total, read = sum(map(self.shards.nbytes, names)) + others, 0

        def tell(count: int) -> None:
            nonlocal read
            read += count
            if self.progress:
                self.progress(read, total)

        with contextlib.closing(Stream(self.shards, names, self.device, tell)) as stream:
            yield stream, lambda name: self._kept(stream.take(name), self.shards.where(name))

    def _kept(self, tensor: Tensor, where: str) -> Tensor:
        """What stays of a tensor that is not quantised: 16-bit ones keep their dtype under a float32 computation."""
        if tensor.dtype not in kernels.FLOATS:
            raise InputError(f"{where} is {tensor.dtype}; a weight of 16 or 32 bits is needed")
        if not all(torch.isfinite(bound) for bound in torch.aminmax(tensor)):
            raise InputError(f"{where} holds NaN or inf")
        # a mapped one is copied: its file is not kept open
        return tensor.to(kept_dtype(tensor.dtype, self.dtype), copy=tensor.is_cpu)


def kept_dtype(stored: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """What a tensor of a checkpoint is held in where the model computes in `dtype`."""
    return stored if dtype == torch.float32 and stored in HALVES else dtype


def packing(bits: int, block_size: int, double_quant: bool) -> dict:
    """The settings that a weight of `bits` bits is packed with; 8 bits have no others."""
    return {"bits": bits, **({"block_size": block_size, "double_quant": double_quant} if bits == 4 else {})}


def linear_shapes(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """{path: (out, in)} of the linear layers that are packed: all but the output head."""
    head = model.get_output_embeddings()
    linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {path: (m.out_features, m.in_features) for path, m in linear.items() if m is not head}
