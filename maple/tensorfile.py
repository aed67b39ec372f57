"""A safetensors file written one tensor at a time, from whatever device they lie on, and hashed on the way.

Eight bytes with the length of the header, the header in JSON (for each tensor its dtype, shape and the offsets of its
bytes), and the bytes one after the other. safetensors' own writer would need all tensors in memory at once, and puts
several keys of metadata in random order; here the same tensors always give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from maple.durable import write_file

DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}  # the format's names of what we write


def write_tensors(
    path: Path,
    shapes: dict[str, list[int]],
    dtype: torch.dtype,
    get: Callable[[str], Tensor],
    metadata: dict[str, str] | None = None,
) -> str:
    """Write the tensors that `get` gives, each [*shapes[name]] of `dtype`; the file's SHA-256."""
    return write_file(path, _pieces(shapes, dtype, get, {"format": "pt"} if metadata is None else metadata))


def _pieces(shapes, dtype, get, metadata) -> Iterator[bytes | memoryview]:
    header, end = {"__metadata__": metadata}, 0
    for name, shape in shapes.items():
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned when the file is mapped
    yield len(text).to_bytes(8, "little") + text
    for name in shapes:
        yield get(name).detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
