"""What a packed weight is made of: the tensors of an NF4 and of an int8 weight, and what they must satisfy.

Layouts are those of bitsandbytes, so that its checkpoints are ours (its functional.py and nn/modules.py, 0.50).
How the numbers get there and back is in `naive.py`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # the 4-bit block sizes bitsandbytes knows
NESTED_BLOCK_SIZE = 256  # absmax values that share one second-level absmax; fixed in its fused kernels


class _Packed:
    """What both formats share: moving their tensors, counting their bytes, turning back into floats."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of this weight by field name, those that are absent left out."""
        fields = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in fields if isinstance(value, Tensor)}

    def settings(self) -> dict[str, object]:
        """The fields that are no tensors: with `tensors()` they rebuild the weight."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in self.tensors()}

    def to(self, device: torch.device | str):
        """The same weight on another device."""
        return dataclasses.replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight as floats [out, in]: computed in float32, rounded once to `dtype`."""
        from kernels.ops import dequantize

        return dequantize(self, dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def device(self) -> torch.device:
        """Where the weight lies."""
        return self.codes.device

    def _require(self, name: str, dtype: torch.dtype, numel: int) -> None:
        tensor = getattr(self, name)
        if tensor is None or tensor.dtype != dtype or tensor.numel() != numel:
            found = "nothing" if tensor is None else f"{tensor.numel()} of {tensor.dtype}"
            raise ValueError(
                f"{name} of a packed weight {list(self.shape)} must be {numel} values of {dtype}, found {found}"
            )
        if not tensor.is_contiguous():
            raise ValueError(f"{name} of a packed weight must be contiguous, found strides {list(tensor.stride())}")
        if tensor.device != self.device:
            raise ValueError(f"{name} of a packed weight lies on {tensor.device}, the rest on {self.device}")


@dataclass(frozen=True)
class NF4Weight(_Packed):
    """A weight [out, in] in NF4: two 4-bit codes a byte, one absmax for `block_size` consecutive elements.

    The weight is read row by row as one flat list, so a block crosses rows where in is no multiple of block_size.

    codes          uint8   [ceil(out * in / 2)]   element 2j in the high nibble of byte j, 2j + 1 in the low one
    absmax         float32 [blocks]               plain, or
                   uint8   [blocks]               double-quantised: a code into nested_map
    nested_absmax  float32 [ceil(blocks / 256)]   |      absmax of block i = nested_map[absmax[i]]
    nested_map     float32 [256]                  |                          * nested_absmax[i // 256] + nested_offset
    nested_offset  float32 []                     |

    Raises ValueError when the parts disagree.
    """

    codes: Tensor
    absmax: Tensor
    shape: tuple[int, int]
    block_size: int
    nested_absmax: Tensor | None = None
    nested_map: Tensor | None = None
    nested_offset: Tensor | None = None

    def __post_init__(self):
        check_block_size(self.block_size)
        numel = math.prod(self.shape)
        blocks = math.ceil(numel / self.block_size)
        self._require("codes", torch.uint8, math.ceil(numel / 2))
        self._require("absmax", torch.uint8 if self.double_quant else torch.float32, blocks)
        if self.double_quant:
            self._require("nested_absmax", torch.float32, math.ceil(blocks / NESTED_BLOCK_SIZE))
            self._require("nested_map", torch.float32, 256)
            self._require("nested_offset", torch.float32, 1)

    @property
    def double_quant(self) -> bool:
        """Whether absmax is itself quantised to 8 bits."""
        return self.nested_absmax is not None


@dataclass(frozen=True)
class Int8Weight(_Packed):
    """A weight [out, in] in int8 with one absmax a row: w = codes * absmax / 127.

    codes   int8    [out, in]
    absmax  float32 [out]          bitsandbytes calls it SCB

    Raises ValueError when the parts disagree.
    """

    codes: Tensor
    absmax: Tensor

    def __post_init__(self):
        if self.codes.dim() != 2:
            raise ValueError(f"codes of an int8 weight must be a matrix, found shape {list(self.codes.shape)}")
        self._require("codes", torch.int8, self.codes.numel())
        self._require("absmax", torch.float32, self.codes.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in]."""
        return tuple(self.codes.shape)


Weight = NF4Weight | Int8Weight | Tensor  # what a frozen linear layer may hold; a plain tensor is the 16-bit case


def without_memory(shape: tuple[int, int], bits: int, block_size: int = 64, double_quant: bool = False) -> Weight:
    """A packed weight on the meta device: the shapes of its tensors, to count bytes and to see what would be launched.

    `bits`, `block_size` and `double_quant` are those of `kernels.quantize`.
    """

    def empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    if bits == 8:
        return Int8Weight(empty(*shape, dtype=torch.int8), empty(shape[0]))
    codes = empty(math.ceil(math.prod(shape) / 2), dtype=torch.uint8)
    blocks = math.ceil(math.prod(shape) / block_size)
    if not double_quant:
        return NF4Weight(codes, empty(blocks), shape, block_size)
    nested = empty(math.ceil(blocks / NESTED_BLOCK_SIZE)), empty(256), empty()
    return NF4Weight(codes, empty(blocks, dtype=torch.uint8), shape, block_size, *nested)


def check_block_size(block_size: int) -> None:
    """Raise ValueError unless `block_size` is one that the format knows."""
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size is {block_size}; NF4 knows {', '.join(map(str, BLOCK_SIZES))}")
