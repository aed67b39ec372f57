"""What a decoder layer is made of, in place of transformers' own: norm, attention and gated MLP.

    RMSNorm     y = x / sqrt(mean(x^2) + eps) * w
    Attention   q, k, v = x [Wq; Wk; Wv]^T      rotary(q), rotary(k)      y = softmax(q k^T / sqrt(dim)) v Wo^T
    GatedMLP    y = (silu(x Wg^T) * x Wu^T) Wd^T

Llama, Mistral, Qwen2 and Qwen3 are alike in them; Qwen2 has biases on q, k and v, Qwen3 a norm on each head of q and k.
What is new is that projections of one x are computed together (`lora.project`), that packed samples come with their
boundaries in place of a mask, and that what lies between the products is one pass forward and one back. Names and
forward arguments are transformers', so its models and its `generate` do not notice, and neither do adapters. A config's
attention_dropout does not act: all these models have 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import kernels
from maple.lora import project


class RMSNorm(nn.Module):
    """Takes over the weight of transformers' module."""

    def __init__(self, theirs: nn.Module):
        super().__init__()
        self.weight, self.variance_epsilon = theirs.weight, theirs.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., n]."""
        return kernels.rms_norm(x, self.weight, self.variance_epsilon)


class Attention(nn.Module):
    """Takes over the projections, norms and sizes of transformers' module."""

    is_causal = True  # sdpa_attention_forward asks for it

    def __init__(self, theirs: nn.Module):
        super().__init__()
        for name, module in theirs.named_children():
            self.add_module(name, module)
        self.layer_idx, self.head_dim, self.scaling = theirs.layer_idx, theirs.head_dim, theirs.scaling
        self.num_key_value_groups = theirs.num_key_value_groups
        # Qwen's modules say whether their layer has one, of Mistral the config does, Llama has none
        self.sliding_window = getattr(theirs, "sliding_window", getattr(theirs.config, "sliding_window", None))

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values=None,
        **kwargs,
    ) -> tuple[Tensor, None]:
        """hidden_states [rows, length, hidden] -> the same shape, and no attention weights.

        attention_mask   of packed samples their `boundaries`, else what transformers makes for its SDPA
        shared           of packed samples some of which are prefixes of others, which those are (`kernels.Prefixes`)
        """
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (t.view(heads) for t in project(hidden_states, [self.q_proj, self.k_proj, self.v_proj]))
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = kernels.rotary(q.transpose(1, 2), k.transpose(1, 2), *position_embeddings)
        if attention_mask is not None and attention_mask.dtype == torch.int32:
            y = self._packed(q.transpose(1, 2), k.transpose(1, 2), v, attention_mask.flatten(), kwargs.get("shared"))
        else:
            y = self._one_a_row(q, k, v.transpose(1, 2), attention_mask, past_key_values, kwargs)
        return self.o_proj(y.reshape(*hidden_states.shape[:-1], -1)), None

    def _packed(self, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, shared: kernels.Prefixes | None) -> Tensor:
        """[rows, length, heads, dim] -> [rows * length, heads, dim]: rows are only one list of samples."""
        longest, tokens = q.shape[1], [t.flatten(0, 1) for t in (q, k, v)]
        if shared is not None:
            return kernels.shared_prefix_attention(*tokens, ends, shared, self.scaling, longest, self.sliding_window)
        return kernels.packed_attention(*tokens, ends, self.scaling, longest, self.sliding_window)

    def _one_a_row(self, q, k, v, attention_mask, past_key_values, kwargs) -> Tensor:
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        kwargs.pop("position_ids", None)
        kwargs.pop("use_cache", None)
        return sdpa_attention_forward(self, q, k, v, attention_mask, scaling=self.scaling, **kwargs)[0]


class GatedMLP(nn.Module):
    """Takes over the three projections of transformers' module."""

    def __init__(self, theirs: nn.Module):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = theirs.gate_proj, theirs.up_proj, theirs.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        gate, up = project(x, [self.gate_proj, self.up_proj])
        return self.down_proj(kernels.swiglu(gate, up))


def replace_blocks(model: PreTrainedModel) -> None:
    """Put ours in the place of transformers' in every decoder layer of a model."""
    decoder = model.base_model
    for layer in decoder.layers:
        layer.self_attn, layer.mlp = Attention(layer.self_attn), GatedMLP(layer.mlp)
    norm = type(decoder.norm)
    for path, module in list(decoder.named_modules()):
        if isinstance(module, norm):
            decoder.set_submodule(path, RMSNorm(module))


def boundaries(position_ids: Tensor) -> Tensor:
    """Where packed samples begin, as the attention above takes it in place of a mask.

    position_ids [rows, length] begin again at 0 with each sample. Returns int32 [1, 1, 1, samples + 1]: a mask of four
    dimensions transformers hands on as it is.
    """
    starts = torch.nonzero(position_ids.flatten() == 0).flatten()
    ends = torch.cat([starts, starts.new_tensor([position_ids.numel()])])
    return ends.to(torch.int32)[None, None, None]
