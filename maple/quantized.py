"""Modules that own one frozen weight: a linear layer in 4, 8 or 16 bits, and a 16-bit embedding table."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import kernels
from kernels import Weight


class QuantizedLinear(nn.Module):
    """y = x W^T + bias, W [out, in] packed in 4 or 8 bits, or a plain float tensor in the 16-bit case.

    The tensors of the packed weight are frozen parameters, not buffers, so that DistributedDataParallel sends them once
    and not at every forward. A plain weight is the parameter `weight`, which a tied embedding may share.
    """

    def __init__(self, weight: Weight, bias: Tensor | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        plain = isinstance(weight, Tensor)
        self._format = None if plain else (type(weight), weight.settings())
        for name, tensor in ({"weight": weight} if plain else weight.tensors()).items():
            self.register_parameter(name, _frozen(tensor))
        self._fields = list(self._parameters)
        self.register_parameter("bias", None if bias is None else _frozen(bias))

    @property
    def packed(self) -> Weight:
        """The weight as the kernels take it, on whatever device the module is now."""
        tensors = {name: self._parameters[name] for name in self._fields}
        if not self.is_packed:
            return tensors["weight"]
        kind, settings = self._format
        return kind(**tensors, **settings)

    @property
    def is_packed(self) -> bool:
        """Whether the weight is in 4 or 8 bits."""
        return self._format is not None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] in the dtype of x."""
        return kernels.linear(x, self.packed, self.bias)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        kind = self._format[0].__name__ if self.is_packed else "16-bit"
        return f"{self.in_features}, {self.out_features}, {kind}"


class Embedding16(nn.Embedding):
    """An embedding table kept in 16 bits that answers in the dtype the model computes in (float32 on a CPU)."""

    def __init__(self, weight: Tensor, padding_idx: int | None, dtype: torch.dtype):
        super().__init__(*weight.shape, padding_idx=padding_idx, _weight=weight)
        self.weight.requires_grad_(False)
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., hidden]."""
        return super().forward(ids).to(self.dtype)


def _frozen(tensor: Tensor) -> nn.Parameter:
    # A parameter passes through as the same object: that is how a tied weight stays one.
    return tensor.requires_grad_(False) if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)
