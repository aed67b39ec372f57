"""What the backward pass computes again instead of keeping it, and what a compiler fuses: layer by layer.

A decoder layer of Llama-2-7B in bfloat16, bytes a token, none of it quantised (d = 8,192 bytes, one hidden state):

    none        x, norm(x), q, k, v, y, x', norm(x'), gate, up, silu(gate) * up     8 d + 3 * 22,016
    selective   x and what products and attention gave: q, k, v, y, y Wo^T,
                gate, up, ... Wd^T; norms, rotations and silu(gate) * up are cheap  7 d + 2 * 22,016
    layer       x alone                                                             d
"""

from __future__ import annotations

import functools
import types

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import kernels  # noqa: F401  registers the operators below

# A mask that is computed again must be the same one, whoever traces the code: eager PyTorch puts the generator back, a
# compiler would draw another seed.
SEEDS = (torch.ops.aten.randint.default,)
# Operators whose results are worth their memory: products and attention. (arXiv 2205.05198, section 5, kept all but
# attention, which was cheap and large before flash attention made it the reverse.)
PRODUCTS = (
    torch.ops.maple.lora_linear.default,
    torch.ops.maple.linear.default,
    torch.ops.maple.packed_attention.default,
)
GRAPHS = 32  # twice what there can be
uncompiled = functools.partial(torch.compiler.set_stance, "force_eager")  # a block in which no compiled code runs
KEPT = {"selective": SEEDS + PRODUCTS, "layer": SEEDS}


def enable_recompute(model, how: str) -> None:
    """Activation checkpointing of each decoder layer: how is none, selective or layer.

    It wraps the layer's forward and lies within its hooks, where FSDP's expect it.
    """
    for layer in model.base_model.layers if how != "none" else ():
        layer.forward = types.MethodType(_SAVING[how], layer)


def _saving(how: str):
    """The forward of a decoder layer, keeping only what `how` says."""
    contexts = functools.partial(create_selective_checkpoint_contexts, functools.partial(_policy, KEPT[how]))

    def forward(layer, *args, **kwargs):
        if not torch.is_grad_enabled():  # nothing is computed again, and a CUDA graph may not ask for random states
            return type(layer).forward(layer, *args, **kwargs)
        return checkpoint(type(layer).forward, layer, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return forward


def _policy(kept: tuple, context, operator, *args, **kwargs) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in kept else CheckpointPolicy.PREFER_RECOMPUTE


_SAVING = {how: _saving(how) for how in KEPT}


def plain_forward(model) -> None:
    """Take back what `enable_recompute` and `compile_layers` made of the layers' forwards."""
    for layer in model.base_model.layers:
        layer.__dict__.pop("forward", None)


def compile_layers(model, backend: str = "inductor") -> None:
    """Compile the forward of the decoder layers in place: they are alike, so few graphs serve all.

    Our operators stay as they are, what lies between them is fused. `fullgraph`: a break would be an error and not a
    slow run. The hooks of a layer, FSDP's among them, stay outside.
    """
    # The first layer needs no gradient of its input; a first shape is taken for the only one; one row is special; and
    # validation has no gradients at all: 16 graphs, where PyTorch gives up after 8.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    for layer in model.base_model.layers:
        layer.forward = torch.compile(layer.forward, fullgraph=True, backend=backend)
