"""Hub id or folder -> a frozen model in 4, 8 or 16 bits that carries LoRA.

The model is built without memory (on the meta device), every key and shape is compared with what the files hold, and
then the tensors come one at a time: a linear layer is packed as it arrives, the rest stays in 16 bits. At no time is
there more in memory than the packed model, its 16-bit rest and the mapped pages of two tensors, of which one is being
read. The packed layers of a large model come from the copy that an earlier start has kept.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from kernels import Weight
from maple import packed_copy, prequantized
from maple.blocks import replace_blocks
from maple.errors import InputError, InputWarning, first_line, nearest, shown
from maple.hub import commit_of, model_folder
from maple.jsonfile import read_object
from maple.lora import adapt, add_lora, match_targets
from maple.packed_copy import Damaged, PackedCopy
from maple.quantized import Embedding16, QuantizedLinear
from maple.sharded import Sharding
from maple.shards import Shards
from maple.weights import Progress, Weights, packing

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # decoders whose loss needs nothing but hidden states and lm_head
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # what a mixture of experts calls their number
# What each size in config.json can be: transformers would build lists of them before anything is compared with the
# files. The largest of today's dense models have 126 layers and a vocabulary of 262,144.
SIZES = {
    "num_hidden_layers": (1, 2**10),
    "max_position_embeddings": (2, 2**31),
    "num_labels": (0, 2**16),
    **dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size", "head_dim"), (1, 2**24)),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), (1, 2**24)),
}
LARGEST_BUFFER = 2**20  # numbers; rotary frequencies are half of head_dim
LAYER = re.compile(r"model\.layers\.\d+")  # the path of a decoder layer, in every family
Filled = Callable[[str], None]  # told the path of a decoder layer that is complete
RECOMPUTED = "rotary_emb.inv_freq"  # stored by early Llama checkpoints; every version computes it from the config


def load_model(
    name_or_path: str,
    bits: int = 4,
    rank: int = 32,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str = "all-linear",
    block_size: int = 64,
    double_quant: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    rslora: bool = False,
    revision: str | None = None,
    progress: Progress | None = None,
    sharding: Sharding | None = None,
) -> PreTrainedModel:
    """A transformers causal LM with frozen linear layers in `bits` bits and LoRA of `rank` beside those of `targets`.

    name_or_path   tiny (embedded), a folder with config.json and safetensors, or a hub id (at `revision`)
    bits           4 (NF4, `block_size`, `double_quant`), 8 (int8 per row), 16 (as the checkpoint stores them)
    rank, alpha    0: no LoRA; alpha None: the rank
    dtype          what the model computes in: float32 on a CPU, bfloat16 elsewhere. lm_head, embeddings and norms stay
                   as the checkpoint has them where that is 16 bits and `dtype` is wider, else they become `dtype`.
    progress       is called with the bytes read so far, and of how many
    sharding       cuts each decoder layer up as soon as it is there, so that no device ever holds the whole model

    Of a large model the packed layers are kept on the disk for the next start (`packed_copy.py`).

    Raises InputError for anything that cannot be loaded, and for a weight that holds NaN or inf.
    """
    if bits not in (4, 8, 16) or rank < 0:
        raise InputError(f"bits is {bits} and rank {rank}; bits are 4, 8 or 16, and a rank is at least 0")
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    folder = model_folder(name_or_path, revision)
    packed = check_config(folder, bits)
    shards = Shards(folder)
    model = build_empty(folder, shards)
    check_keys(model, shards, packed)
    settings = packing(bits, block_size, double_quant)
    commit = commit_of(name_or_path, folder)
    weights = Weights(model, shards, settings, device, dtype, progress)
    # a misspelt target is found before one of them is read
    matched = match_targets(list(weights.shapes), targets) if rank else []

    def shard(layer: str) -> None:
        for path in matched:
            if path.startswith(f"{layer}."):
                adapt(model, path, rank, alpha, dropout, rslora)
        sharding.layer(model.get_submodule(layer))

    filled = shard if sharding else None
    if packed or not packed_copy.is_worth(weights.shapes, bits):
        with weights.from_checkpoint(packed) as (stored, pack):
            fill_model(model, stored, pack, device, dtype, filled)
    else:
        copy = PackedCopy(shards, commit, weights.shapes, settings)
        kept = copy.exists
        taken = kept and _filled_from_copy(model, weights, copy, filled)
        if kept and not taken:
            model = build_empty(folder, shards)  # without what the damaged copy gave
        if not taken:
            with copy.written() as keep, weights.from_checkpoint(packed, keep) as (stored, pack):
                fill_model(model, stored, pack, device, dtype, filled)
    model.maple = {"model": name_or_path, "revision": commit, **settings}
    if sharding:
        sharding.rest(model.base_model)
    elif rank:
        add_lora(model, rank, alpha, dropout, targets, rslora)
    return model.eval()


def _filled_from_copy(model: PreTrainedModel, weights: Weights, copy: PackedCopy, filled: Filled | None) -> bool:
    """Fill a model with the packed layers of an earlier start; False where they turn out to be damaged."""
    try:
        with weights.from_copy(copy) as (stored, pack):
            fill_model(model, stored, pack, weights.device, weights.dtype, filled)
    except Damaged as error:
        warnings.warn(f"{error}; the weights are packed again", InputWarning, stacklevel=3)
        copy.discard()
        return False
    return True


def build_empty(folder: Path, shards: Shards) -> PreTrainedModel:
    """The model of a folder's JSON files on the meta device: modules and shapes, no memory."""
    config = read_config(folder)
    layers, tensors = config.num_hidden_layers, len(shards.names)
    if layers > tensors:  # building it would take for ever
        raise InputError(f"{folder / 'config.json'} has {layers} layers, the files only {tensors} tensors")
    try:
        model = empty_model(config)
    except Exception as error:  # sizes that do not go together fail wherever a module first meets them
        raise InputError(_bad_config(folder, error)) from error
    for name, buffer in model.named_buffers():
        if buffer.numel() > LARGEST_BUFFER:  # the rotary settings hold factors of their own
            raise InputError(f"{folder / 'config.json'}: {name} of the model would hold {buffer.numel()} numbers")
    model.generation_config = _endings(folder, config)
    return model


def _endings(folder: Path, config: PretrainedConfig) -> GenerationConfig:
    """The ids at which a text begins and ends, of generation_config.json or else of the config.

    Its other settings would act on every `generate` unasked: sampling, penalties, stop strings, modes whose code
    lies on the hub.
    """
    names, path = ("bos_token_id", "eos_token_id", "pad_token_id"), folder / "generation_config.json"
    settings = read_object(path) if path.is_file() else {name: getattr(config, name, None) for name in names}
    found = {name: settings.get(name) for name in names}
    for name, value in found.items():
        several = value if isinstance(value, list) and name == "eos_token_id" else [value]
        if not all(token is None or (type(token) is int and 0 <= token < 2**31) for token in several):
            raise InputError(f"{path}: {name} is {shown(value)}; a token id is needed")
    return GenerationConfig(**found)


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model of a config on the meta device, with the attention and the MLP that maple computes with."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", trust_remote_code=False)
        replace_blocks(model)
        return model


def read_config(folder: Path) -> PretrainedConfig:
    """config.json as transformers understands it."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.max_position_embeddings < 2:
            raise ValueError(f"max_position_embeddings is {config.max_position_embeddings}")
    except Exception as error:  # its validators have exceptions of their own
        raise InputError(_bad_config(folder, error)) from error
    return config


def _bad_config(folder: Path, error: Exception) -> str:
    return f"{folder / 'config.json'}: no model can be built from it ({first_line(error)})"


def check_config(folder: Path, bits: int) -> bool:
    """Refuse by name what cannot be loaded; returns whether the checkpoint is a bitsandbytes one."""
    path = folder / "config.json"
    config = read_object(path)
    model_type = config.get("model_type")
    if config.get("auto_map"):
        raise InputError(f"{path}: the model brings its own code (auto_map), and maple never runs a model's code")
    if any(config.get(key) for key in EXPERTS):
        raise InputError(f"{path}: {model_type} is a mixture of experts, which are no linear layers; not supported")
    if model_type not in FAMILIES:
        raise InputError(
            f"{path}: model_type {shown(model_type)} is not supported{nearest(shown(model_type), FAMILIES)}"
        )
    if (activation := config.get("hidden_act") or "silu") != "silu":
        raise InputError(f"{path}: hidden_act is {shown(activation)}; only silu is supported")
    for name, (least, most) in SIZES.items():
        size = config.get(name)  # null and absent mean transformers' own default
        if size is not None and (type(size) is not int or not least <= size <= most):
            raise InputError(f"{path}: {name} is {shown(size)}; a whole number from {least} to {most} is needed")
    return prequantized.check_quantization_config(config, bits, str(path))


def check_keys(model: PreTrainedModel, shards: Shards, packed: bool) -> None:
    """Compare every parameter of the model with the headers of the files, before a weight is read."""
    expected = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    linear = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    head = next(path for path, module in model.named_modules() if module is model.get_output_embeddings())
    if packed and prequantized.keys_of(shards, head):
        raise InputError(f"{shards.where(f'{head}.weight')} is quantised; an output head must be in 16 bits")
    extra = set()
    for path in linear if packed else ():
        keys = prequantized.keys_of(shards, path)
        extra.update(keys)
        if keys:
            del expected[f"{path}.weight"]  # its stored shape is that of the packed bytes; `prequantized` checks it
            extra.add(f"{path}.weight")
    missing = sorted(expected.keys() - shards.names)
    if missing:
        raise InputError(
            f"{shards.folder}: {_listing(missing)} missing; the files do not hold the model of config.json"
        )
    if packed and not extra:
        raise InputError(f"{shards.folder}: config.json says bitsandbytes quantised it, but no layer of it is packed")
    # a tied head may be stored all the same
    unexpected = shards.names - expected.keys() - extra - {f"{head}.weight"}
    unexpected = sorted(name for name in unexpected if not name.endswith(RECOMPUTED))
    if unexpected:
        raise InputError(f"{shards.folder}: {_listing(unexpected)} in the files but not in the model of config.json")
    for name, shape in expected.items():
        if shards.shape(name) != shape:
            raise InputError(f"{shards.where(name)} is {shards.shape(name)}, the model has {shape} there")


def _listing(names: list[str]) -> str:
    return names[0] + (" is" if len(names) == 1 else f" and {len(names) - 1} more are")


def fill_model(
    model: PreTrainedModel,
    stored: Callable[[str], Tensor],
    pack: Callable[[str, tuple[int, int]], Weight],
    device: torch.device,
    dtype: torch.dtype,
    filled: Filled | None = None,
) -> None:
    """Give every module of an empty model its tensors, in the order of the model.

    stored   name of a parameter -> its tensor on `device`: embedding, head, norms, biases
    pack     path and shape of a linear layer -> its weight as the kernels take it
    filled   told the path of each decoder layer as soon as all of it is there
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head.weight is embedding.weight

    def get(name: str) -> nn.Parameter:
        return nn.Parameter(stored(name), requires_grad=False)

    modules = list(model.named_modules())
    for (path, module), (following, _) in zip(modules, [*modules[1:], ("", None)], strict=True):
        if module is embedding:
            model.set_submodule(path, Embedding16(get(f"{path}.weight"), module.padding_idx, dtype))
        elif module is head:  # stays 16-bit; a tied one is the embedding's parameter itself
            weight = model.get_input_embeddings().weight if tied else get(f"{path}.weight")
            model.set_submodule(path, QuantizedLinear(weight, get(f"{path}.bias") if module.bias is not None else None))
        elif isinstance(module, nn.Linear):
            weight = pack(path, (module.out_features, module.in_features))
            model.set_submodule(path, QuantizedLinear(weight, get(f"{path}.bias") if module.bias is not None else None))
        else:
            for name, _ in list(module.named_parameters(recurse=False)):
                module.register_parameter(name, get(f"{path}.{name}"))
            if list(module.buffers(recurse=False)):
                # Rotary frequencies are in no file and became meta tensors with the rest: compute them again.
                module.to_empty(device=device, recurse=False)
                model._init_weights(module)
        if filled and (layer := LAYER.match(path)) and not following.startswith(f"{layer[0]}."):
            filled(layer[0])
