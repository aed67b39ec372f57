"""A folder of safetensors, read and written one tensor at a time.

One file is `model.safetensors`; several come with `model.safetensors.index.json`, whose `weight_map` names the file of
each tensor. Everything the index says is checked against what lies there before a weight is read.

A file is eight bytes with the length of its header, the header in JSON (for each tensor its dtype, shape and the
offsets of its bytes), and the bytes one after the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maple.errors import InputError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST = 4 * 10**9  # bytes of one file: FAT32 and some mirrors stop at 2^32
HALVES = {torch.bfloat16: "BF16", torch.float16: "F16"}  # the 16-bit dtypes, and the format's names of them

DTYPES = {name: dtype for dtype, name in HALVES.items()}


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
        return DTYPES.get(self._slice(name).get_dtype(), torch.float32)

    def get(self, name: str) -> Tensor:
        """The tensor, mapped from the file: to keep it beyond the file's life, copy it."""
        return self._open[self._file_of[name]].get_tensor(name)

    def _slice(self, name: str):
        return self._open[self._file_of[name]].get_slice(name)


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(name), str(file)) for name, file in weight_map.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a shard index with a weight_map ({type(error).__name__}: {error})") from error
    for name, file in pairs:
        if Path(file).name != file or "\\" in file or file in ("", ".", ".."):
            raise InputError(f"{path}: {name} is said to be in {file!r}, which is not a file of this folder")
        if not (path.parent / file).is_file():
            raise InputError(f"{path}: {name} is said to be in {file}, which is missing; download the model again")
    return dict(pairs)


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
        raise InputError(f"{path}: not a readable safetensors file ({error}); download it again") from error


def _nothing_to_read(folder: Path) -> str:
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
    if pickled:
        return f"{folder}: {pickled[0]} is a pickle, which can run code when it is read; convert it to safetensors"
    return f"{folder}: neither {SINGLE} nor {INDEX} is there"


def write_shards(
    folder: Path, shapes: dict[str, list[int]], dtype: torch.dtype, get: Callable[[str], Tensor], largest: int = LARGEST
) -> None:
    """Write the tensors that `get` gives, each [*shapes[name]] of the 16-bit `dtype`, with never two in memory.

    safetensors' own save_file would need all tensors of a file at once.
    """
    groups = _grouped({name: 2 * math.prod(shape) for name, shape in shapes.items()}, largest)
    count = len(groups)
    files = [SINGLE] if count == 1 else [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    for file, names in zip(files, groups, strict=True):
        _write_file(folder / file, {name: shapes[name] for name in names}, dtype, get)
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


def _write_file(path: Path, shapes: dict[str, list[int]], dtype: torch.dtype, get: Callable[[str], Tensor]) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": HALVES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned when the file is mapped
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in shapes:
            file.write(get(name).contiguous().view(torch.uint8).numpy())
