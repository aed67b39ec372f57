"""FSDP2: each device holds a share of every decoder layer's tensors, and the whole of one layer while it computes it.

PyTorch's `fully_shard` gathers a layer just before its forward and again before its backward, and lets go of it behind
each. To it a packed weight is parameters like others, of uint8, int8 or float32: dimension 0 is cut into as many pieces
as there are devices, the last ones shorter where it is not divisible. What the operators save for the backward are
views of the gathered storage, which is emptied and filled again under them.

    sharded   codes, absmax and bias of each linear layer, its LoRA pair, norms
    whole     what has fewer rows than there are devices (nested_offset, which has none), embedding, final norm, head:
              the loss reads the head's weight chunk by chunk and not through its forward, and a tied one is both

A and B, their gradients and AdamW's moments are DTensors. Checkpoints and adapters hold the whole of them, as one
device would write them, so what is on the disk does not know how many there were.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


class Sharding:
    """Shards a model over all processes, layer by layer while it is loaded: none ever holds it whole."""

    def __init__(self, device: torch.device):
        self.mesh = init_device_mesh(device.type, (dist.get_world_size(),))

    def layer(self, layer: nn.Module) -> None:
        """Keep this device's share of a decoder layer that is complete, with its LoRA."""
        few = {p for p in layer.parameters() if p.dim() == 0 or p.shape[0] < self.mesh.size()}
        fully_shard(layer, mesh=self.mesh, ignored_params=few)

    def rest(self, decoder: nn.Module) -> None:
        """Make of the layers one model, so that the next is gathered while one computes."""
        fully_shard(decoder, mesh=self.mesh, ignored_params={p for p in decoder.parameters() if not is_part(p)})


def is_sharded(model) -> bool:
    """Whether the devices share a model."""
    return isinstance(getattr(model, "base_model", None), FSDPModule)


def is_part(tensor: Tensor) -> bool:
    """Whether this device holds only a share of a tensor."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Every rank must ask for those that are shared, in the same order."""
    return tensor.full_tensor() if is_part(tensor) else tensor


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every rank has, as `like` holds it."""
    if not is_part(like):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gather(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """All tensors whole, those that are shared on the CPU, where `keep`. Every rank must ask."""
    found = {}
    for name, tensor in tensors.items():
        shared, full = is_part(tensor), whole(tensor.detach())
        if keep:
            found[name] = full.cpu() if shared else full
    return found
