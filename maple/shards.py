"""A folder of safetensors, read and written one tensor at a time.

One file is `model.safetensors`; several come with `model.safetensors.index.json`, whose `weight_map` names the file of
each tensor. Everything the index says is checked against what lies there before a weight is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maple.errors import InputError, first_line, shown
from maple.jsonfile import read_object
from maple.tensorfile import DTYPES, write_tensors

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST = 4 * 10**9  # bytes of one file: FAT32 and some mirrors stop at 2^32
HALVES = (torch.bfloat16, torch.float16)
FIRST = 1024  # numbers of a tensor in a fingerprint: a page or two of the file


class Shards:
    """The tensors of a model folder by name; `get` maps one from its file without reading the others."""

    def __init__(self, folder: Path):
        self.folder = folder
        if (folder / INDEX).is_file():
            claimed = _read_index(folder / INDEX)
            files = sorted(set(claimed.values()))
        elif (folder / SINGLE).is_file():
            claimed, files = None, [SINGLE]
        else:
            raise InputError(_nothing_to_read(folder))
        self._open = {file: _open(folder / file) for file in files}
        self._file_of = {name: file for file in files for name in self._open[file].keys()}  # noqa: SIM118
        if claimed is not None:
            _compare(folder / INDEX, claimed, self._file_of)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    @property
    def names(self) -> set[str]:
        """All tensors."""
        return set(self._file_of)

    def where(self, name: str) -> str:
        """File and tensor, for a message."""
        return f"{self.folder / self._file_of[name]}: tensor {name}"

    def shape(self, name: str) -> list[int]:
        """The shape that the file's header states."""
        return self._slice(name).get_shape()

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that the file's header states; float32 for one that no weight may be in."""
        names = {name: dtype for dtype, name in DTYPES.items()}
        return names.get(self._slice(name).get_dtype(), torch.float32)

    def nbytes(self, name: str) -> int:
        """Bytes of the tensor as the file's header states its shape and dtype."""
        return math.prod(self.shape(name)) * self.dtype(name).itemsize

    def get(self, name: str) -> Tensor:
        """The tensor, mapped from the file: to keep it beyond the file's life, copy it."""
        try:
            return self._open[self._file_of[name]].get_tensor(name)
        except Exception as error:  # a dtype of the format that this PyTorch does not know
            raise InputError(f"{self.where(name)} cannot be read ({first_line(error)})") from error

    def fingerprint(self) -> str:
        """A hash that tells two models apart without reading them: names, dtypes, shapes, each tensor's first numbers.

        All weights of a model move when it is trained, so those few show whether it is still the same.
        """
        digest = hashlib.sha256()
        for name in sorted(self.names):
            tensor = self.get(name)
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
            digest.update(tensor.flatten()[:FIRST].view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def stamps(self) -> list[tuple[str, int, int]]:
        """Name, size and time of the last change of each file, in their order."""
        found = [(file, (self.folder / file).stat()) for file in self._open]
        return [(file, stat.st_size, stat.st_mtime_ns) for file, stat in found]

    def _slice(self, name: str):
        return self._open[self._file_of[name]].get_slice(name)


def announced_bytes(folder: Path) -> int:
    """Bytes of all tensors as the index says, before they are downloaded; 0 where it does not."""
    metadata = read_object(folder / INDEX).get("metadata") if (folder / INDEX).is_file() else None
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return int(size) if isinstance(size, int | float) and 0 <= size < 2**63 else 0


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise InputError(f"{path}: not a shard index, which has a weight_map from tensors to files")
    for file, name in sorted({file: name for name, file in weight_map.items()}.items()):
        if Path(file).name != file or "\\" in file or file in ("", ".", ".."):
            raise InputError(f"{path}: {name} is said to be in {shown(file)}, which is not a file of this folder")
        if not os.path.isfile(path.parent / file):  # unlike Path's, it answers for a name of any length and characters
            raise InputError(f"{path}: {name} is said to be in {file}, which is missing; download the model again")
    return weight_map


def _compare(path: Path, claimed: dict[str, str], found: dict[str, str]) -> None:
    for name in sorted({*claimed, *found}):
        if claimed.get(name) != found.get(name):
            raise InputError(
                f"{path}: tensor {name} is in {found.get(name, 'no file')} but the index says "
                f"{claimed.get(name, 'nothing of it')}; download the model again"
            )


def _open(path: Path):
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                raise InputError(f"{path}: a pointer of git-lfs, not the file itself; git lfs pull") from error
        raise InputError(f"{path}: not a readable safetensors file ({first_line(error)}); download it again") from error


def _nothing_to_read(folder: Path) -> str:
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    if pickled:
        return f"{folder}: {pickled[0]} is a pickle, which can run code when it is read; convert it to safetensors"
    return f"{folder}: neither {SINGLE} nor {INDEX} is there"


def write_shards(
    folder: Path, shapes: dict[str, list[int]], dtype: torch.dtype, get: Callable[[str], Tensor], largest: int = LARGEST
) -> None:
    """Write the tensors that `get` gives, each [*shapes[name]] of the 16-bit `dtype`, with never two in memory."""
    groups = _grouped({name: 2 * math.prod(shape) for name, shape in shapes.items()}, largest)
    count = len(groups)
    files = [SINGLE] if count == 1 else [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    for file, names in zip(files, groups, strict=True):
        write_tensors(folder / file, {name: shapes[name] for name in names}, dtype, get)
    if count > 1:
        total = sum(2 * math.prod(shape) for shape in shapes.values())
        weight_map = {name: file for file, names in zip(files, groups, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _grouped(sizes: dict[str, int], largest: int) -> list[list[str]]:
    """Names in their order, in groups of at most `largest` bytes; a tensor that is larger stands alone."""
    groups, filled = [[]], 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > largest:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups
