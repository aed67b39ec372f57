"""Keys and values of texts under way, in memory that never moves, and the pass through the model that reads them.

    slot     0 1 2 3 4 5 6 7        the token at position p of a text has its key and its value in slot p of its row,
    row 0    a b c d . . . .        so what a token may see is "slots up to its own position", texts of any length lie
    row 1    e f g h i j . .        side by side without padding before them, and a row can be left by one text and
    row 2    k l . . . . . .        taken by another whatever the others do

A slot beyond the end of a text holds what an earlier text or the padding of a prompt left there: it is written again
before a position that sees it is reached. All begin as zeros, since a masked NaN would still be NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel


class Cache:
    """Keys and values [rows, kv heads, length, head dim] of every layer."""

    def __init__(self, model: PreTrainedModel, rows: int, length: int):
        config, embedding = model.config, model.get_input_embeddings()
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        first = embedding(torch.zeros(1, dtype=torch.long, device=model.device))  # tells what the model computes in
        shape = (config.num_hidden_layers, 2, rows, config.num_key_value_heads, length, width)
        self.layers = [tuple(layer) for layer in first.new_zeros(shape)]
        self.rows, self.length = rows, length

    def part(self, rows: slice, length: int, positions: Tensor) -> Part:
        """What a pass over `rows` writes at `positions` [rows, tokens], and reads: the first `length` slots."""
        return Part(self, rows, length, positions)

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for keys, values in self.layers:
            keys[target].copy_(keys[source])
            values[target].copy_(values[source])


class Part:
    """The rows and slots that one pass through the model works on: what attention modules call `past_key_values`."""

    def __init__(self, cache: Cache, rows: slice, length: int, positions: Tensor):
        self.cache, self.rows, self.length = cache, rows, length
        owners = torch.arange(positions.shape[0], device=positions.device)
        self.slots = owners[:, None], slice(None), positions  # of new tokens, in a layer's rows: [rows, tokens]

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Write new keys and values [rows, kv heads, tokens, head dim]; returns all that the tokens may see."""
        keys, values = (tensor[self.rows] for tensor in self.cache.layers[layer_idx])
        keys[self.slots] = key.transpose(1, 2)
        values[self.slots] = value.transpose(1, 2)
        return keys[:, :, : self.length], values[:, :, : self.length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Slots that are read; where a token stands is said by its position alone."""
        return self.length


def hidden_states(
    model: PreTrainedModel,
    ids: Tensor,
    positions: Tensor,
    key_positions: Tensor,
    past: Part | None = None,
) -> Tensor:
    """The last hidden states [rows, tokens, hidden] of ids [rows, tokens] at `positions` in their texts.

    key_positions   [rows or 1, keys] of what attention reads: these tokens themselves, or the slots of `past`
    """
    distance = positions[:, :, None] - key_positions[:, None]
    output = model.base_model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=_masks(model.config, distance >= 0, distance),
        past_key_values=past,
        use_cache=past is not None,
    )
    return output.last_hidden_state


def _masks(config: PretrainedConfig, allowed: Tensor, distance: Tensor) -> Tensor | dict[str, Tensor]:
    """The mask [rows, 1, tokens, keys] as each family takes it: one, or one for each kind of layer."""
    window = getattr(config, "sliding_window", None)
    if window is None:
        return allowed[:, None]
    near = (allowed & (distance < window))[:, None]
    if config.model_type == "mistral":  # every layer has the window
        return near
    return {"full_attention": allowed[:, None], "sliding_attention": near}
