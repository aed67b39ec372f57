"""The folder of a merged model: 16-bit weights by the names of the base, its settings, its tokenizer."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from maple import prequantized
from maple.data.prompts import TEMPLATES, as_chat_template
from maple.errors import InputError
from maple.hub import model_folder
from maple.jsonfile import read_object
from maple.lora import LoRALinear, linear_layers, lora_layers
from maple.model import RECOMPUTED
from maple.origin import Origin
from maple.quantized import QuantizedLinear
from maple.shards import HALVES, Shards, write_shards
from maple.tokenizer import stop_ids

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.jinja")
TOKENIZER_KINDS = (".json", ".model", ".txt", ".jinja")  # and no code, which such a name may hold too


def write_merged(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, origin: Origin, adapter: str, folder: Path
) -> bool:
    """Fill `folder` with a model that plain transformers loads, from a base with its adapter, which stay as they are.

    Returns whether the folder's chat template is the one that the adapter was trained with. Raises InputError where
    the disk is too small or a merged weight too large for 16 bits.
    """
    stored = model.get_input_embeddings().weight.dtype  # the table is never quantised, so it tells the checkpoint's
    dtype = stored if stored in HALVES else torch.bfloat16
    write_weights(model, Shards(model_folder(origin.model, origin.revision)), dtype, folder)
    write_config(origin, adapter, dtype, folder)
    write_generation_config(model, tokenizer, origin, folder)
    return write_tokenizer(tokenizer, origin, folder)


def write_weights(model: PreTrainedModel, shards: Shards, dtype: torch.dtype, folder: Path) -> None:
    """Every tensor of the base by its name in `dtype`, those of linear layers merged, one in memory at a time."""
    layers = {f"{path}.weight": layer for path, layer in linear_layers(model).items()}
    adapted = {f"{path}.weight": layer for path, layer in lora_layers(model).items()}
    packing = {key for name in layers for key in prequantized.keys_of(shards, name.removesuffix(".weight"))}
    names = sorted(name for name in shards.names - packing if not name.endswith(RECOMPUTED))
    shapes = {
        name: [layers[name].out_features, layers[name].in_features] if name in layers else shards.shape(name)
        for name in names
    }

    def get(name: str) -> Tensor:
        tensor = merged_weight(layers[name], adapted.get(name)) if name in layers else shards.get(name)
        rounded = tensor.to(dtype)
        if not rounded.isfinite().all():
            raise InputError(f"{name} holds a value that is too large for {dtype} once it is merged")
        return rounded

    needed, free = sum(2 * math.prod(shape) for shape in shapes.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{folder.parent}: the merged model takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    write_shards(folder, shapes, dtype, get)


def merged_weight(base: QuantizedLinear, lora: LoRALinear | None) -> Tensor:
    """W + scaling * B A [out, in] in float32, W dequantised."""
    weight = base.packed.dequantize(torch.float32) if base.is_packed else base.packed.float()
    return weight if lora is None else weight + lora.scaling * (lora.lora_b @ lora.lora_a)


def write_config(origin: Origin, adapter: str, dtype: torch.dtype, folder: Path) -> None:
    """config.json of the base without its quantisation, and under `maple` what was merged: maple.chat reads it."""
    config = read_object(origin.folder / "config.json")
    config.pop("quantization_config", None)
    config["dtype"] = config["torch_dtype"] = str(dtype).removeprefix("torch.")  # transformers 5's key, and 4's
    config["maple"] = {
        "base": origin.model,
        "revision": origin.revision,
        "adapter": adapter,
        "bits": origin.base_bits,
        "block_size": origin.block_size,
        "double_quant": origin.double_quant,
        "template": origin.template,
    }
    _write(folder / "config.json", config)


def write_generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, origin: Origin, folder: Path
) -> None:
    """generation_config.json of the base; answers end at the EOS that training put behind them, too."""
    path = origin.folder / "generation_config.json"
    settings = read_object(path) if path.is_file() else {"bos_token_id": model.generation_config.bos_token_id}
    stop = stop_ids(model, tokenizer)
    _write(folder / path.name, settings | {"eos_token_id": stop[0] if len(stop) == 1 else stop})


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, origin: Origin, folder: Path) -> bool:
    """The tokenizer's files as they are, but for a chat template that is the one the adapter was trained with.

    Returns whether it is.
    """
    for pattern in TOKENIZER_FILES:
        for path in origin.folder.glob(pattern):
            if path.is_file() and path.suffix in TOKENIZER_KINDS:
                shutil.copyfile(path, folder / path.name)
    if origin.template not in TEMPLATES:
        return origin.template == "chat"
    text = as_chat_template(origin.template, tokenizer)
    if text is None:
        return False
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and "chat_template" in (content := read_object(settings)):  # where older checkpoints have it
        _write(settings, {name: value for name, value in content.items() if name != "chat_template"})
    return True


def _write(path: Path, content: dict) -> None:
    # In ASCII: a name may hold half of a surrogate pair, which UTF-8 cannot.
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
