"""What an adapter or a merged model says of itself: its base, in how many bits, and the prompt template it learned.

    adapter_config.json         base_model_name_or_path and revision, as PEFT has them
    adapter_model.safetensors   `maple` in the header's metadata: bits, block_size, double_quant, template
    config.json                 of a merged model: `maple` with all of these

It is read without torch, so that a wrong --adapter or --model is told at once.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from safetensors import SafetensorError, safe_open

from maple.choices import Bits, BlockSize, Template
from maple.errors import InputError, InputWarning, first_line, shown
from maple.hub import check_model_name, looks_like_folder, model_folder
from maple.jsonfile import parse_object, read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ALLOWED = {
    "bits": get_args(Bits),
    "block_size": get_args(BlockSize),
    "double_quant": (True, False),
    "template": get_args(Template),
}


@dataclass(frozen=True)
class Origin:
    """The base to load, and what is said of how it was used; None is what nobody says."""

    model: str
    folder: Path  # of its small files; its weights may not be there yet
    revision: str | None = None
    stored_bits: int = 16  # 4 or 8 in a checkpoint of bitsandbytes
    bits: int | None = None
    block_size: int = 64
    double_quant: bool = True
    template: str | None = None

    @property
    def base_bits(self) -> int:
        """The bits that an adapter was trained on; where it does not say, those of the checkpoint."""
        return self.bits or self.stored_bits

    def load_arguments(self, bits: int) -> dict:
        """What `load_model` takes to make this base in `bits` bits."""
        settings = {"block_size": self.block_size, "double_quant": self.double_quant}
        return {"name_or_path": self.model, "revision": self.revision, "bits": bits, **settings}


def find_origin(model: str | None, adapter: str | None, revision: str | None = None) -> Origin:
    """What `--model` and `--adapter` amount to; either may be absent where the other says enough.

    revision   of a hub id that no adapter is for: an adapter names the commit that it was trained on

    Raises InputError for a folder that is no adapter or no model, and for an adapter that names another base.
    """
    if model is None and adapter is None:
        raise InputError("give --model, or an --adapter that names its base")
    if model is not None and revision is not None:
        check_model_name(model, revision)
    said = {}
    if adapter is not None:
        folder = check_adapter(adapter)
        said = adapter_origin(folder)
        named, named_revision = _named_base(folder / CONFIG)
        model = model or _base_that_is_there(named, adapter)
        check_model_name(model)
        if named and not _same(model, named):
            raise InputError(
                f"--adapter {adapter} is for the base {named}, --model is {model}; if they are the same, write the "
                f"latter as base_model_name_or_path into {CONFIG}"
            )
        revision = revision or (named_revision if model == named else None)
    folder = model_folder(model, revision, weights=False)
    merged, stored_bits = _read_model_config(folder / "config.json")
    if adapter is None:
        said = {"template": merged.get("template")}  # its other settings are those of the base it was made from
    known = {name: said[name] for name in ALLOWED if said.get(name) is not None}
    return Origin(model, folder, revision, stored_bits, **known)


def choose_template(template: str | None, origin: Origin, adapter: str | None) -> str:
    """The flag, else what is said of the training; an adapter of which nothing is said needs the flag.

    It would answer in any template, only worse in the wrong one, so none is assumed.
    """
    if template is None and adapter is not None and origin.template is None:
        raise InputError(
            f"--adapter {adapter} does not say which prompt template it was trained with; give --template alpaca, "
            "bactrian, chat or plain"
        )
    if template and origin.template and template != origin.template:
        message = f"--template {template}, but it was trained with {origin.template}, which it will answer better"
        warnings.warn(message, InputWarning, stacklevel=2)
    return template or origin.template or "plain"


def choose_bits(bits: int | None, origin: Origin) -> int:
    """The flag, else those of the training."""
    if bits and origin.bits and bits != origin.bits:
        message = f"--bits {bits}, but the adapter was trained on {origin.bits} bits, whose errors it has learned"
        warnings.warn(message, InputWarning, stacklevel=2)
    return bits or origin.base_bits


def _base_that_is_there(named: str | None, adapter: str) -> str:
    if named is None:
        raise InputError(f"--adapter {adapter}: its {CONFIG} names no base; give it as --model")
    try:
        check_model_name(named)
    except InputError as error:
        raise InputError(f"--adapter {adapter}: its base {named} is not there; give it as --model") from error
    return named


def check_adapter(adapter: str) -> Path:
    """The folder of an adapter; raises InputError where it holds none."""
    folder = Path(os.path.expanduser(adapter))
    if not os.path.isdir(folder):
        raise InputError(f"--adapter {adapter}: there is no such folder")
    if not (folder / CONFIG).is_file():
        inside = "; did you mean its folder adapter/?" if (folder / "adapter" / CONFIG).is_file() else ""
        raise InputError(f"--adapter {adapter}: the folder has no {CONFIG}, so it holds no adapter{inside}")
    return folder


def adapter_origin(folder: str | Path) -> dict:
    """What our own metadata says of an adapter: model, revision, bits, ..., template; empty for PEFT's own adapters."""
    path = Path(folder) / WEIGHTS
    with open_weights(path, "np") as file:
        text = (file.metadata() or {}).get("maple", "{}")
    return _checked(parse_object(text, f"{path}: maple's metadata"), path)


def open_weights(path: Path, framework: str):
    """An adapter's safetensors file, for "np" without torch. Raises InputError where it is missing or broken."""
    try:
        return safe_open(path, framework=framework)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: the folder holds no adapter weights in safetensors") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({first_line(error)})") from error


def _read_model_config(path: Path) -> tuple[dict, int]:
    """(what a merged model says of its making, stored bits); ({}, 16) of one that is broken, told where it is built."""
    try:
        config = read_object(path)
        quantization = config.get("quantization_config") or {}
        four = quantization.get("load_in_4bit") or quantization.get("_load_in_4bit")
    except (InputError, AttributeError):
        return {}, 16
    return _checked(config.get("maple", {}), path), (4 if four else 8) if quantization else 16


def _checked(said: object, path: Path) -> dict:
    """`said`, if each value is one that can be used."""
    if not isinstance(said, dict):
        raise InputError(f"{path}: 'maple' is {shown(said)}, not an object")
    for name, allowed in ALLOWED.items():
        # 4.0 and True are equal to 4 and 1, but are no bits
        if said.get(name) is not None and (type(said[name]), said[name]) not in [(type(a), a) for a in allowed]:
            raise InputError(f"{path}: under 'maple' {name} is {shown(said[name])}; known: {allowed}")
    return said


def _named_base(path: Path) -> tuple[str | None, str | None]:
    """(base, revision) as adapter_config.json has them."""
    config = read_object(path)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str | None) or not isinstance(revision, str | None) or "\0" in (base or ""):
        raise InputError(
            f"{path}: base_model_name_or_path is {shown(base)} and revision {shown(revision)}; names are needed"
        )
    return base or None, revision or None


def _same(one: str, other: str) -> bool:
    """Whether two names can mean one model: a folder may have moved, and a hub id may have become a folder.

    Their last parts are the same, or one is a hub id and the other a folder of its copy in the hub's cache.
    """
    ends = [os.path.basename(os.path.realpath(os.path.expanduser(name))) for name in (one, other)]
    if ends[0] == ends[1]:
        return True
    pairs = ((one, other), (other, one))
    return any(f"models--{a.replace('/', '--')}" in Path(b).parts for a, b in pairs if not looks_like_folder(a))
