"""LoRA by hand (arXiv 2106.09685): a frozen linear layer and a trainable low-rank pair beside it.

    y = x W^T + bias + scaling * (dropout(x) A^T) B^T        x [..., in], W [out, in] frozen, in 4, 8 or 16 bits

    A [r, in]   Kaiming uniform: U(-1/sqrt(in), 1/sqrt(in))     } B A is a change of W of rank r at most,
    B [out, r]  zero, so that training begins at the base model } with r (in + out) numbers instead of in * out

    scaling = alpha / r         the paper's: with alpha = r it is 1 at every rank
            = alpha / sqrt(r)   rsLoRA (arXiv 2312.03732): the first step is as large at every r (lessons/1_lora.py)

The gradients, with dY = dL/dy and x' = dropout(x):

    G  = scaling * dY B        [M, r], computed once
    dA = G^T x'                dB = scaling * dY^T (x' A^T)        dX = dY W + dropout'(G A)

where dropout'(Z) = Z * mask / (1 - p), with the mask of x: dropout is linear, so its gradient is itself.

They are written out in `kernels/naive.py` (lora_linear_backward): x' A^T is saved, G serves both dA and dX, the LoRA
part is added to the base output in place, and the mask of the dropout is a hash that is computed again, not kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import kernels
from maple.errors import InputError, nearest
from maple.patterns import first_matches
from maple.quantized import QuantizedLinear

# Which linear layers a preset adapts, by the last part of their name. `all-linear` is every one but the output head
# (QLoRA, section 4: adapting all of them is what matched full fine-tuning); `qv` is the choice of the LoRA paper.
PRESETS = {"all-linear": None, "attention": ["q_proj", "k_proj", "v_proj", "o_proj"], "qv": ["q_proj", "v_proj"]}


class LoRALinear(nn.Module):
    """A frozen `QuantizedLinear` with its trainable pair, both in float32 whatever the base is in."""

    def __init__(self, base: QuantizedLinear, rank: int, alpha: float, dropout: float = 0.0, rslora: bool = False):
        super().__init__()
        self.base = base
        self.rank, self.alpha, self.dropout, self.rslora = rank, alpha, dropout, rslora
        self.scaling = alpha / math.sqrt(rank) if rslora else alpha / rank
        device = next(base.parameters()).device
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor, beside: Sequence[LoRALinear] = ()) -> Tensor | tuple[Tensor, ...]:
        """[..., in] -> [..., out] in the dtype of x; with layers `beside` that read the same x, a tuple of all results.

        Together they read x once and share one dropout mask.
        """
        layers, dropout, seed = (self, *beside), 0.0, None
        if self.training and self.dropout:
            # Drawn from PyTorch's own generator, which activation checkpointing puts back: a recomputed forward
            # sees the same mask. It stays a tensor, which a compiler can trace.
            dropout, seed = self.dropout, torch.randint(2**32, ())
        # on a CPU `naive.lora_linear`, with `naive.lora_linear_backward` as its gradient (kernels/ops.py)
        ys = kernels.lora_linear_grouped(
            x,
            [layer.base.packed for layer in layers],
            [layer.lora_a for layer in layers],
            [layer.lora_b for layer in layers],
            [layer.scaling for layer in layers],
            [layer.base.bias for layer in layers],
            dropout,
            seed,
        )
        return ys if beside else ys[0]

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"rank={self.rank}, scaling={self.scaling:g}, dropout={self.dropout:g}"


def project(x: Tensor, layers: Sequence[nn.Module]) -> Sequence[Tensor]:
    """One x through several linear layers: in one go where all of them carry LoRA, else one after the other."""
    if all(isinstance(layer, LoRALinear) for layer in layers):
        return layers[0](x, layers[1:])
    return [layer(x) for layer in layers]


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers by path, in the order of the model."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)}


def linear_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The frozen layers that LoRA can adapt, by path, adapted or not: every linear one but the output head."""
    layers, passed = {}, [model.get_output_embeddings()]
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            layers[path] = module.base
            passed.append(module.base)  # comes next, at path.base
        elif isinstance(module, QuantizedLinear) and not any(module is other for other in passed):
            layers[path] = module
    return layers


def match_targets(paths: list[str], targets: str) -> list[str]:
    """The paths that `targets` names: a preset, names like `q_proj,v_proj`, or a regular expression of whole paths.

    Raises InputError where nothing, or one of several names, matches.
    """
    if targets in PRESETS and PRESETS[targets] is None:
        return paths
    if targets in PRESETS or re.fullmatch(r"[\w.]+( *, *[\w.]+)*", targets):
        names = PRESETS.get(targets) or re.split(" *, *", targets)
        ends = {path.rsplit(".", 1)[-1] for path in paths}
        for name in names:
            if not any(ends_with(path, name) for path in paths):
                raise InputError(f"targets: no linear layer is called {name!r}{nearest(name, {*ends, *PRESETS})}")
        return [path for path in paths if any(ends_with(path, name) for name in names)]
    found = first_matches([targets], paths, "targets")
    matched = [path for path, number in zip(paths, found, strict=True) if number is not None]
    if not matched:
        raise InputError(
            f"targets: {targets!r} matches none of {len(paths)} linear layers, of which {paths[0]!r} is one"
        )
    return matched


def ends_with(path: str, name: str) -> bool:
    """Whether a module path is `name` or ends with it as whole parts, as PEFT matches a list of target modules."""
    return path == name or path.endswith(f".{name}")


def add_lora(
    model: nn.Module,
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str = "all-linear",
    rslora: bool = False,
) -> None:
    """Put a LoRA pair beside each targeted linear layer of a frozen model; `alpha` None is the rank.

    A comes from PyTorch's generator, in the order of the model: seed it for the same start. Raises InputError for
    targets that match nothing.
    """
    for path in match_targets(list(linear_layers(model)), targets):
        adapt(model, path, rank, alpha, dropout, rslora)


def adapt(
    model: nn.Module, path: str, rank: int, alpha: float | None = None, dropout: float = 0.0, rslora: bool = False
) -> None:
    """Put a LoRA pair beside the frozen linear layer at `path`."""
    lora = LoRALinear(model.get_submodule(path), rank, rank if alpha is None else alpha, dropout, rslora)
    model.set_submodule(path, lora)


def remove_lora(model: nn.Module) -> None:
    """Take every LoRA pair off again; the frozen layers are as they were."""
    for path, layer in lora_layers(model).items():
        model.set_submodule(path, layer.base)


def lora_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) of every A and B: all that is trained."""
    for path, layer in lora_layers(model).items():
        yield f"{path}.lora_a", layer.lora_a
        yield f"{path}.lora_b", layer.lora_b


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """(trainable, total) numbers of the model; a packed weight counts as the out * in numbers that it stands for."""
    packed = [module for module in model.modules() if isinstance(module, QuantizedLinear) and module.is_packed]
    inside = {id(tensor) for module in packed for tensor in module.packed.tensors().values()}
    total = sum(module.out_features * module.in_features for module in packed)
    total += sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in inside)
    return sum(parameter.numel() for _, parameter in lora_parameters(model)), total


def base_bytes(model) -> int:
    """Bytes of everything frozen; a tied weight counts once."""
    trained = {id(parameter) for _, parameter in lora_parameters(model)}
    return sum(parameter.nbytes for parameter in model.parameters() if id(parameter) not in trained)
