"""What is written is what safetensors reads, and the same tensors give the same bytes."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from maple.durable import file_sha256
from maple.tensorfile import DTYPES, write_tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrices_numbers_and_nothing(tmp_path, dtype):
    tensors = {"w": torch.randn(5, 7), "transposed": torch.randn(3, 4).T, "step": torch.tensor(3.0)}
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()} | {"empty": torch.empty(0, 4, dtype=dtype)}
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    said = {"who": "maple"}
    digests = {write_tensors(tmp_path / name, shapes, dtype, tensors.__getitem__, said) for name in ("one", "two")}
    assert digests == {file_sha256(tmp_path / "one")}
    read = load_file(tmp_path / "one")
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "one", "pt") as file:
        assert file.metadata() == said


def test_no_tensor_at_all(tmp_path):
    write_tensors(tmp_path / "file", {}, torch.float32, {}.__getitem__)
    assert load_file(tmp_path / "file") == {}
