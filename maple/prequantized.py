"""Weights that bitsandbytes has quantised, read bit for bit from the keys it writes (its nn/modules.py, 0.50).

NF4     X.weight uint8, X.weight.absmax, X.weight.quant_map, X.weight.quant_state.bitsandbytes__nf4 (JSON as uint8),
        and when double-quantised X.weight.nested_absmax and X.weight.nested_quant_map
int8    X.weight int8, X.SCB, X.weight_format
"""

from __future__ import annotations

import torch

from kernels import Int8Weight, NF4Weight
from kernels.naive import NF4_VALUES
from kernels.packed import NESTED_BLOCK_SIZE
from maple.ahead import give_back
from maple.errors import InputError, first_line, shown
from maple.jsonfile import parse_object
from maple.shards import Shards

NF4_STATE = "quant_state.bitsandbytes__nf4"
FP4_STATE = "quant_state.bitsandbytes__fp4"
NF4_KEYS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", NF4_STATE)
LARGEST_STATE = 4096  # bytes; bitsandbytes writes some 150 of them, and no more for a larger weight


def check_quantization_config(config: dict, bits: int, where: str) -> bool:
    """Whether a config.json announces a bitsandbytes checkpoint; raises InputError for one that cannot be loaded."""
    quantization = config.get("quantization_config")
    if not quantization:
        return False
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if method != "bitsandbytes":
        raise InputError(
            f"{where}: quantised by {shown(method)}; only bitsandbytes NF4 and int8 checkpoints can be loaded"
        )
    four = quantization.get("load_in_4bit") or quantization.get("_load_in_4bit")
    if four and quantization.get("bnb_4bit_quant_type", "fp4") == "fp4":
        raise InputError(f"{where}: an FP4 checkpoint; FP4 is not supported, only NF4: take the 16-bit model")
    stored = 4 if four else 8
    if bits != stored:
        raise InputError(f"{where}: the checkpoint is quantised to {stored} bits already; use --bits {stored}")
    return True


def keys_of(shards: Shards, path: str) -> list[str]:
    """The keys beside `path.weight` that belong to its packed form, none for a plain weight."""
    if f"{path}.weight.{FP4_STATE}" in shards:
        raise InputError(f"{shards.where(f'{path}.weight')} is FP4, which is not supported, only NF4")
    candidates = [f"{path}.weight.{key}" for key in NF4_KEYS] + [f"{path}.SCB", f"{path}.weight_format"]
    return [key for key in candidates if key in shards]


def read(shards: Shards, path: str, shape: tuple[int, int], device: torch.device) -> NF4Weight | Int8Weight:
    """The packed weight of the linear layer at `path`, of the shape [out, in] that the model expects."""
    where = shards.where(f"{path}.weight")

    def tensor(key: str) -> torch.Tensor:
        if f"{path}.{key}" not in shards:
            raise InputError(f"{where}: {key} is missing beside it")
        mapped = shards.get(f"{path}.{key}")
        held = mapped.to(device, copy=True)
        give_back(mapped)
        return held

    try:
        if f"{path}.SCB" in shards:
            if f"{path}.weight_format" in shards and int(tensor("weight_format")) != 0:
                raise InputError(f"{where} is int8 in a layout for one GPU generation; only row-major can be loaded")
            weight = Int8Weight(tensor("weight"), tensor("SCB").view(-1))
        else:
            weight = _read_nf4(tensor, where)
    except (ValueError, KeyError, TypeError, OverflowError, RuntimeError) as error:  # parts that are not as they say
        raise InputError(f"{where}: {first_line(error)}") from error
    for name, part in weight.tensors().items():
        if part.is_floating_point() and not part.isfinite().all():
            raise InputError(f"{where}: its {name} holds NaN or inf")
    if weight.shape != tuple(shape):
        raise InputError(f"{where} is packed from {list(weight.shape)}, the model has {list(shape)} there")
    return weight


def _read_nf4(tensor, where: str) -> NF4Weight:
    stored = tensor(f"weight.{NF4_STATE}")
    if stored.dtype != torch.uint8 or stored.numel() > LARGEST_STATE:
        raise InputError(f"{where}: its {NF4_STATE} is {stored.numel()} of {stored.dtype}, not some JSON in bytes")
    state = parse_object(bytes(stored.flatten().tolist()), f"{where}: its {NF4_STATE}")
    if not torch.equal(tensor("weight.quant_map").cpu(), torch.tensor(NF4_VALUES)):
        raise InputError(f"{where}: its quant_map is not that of NF4")
    whole = [*state["shape"], state["blocksize"]]
    if not all(type(number) is int for number in whole):
        raise InputError(f"{where}: its shape and blocksize are {shown(whole)}; whole numbers are needed")
    # quant_storage may be a wider dtype, which is a view of the same bytes
    codes = tensor("weight").view(-1).view(torch.uint8)
    nested = {}
    if "nested_offset" in state:
        if state["nested_blocksize"] != NESTED_BLOCK_SIZE:
            raise InputError(
                f"{where}: nested blocks of {state['nested_blocksize']}; only {NESTED_BLOCK_SIZE} is known"
            )
        nested = {
            "nested_absmax": tensor("weight.nested_absmax"),
            "nested_map": tensor("weight.nested_quant_map"),
            "nested_offset": torch.tensor(float(state["nested_offset"]), dtype=torch.float32, device=codes.device),
        }
    return NF4Weight(codes, tensor("weight.absmax"), tuple(state["shape"]), state["blocksize"], **nested)
