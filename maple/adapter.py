"""Adapters in and out, in the file format of PEFT (its developer guide "checkpoint format"; peft 0.21).

    adapter_model.safetensors   base_model.model.<module path>.lora_A.weight [r, in]
                                base_model.model.<module path>.lora_B.weight [out, r]
    adapter_config.json         r, lora_alpha, use_rslora, target_modules, rank_pattern, alpha_pattern, ...

What the adapter was trained with beyond that (bits, prompt template) stands in the metadata of the safetensors header,
where PEFT and vLLM do not look; `origin.py` reads it. SHA256SUMS beside them has the hash of each: what was changed
since is refused.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from kernels import FLOATS
from maple.durable import write_file
from maple.errors import InputError, InputWarning, first_line, shown
from maple.jsonfile import read_object
from maple.lora import LoRALinear, ends_with, linear_layers, lora_layers, match_targets, remove_lora
from maple.origin import CONFIG, WEIGHTS, adapter_origin, open_weights
from maple.patterns import first_matches
from maple.sums import NAME as SUMS
from maple.sums import check_sums, write_sums
from maple.tensorfile import write_tensors

PREFIX = "base_model.model."

HONOURED = {
    *("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora"),
    *("target_modules", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights"),
}
# Keys that describe, or that act only together with one that is refused below.
DESCRIPTIVE = {
    *("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version", "runtime_config"),
    *("megatron_core", "qalora_group_size", "layers_pattern", "ensure_weight_tying", "corda_config", "eva_config"),
}
# Initialisations that leave the base weights as they were; the others (pissa, olora, corda, loftq, ...) change them, so
# their adapters fit no original base.
PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")
LARGEST_ALPHA = 1e9  # in use are 1 to 1024; what is beyond float32 would make every logit NaN


def adapter_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The A [r, in] and B [out, r] of every LoRA layer by the name that they have in an adapter's file (PEFT's)."""
    tensors = {}
    for path, layer in lora_layers(model).items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = layer.lora_a
        tensors[f"{PREFIX}{path}.lora_B.weight"] = layer.lora_b
    return tensors


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    template: str | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> dict[str, str]:
    """Write the LoRA layers of a model to `folder` in PEFT's format; each file appears whole or not at all.

    tensors   A and B by their names in the file, where the model holds only a share of them

    Returns the SHA-256 of each.
    """
    layers = lora_layers(model)
    if not layers:
        raise InputError("the model carries no LoRA, so there is no adapter to save; load it with a rank above 0")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    origin = {**getattr(model, "maple", {}), "template": template}
    tensors = tensors or adapter_tensors(model)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    config = json.dumps(_peft_config(model, layers, origin), indent=2) + "\n"
    partial = {name: folder / f"{name}.partial" for name in (CONFIG, WEIGHTS)}
    metadata = {"maple": json.dumps(origin)}
    dtype = next(iter(tensors.values())).dtype
    sums = {
        CONFIG: write_file(partial[CONFIG], [config.encode()]),
        WEIGHTS: write_tensors(partial[WEIGHTS], shapes, dtype, tensors.__getitem__, metadata),
    }
    for name, path in partial.items():
        os.replace(path, folder / name)
    sums[SUMS] = write_sums(folder, sums)  # until then the older one refuses what is half replaced
    return sums


def _peft_config(model: nn.Module, layers: dict[str, LoRALinear], origin: dict) -> dict:
    rank, _ = Counter(layer.rank for layer in layers.values()).most_common(1)[0]
    alpha, _ = Counter(layer.alpha for layer in layers.values()).most_common(1)[0]
    first = next(iter(layers.values()))
    # The last parts of the names, as everybody writes them; whole paths where only some layers of a name are adapted.
    targets = sorted({path.rsplit(".", 1)[-1] for path in layers})
    if any(ends_with(path, name) for name in targets for path in linear_layers(model).keys() - layers.keys()):
        targets = sorted(layers)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": origin.get("model"),
        "revision": origin.get("revision"),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": first.dropout,
        "use_rslora": first.rslora,
        "target_modules": targets,
        "rank_pattern": {path: layer.rank for path, layer in layers.items() if layer.rank != rank},
        "alpha_pattern": {path: _whole(layer.alpha) for path, layer in layers.items() if layer.alpha != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
    }


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number


def load_adapter(model: nn.Module, folder: str | Path) -> None:
    """Put the adapter of `folder`, ours or PEFT's, on a model in the place of any LoRA that it carries.

    Raises InputError for a file that is missing or broken, for a key that is missing, unexpected or misshapen, and for
    whatever of PEFT is not supported, by name; the model is then as it was.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    _check_hashes(folder)
    linear = linear_layers(model)
    targets = _matched(folder / CONFIG, list(linear), config["target_modules"])
    ranks = _by_pattern(folder / CONFIG, "rank_pattern", config.get("rank_pattern"), targets, config["r"])
    alphas = _by_pattern(folder / CONFIG, "alpha_pattern", config.get("alpha_pattern"), targets, config["lora_alpha"])
    layers = {}
    with open_weights(folder / WEIGHTS, "pt") as file:
        _check_shapes(folder / WEIGHTS, file, {path: (linear[path], ranks[path]) for path in targets})
        for path in targets:
            dropout, rslora = config.get("lora_dropout") or 0.0, config.get("use_rslora") or False
            layer = layers[path] = LoRALinear(linear[path], ranks[path], alphas[path], dropout, rslora)
            for name, parameter in (("lora_A", layer.lora_a), ("lora_B", layer.lora_b)):
                key = f"{PREFIX}{path}.{name}.weight"
                parameter.data.copy_(_tensor(folder / WEIGHTS, file, key))
                if not parameter.isfinite().all():
                    raise InputError(f"{folder / WEIGHTS}: {key} holds NaN or inf")
    remove_lora(model)
    for path, layer in layers.items():
        model.set_submodule(path, layer.train(model.training))


def _check_hashes(folder: Path) -> None:
    """Raise InputError for an adapter that is not what was written; say so where that cannot be known."""
    if os.path.lexists(folder / SUMS):
        try:
            check_sums(folder, (CONFIG, WEIGHTS))
        except InputError as error:
            remedy = f"if it was changed on purpose, write new hashes: sha256sum {CONFIG} {WEIGHTS} > {SUMS}"
            raise InputError(f"{error}; {remedy}") from error
    elif adapter_origin(folder):
        warnings.warn(f"{folder}: {SUMS} is missing, so nobody can say whether the adapter is whole", InputWarning, 2)


def _check_shapes(weights: Path, file, layers: dict[str, tuple[nn.Module, int]]) -> None:
    """Compare names and shapes in the file's header with the layers and ranks, before anything of a rank is made."""
    unused = set(file.keys())
    for path, (base, rank) in layers.items():
        for name, needed in (("lora_A", [rank, base.in_features]), ("lora_B", [base.out_features, rank])):
            key = f"{PREFIX}{path}.{name}.weight"
            if key not in unused:
                raise InputError(f"{weights}: {key} is missing; is the adapter for another base?")
            unused.remove(key)
            found = file.get_slice(key).get_shape()
            if found != needed:
                raise InputError(
                    f"{weights}: {key} is {found}, this model needs {needed}; is the adapter for another base?"
                )
    if unused:
        raise InputError(
            f"{weights}: {min(unused)} is no LoRA weight of a layer that {CONFIG} targets in this model; is the "
            "adapter for another base?"
        )


def _tensor(weights: Path, file, key: str) -> torch.Tensor:
    try:
        tensor = file.get_tensor(key)
    except Exception as error:  # a dtype of the format that this PyTorch does not know
        raise InputError(f"{weights}: {key} cannot be read ({first_line(error)})") from error
    if tensor.dtype not in FLOATS:
        raise InputError(f"{weights}: {key} is {tensor.dtype}; floats are needed")
    return tensor


def _read_config(path: Path) -> dict:
    """adapter_config.json, each key that acts of the type and range that it can have."""
    config = read_object(path)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {shown(config.get('peft_type'))}; only 'LORA' is supported")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise InputError(f"{path}: task_type is {shown(config['task_type'])}; only 'CAUSAL_LM' is supported")
    if config.get("bias", "none") != "none":
        raise InputError(f"{path}: bias is {shown(config['bias'])}; trained biases are not supported")
    if config.get("init_lora_weights", True) not in PLAIN_INITS:
        raise InputError(
            f"{path}: init_lora_weights is {shown(config['init_lora_weights'])}, which changes the base weights"
        )
    for key, value in config.items():
        if key not in HONOURED | DESCRIPTIVE and value:
            raise InputError(f"{path}: {key} is {shown(value)}, which is not supported")
    _check_values(path, config)
    return config


def _check_values(path: Path, config: dict) -> None:
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key), dict | None):
            raise InputError(f"{path}: {key} is {shown(config[key])}; an object of patterns is needed")
    ranks = {"r": config.get("r"), **(config.get("rank_pattern") or {})}
    alphas = {"lora_alpha": config.get("lora_alpha"), **(config.get("alpha_pattern") or {})}
    for key, rank in ranks.items():
        if type(rank) is not int or rank < 1:
            raise InputError(f"{path}: {key} is {shown(rank)}; a rank is a whole number above 0")
    for key, alpha in alphas.items():
        if type(alpha) not in (int, float) or not abs(alpha) <= LARGEST_ALPHA:  # NaN is not
            raise InputError(f"{path}: {key} is {shown(alpha)}; an alpha is a number, and of {LARGEST_ALPHA:g} at most")
    dropout, rslora, targets = (config.get(key) for key in ("lora_dropout", "use_rslora", "target_modules"))
    if dropout is not None and not (type(dropout) in (int, float) and 0 <= dropout < 1):
        raise InputError(f"{path}: lora_dropout is {shown(dropout)}; a number from 0 to below 1 is needed")
    if not isinstance(rslora, bool | None):
        raise InputError(f"{path}: use_rslora is {shown(rslora)}; true or false is needed")
    names = targets if isinstance(targets, list) else [targets]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path}: target_modules is {shown(targets)}; names or a pattern are needed")


def _matched(path: Path, linear: list[str], targets: str | list[str]) -> list[str]:
    """PEFT's rule: a string is a regular expression of the whole path (or all-linear), a list holds ends of paths."""
    if isinstance(targets, str):
        return match_targets(linear, targets) if targets == "all-linear" else _by_expression(path, linear, targets)
    parts = {module: module.split(".") for module in linear}
    ends = {module: {".".join(names[start:]) for start in range(len(names))} for module, names in parts.items()}
    wanted = set(targets)  # there may be a million of them
    absent = wanted.difference(*ends.values())
    if absent:
        raise InputError(
            f"{path}: target_modules names {shown(min(absent))}, and no linear layer of this model is so called"
        )
    return [module for module in linear if not ends[module].isdisjoint(wanted)]


def _by_expression(path: Path, linear: list[str], pattern: str) -> list[str]:
    found = first_matches([pattern], linear, f"{path}: target_modules")
    matched = [module for module, number in zip(linear, found, strict=True) if number is not None]
    if not matched:
        raise InputError(f"{path}: target_modules {shown(pattern)} matches no linear layer of this model")
    return matched


def _by_pattern(path: Path, key: str, patterns: dict | None, layers: list[str], default) -> dict:
    """PEFT's rule (get_pattern_key): the value of the first key that is a regular expression of the end of a path."""
    values = list((patterns or {}).values())
    found = first_matches(list(patterns or {}), layers, f"{path}: {key}", ends=True)
    return {layer: default if number is None else values[number] for layer, number in zip(layers, found, strict=True)}
