"""A checkpoint: a folder that is there whole or not at all, and of which every byte is accounted for.

    checkpoints/step-00000012/
        adapter/                as `save_adapter` writes it, so `maple.chat --adapter` takes it
        optimizer.safetensors   exp_avg.<parameter>, exp_avg_sq.<parameter>, step.<parameter> of AdamW
        state.json              where the run stood: counts, place in the data, schedule, random numbers
        manifest.json           what the run is: settings, hashes of its model, data and template, the ordered names and
                                shapes of what is trained, versions, and the SHA-256 of each file above
        SHA256SUMS              the SHA-256 of manifest.json

Nothing of the frozen base is in it, and nothing that unpickles: safetensors and JSON, hashed before they are read.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from maple import ranks, sums
from maple.adapter import adapter_tensors, save_adapter
from maple.durable import discard, file_sha256, whole_folder, write_file
from maple.errors import InputError, InputWarning, first_line, readable
from maple.jsonfile import read_object
from maple.lora import lora_parameters
from maple.origin import CONFIG, WEIGHTS
from maple.sharded import gather, share
from maple.tensorfile import write_tensors

FORMAT = 1
KEPT = 3  # the newest is the one to go on from; the others are for the day that it is damaged
OPTIMIZER, STATE, MANIFEST = "optimizer.safetensors", "state.json", "manifest.json"
FILES = (f"adapter/{CONFIG}", f"adapter/{WEIGHTS}", f"adapter/{sums.NAME}", OPTIMIZER, STATE)


def name_of(step: int) -> str:
    """The folder of a step; names sort as their steps do."""
    return f"step-{step:08d}"


def write(folder: Path, model, optimizer, template: str, state: dict, identity: dict) -> Path:
    """Write the checkpoint of `state["step"]` into `folder` and remove all but the last KEPT; its path.

    Of several processes all must call it, for what they share, and rank 0 writes. Raises InputError where the disk
    refuses; the checkpoints before it are then as they were.
    """
    path = folder / name_of(state["step"])
    tensors = gather(adapter_tensors(model), keep=ranks.is_first())
    moments = gather(_moments(model, optimizer), keep=ranks.is_first())
    if not ranks.is_first():
        return path
    with whole_folder(path) as partial:
        adapter = save_adapter(model, partial / "adapter", template, tensors)
        hashes = {f"adapter/{name}": digest for name, digest in adapter.items()}
        shapes = {name: list(tensor.shape) for name, tensor in moments.items()}
        hashes[OPTIMIZER] = write_tensors(partial / OPTIMIZER, shapes, torch.float32, moments.__getitem__)
        hashes[STATE] = write_file(partial / STATE, [json.dumps(state).encode()])
        manifest = {"format": FORMAT, "step": state["step"], **identity, "trainable": trainable(model), "files": hashes}
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        sums.write_sums(partial, {MANIFEST: write_file(partial / MANIFEST, [text.encode()])})
    for old in [older for older in steps(folder) if older.name <= path.name][:-KEPT]:
        discard(old)
    return path


def steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def trainable(model) -> list[list]:
    """[name, shape] of each trained parameter, in the order in which the optimizer holds them."""
    return [[name, list(parameter.shape)] for name, parameter in lora_parameters(model)]


def _moments(model, optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{key}.{name}": value
        for name, parameter in lora_parameters(model)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


@dataclass(frozen=True)
class Checkpoint:
    """One that was verified: every file has the hash that its manifest says."""

    path: Path
    manifest: dict
    state: dict

    def restore_adapter(self, model) -> None:
        """Copy A and B into the model. Raises InputError where it trains other parameters than the checkpoint."""
        if trainable(model) != self.manifest["trainable"]:
            then, now = self.manifest["trainable"], trainable(model)
            odd = next((pair for pair in zip(then, now, strict=False) if pair[0] != pair[1]), (len(then), len(now)))
            raise InputError(f"{self.path}: it trained other parameters: there {odd[0]}, now {odd[1]}")
        with self._tensors(f"adapter/{WEIGHTS}") as file, torch.no_grad():
            for name, parameter in adapter_tensors(model).items():
                parameter.copy_(share(file.get_tensor(name), parameter))

    def restore_optimizer(self, model, optimizer) -> None:
        """Give AdamW its moments and step counts, and each group its learning rate."""
        state = {}
        with self._tensors(OPTIMIZER) as file:
            stored = set(file.keys())
            for number, (name, parameter) in enumerate(lora_parameters(model)):
                if f"step.{name}" in stored:  # there is none before the first step
                    averages = {key: file.get_tensor(f"{key}.{name}") for key in ("exp_avg", "exp_avg_sq")}
                    state[number] = {key: share(average, parameter) for key, average in averages.items()}
                    state[number]["step"] = file.get_tensor(f"step.{name}")
        groups = optimizer.state_dict()["param_groups"]
        for group, rate in zip(groups, self.state["learning_rates"], strict=True):
            group["lr"] = float(rate)
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _tensors(self, name: str):
        return safe_open(self.path / name, framework="pt")


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """Turn whatever a checkpoint raises that is whole but says what no run wrote into an InputError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        raise InputError(f"{path}: no checkpoint that this version wrote ({first_line(error)})") from error


def newest(folder: Path) -> Checkpoint:
    """The newest checkpoint that is whole; each newer one that is not is named in a warning.

    Raises InputError where there is none.
    """
    reasons = []
    for path in reversed(steps(folder)):
        try:
            checkpoint = verify(path)
        except InputError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            warnings.warn(f"{reason}; going on from {path.name}, the one before it", InputWarning, stacklevel=2)
        return checkpoint
    raise InputError(f"--resume: of the checkpoints none in {folder} is whole: {'; '.join(reasons) or 'it is empty'}")


def verify(path: Path) -> Checkpoint:
    """The checkpoint of a folder. Raises InputError that names what is damaged, missing or too much."""
    with readable(path):
        found = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
        expected = {*FILES, MANIFEST, sums.NAME}
        for what, names in (("is missing", expected - found), ("does not belong there", found - expected)):
            if names:
                raise InputError(f"{path / min(names)} {what}: the checkpoint is damaged")
        sums.check_sums(path, (MANIFEST,))
        manifest = read_object(path / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise InputError(
                f"{path / MANIFEST}: its format is {manifest.get('format')!r}, this version reads {FORMAT}"
            )
        with understood(path):
            if name_of(manifest["step"]) != path.name:
                raise InputError(f"{path}: its manifest is that of step {manifest['step']}; the folder was renamed")
            for name in FILES:
                if file_sha256(path / name) != manifest["files"][name]:
                    raise InputError(f"{path / name}: its SHA-256 is not the one in {MANIFEST}; it is damaged")
        return Checkpoint(path, manifest, read_object(path / STATE))
