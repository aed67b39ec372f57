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
import math
import os
import re
import warnings
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from maple.durable import sync_folder, write_file
from maple.errors import InputError, InputWarning
from maple.lora import LoRALinear, ends_with, linear_layers, lora_layers, match_targets
from maple.origin import CONFIG, WEIGHTS, adapter_origin, open_weights
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


def save_adapter(model: nn.Module, folder: str | Path, template: str | None = None) -> None:
    """Write the LoRA layers of a model to `folder` in PEFT's format; each file appears whole or not at all."""
    layers = lora_layers(model)
    if not layers:
        raise InputError("the model carries no LoRA, so there is no adapter to save; load it with a rank above 0")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    origin = {**getattr(model, "maple", {}), "template": template}
    tensors = {}
    for path, layer in layers.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = layer.lora_a
        tensors[f"{PREFIX}{path}.lora_B.weight"] = layer.lora_b
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    config = json.dumps(_peft_config(model, layers, origin), indent=2) + "\n"
    partial = {name: folder / f"{name}.partial" for name in (CONFIG, WEIGHTS)}
    metadata = {"maple": json.dumps(origin)}
    dtype = layer.lora_a.dtype
    sums = {
        CONFIG: write_file(partial[CONFIG], [config.encode()]),
        WEIGHTS: write_tensors(partial[WEIGHTS], shapes, dtype, tensors.__getitem__, metadata),
    }
    for name, path in partial.items():
        os.replace(path, folder / name)
    write_sums(folder, sums)
    sync_folder(folder)


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
    tensors = _read_tensors(folder / WEIGHTS)
    layers = {}
    for path in targets:
        rank = _pattern(config.get("rank_pattern"), path, config["r"])
        alpha = _pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
        layer = LoRALinear(linear[path], rank, alpha, config.get("lora_dropout", 0.0), config.get("use_rslora", False))
        for name, parameter in (("lora_A", layer.lora_a), ("lora_B", layer.lora_b)):
            key = f"{PREFIX}{path}.{name}.weight"
            if key not in tensors:
                raise InputError(f"{folder / WEIGHTS}: {key} is missing; is the adapter for another base?")
            tensor = tensors.pop(key)
            if tensor.shape != parameter.shape:
                raise InputError(
                    f"{folder / WEIGHTS}: {key} is {list(tensor.shape)}, this model needs {list(parameter.shape)}; "
                    "is the adapter for another base?"
                )
            parameter.data.copy_(tensor)
            if not parameter.isfinite().all():
                raise InputError(f"{folder / WEIGHTS}: {key} holds NaN or inf")
        layers[path] = layer
    if tensors:
        raise InputError(
            f"{folder / WEIGHTS}: {sorted(tensors)[0]} is no LoRA weight of a layer that {CONFIG} targets in this "
            "model; is the adapter for another base?"
        )
    for path, layer in lora_layers(model).items():
        model.set_submodule(path, layer.base)
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


def _read_config(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path} is missing: give the folder of an adapter")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {config.get('peft_type')!r}; only 'LORA' is supported")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise InputError(f"{path}: task_type is {config['task_type']!r}; only 'CAUSAL_LM' is supported")
    if config.get("bias", "none") != "none":
        raise InputError(f"{path}: bias is {config['bias']!r}; trained biases are not supported")
    if config.get("init_lora_weights", True) not in PLAIN_INITS:
        raise InputError(
            f"{path}: init_lora_weights is {config['init_lora_weights']!r}, which changes the base weights"
        )
    for key, value in config.items():
        if key not in HONOURED | DESCRIPTIVE and value:
            raise InputError(f"{path}: {key} is {json.dumps(value)[:80]}, which is not supported")
    _check_numbers(path, config)
    return config


def _check_numbers(path: Path, config: dict) -> None:
    ranks = {"r": config.get("r"), **(config.get("rank_pattern") or {})}
    alphas = {"lora_alpha": config.get("lora_alpha"), **(config.get("alpha_pattern") or {})}
    for key, rank in ranks.items():
        if type(rank) is not int or rank < 1:
            raise InputError(f"{path}: {key} is {rank!r}; a rank is a whole number above 0")
    for key, alpha in alphas.items():
        if type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise InputError(f"{path}: {key} is {alpha!r}; an alpha is a number")
    if not isinstance(config.get("target_modules"), str | list) or not config["target_modules"]:
        raise InputError(f"{path}: target_modules is {config.get('target_modules')!r}; names or a pattern are needed")


def _matched(path: Path, linear: list[str], targets: str | list[str]) -> list[str]:
    """PEFT's rule: a string is a regular expression of the whole path (or all-linear), a list holds ends of paths."""
    if isinstance(targets, str):
        return match_targets(linear, targets) if targets == "all-linear" else _by_pattern(path, linear, targets)
    matched = [module for module in linear if any(ends_with(module, str(name)) for name in targets)]
    for name in targets:
        if not any(ends_with(module, str(name)) for module in matched):
            raise InputError(f"{path}: target_modules names {name!r}, and no linear layer of this model is called so")
    return matched


def _by_pattern(path: Path, linear: list[str], pattern: str) -> list[str]:
    try:
        matched = [module for module in linear if re.fullmatch(pattern, module)]
    except re.error as error:
        raise InputError(f"{path}: target_modules is no regular expression ({error})") from error
    if not matched:
        raise InputError(f"{path}: target_modules {pattern!r} matches no linear layer of this model")
    return matched


def _pattern(patterns: dict | None, path: str, default):
    """PEFT's rule (get_pattern_key): the first key that is a regular expression of the end of the path."""
    for key, value in (patterns or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", path):
                return value
        except re.error as error:
            raise InputError(f"{CONFIG}: the pattern {key!r} is no regular expression ({error})") from error
    return default


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_weights(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
