"""A safetensors file written one tensor at a time, from whatever device they lie on, and hashed on the way.

Eight bytes with the length of the header, the header in JSON (for each tensor its dtype, shape and the offsets of its
bytes), and the bytes one after the other. safetensors' own writer would need all tensors in memory at once, and puts
several keys of metadata in random order; here the same tensors always give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from maple.durable import write_file

# the format's names of what we write
DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.uint8: "U8", torch.int8: "I8"}


def write_tensors(
    path: Path,
    shapes: dict[str, list[int]],
    dtype: torch.dtype,
    get: Callable[[str], Tensor],
    metadata: dict[str, str] | None = None,
) -> str:
    """Write the tensors that `get` gives, each [*shapes[name]] of `dtype`; the file's SHA-256."""
    parts = {name: (dtype, shape) for name, shape in shapes.items()}
    head = header(parts, {"format": "pt"} if metadata is None else metadata)
    return write_file(path, chain([head], (bytes_of(get(name)) for name in shapes)))


def header(parts: dict[str, tuple[torch.dtype, list[int]]], metadata: dict[str, str]) -> bytes:
    """What stands before the tensors' bytes: {name: (dtype, shape)} in the order in which they follow."""
    entries, end = {"__metadata__": metadata}, 0
    for name, (dtype, shape) in parts.items():
        start, end = end, end + dtype.itemsize * math.prod(shape)
        entries[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned when the file is mapped
    return len(text).to_bytes(8, "little") + text


def bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's bytes, from whatever device it lies on."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
