"""The packed copy: the same model from it, and nothing that happens to it harms a run."""

import itertools
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kernels
import maple
from maple import packed_copy
from maple.ahead import Stream
from maple.errors import InputError, InputWarning
from maple.lock import locked
from maple.lora import linear_layers
from maple.packed_copy import FILE, PackedCopy, cache_root
from maple.shards import Shards
from maple.sums import NAME as SUMS
from tests.faults.test_full_disk import FullDisk
from tests.maple.test_model import rewrite, saved


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small checkpoint that is worth a copy, and a cache of its own."""
    monkeypatch.setattr(packed_copy, "WORTH", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    saved(tmp_path / "model", dtype=torch.bfloat16, num_hidden_layers=1)
    return tmp_path / "model"


def load(folder, **settings):
    """The model, and the sentences that were said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", InputWarning)
        model = maple.load_model(str(folder), rank=0, **settings)
    return model, [str(w.message) for w in said if w.category is InputWarning]


def copies():
    return [path for path in cache_root().iterdir() if not path.name.startswith(".")]


def left():
    """Everything in the cache that is no copy."""
    return [path.name for path in cache_root().glob(".*")]


def assert_same(one, other):
    ones, others = (dict(itertools.chain(m.named_parameters(), m.named_buffers())) for m in (one, other))
    assert ones.keys() == others.keys()
    for name, tensor in ones.items():
        assert tensor.dtype == others[name].dtype and torch.equal(tensor, others[name]), name


SETTINGS = [{"bits": 4}, {"bits": 4, "double_quant": False, "block_size": 128}, {"bits": 8}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_model_from_the_copy_is_the_model_from_the_checkpoint(folder, settings, monkeypatch):
    first, said = load(folder, **settings)
    assert not said and len(copies()) == 1 and not left()
    file = load_file(copies()[0] / FILE)  # safetensors' own reader understands it
    parameters = dict(first.named_parameters())
    assert set(file) == {f"{p}.{n}" for p, layer in linear_layers(first).items() for n in layer.packed.tensors()}
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in file.items())
    monkeypatch.setattr(kernels, "quantize", lambda *_, **__: pytest.fail("a weight was packed"))
    taken = []
    monkeypatch.setattr(Stream, "take", lambda self, name, take=Stream.take: taken.append(name) or take(self, name))
    progress = []
    second, said = load(folder, **settings, progress=lambda *counts: progress.append(counts))
    assert not said
    assert_same(first, second)
    # of the checkpoint only what is not packed was read
    assert sorted(taken) == sorted(name for name, _ in first.named_parameters() if name not in file)
    read, total = progress[-1]
    assert read == total == sum(p.nbytes for p in second.parameters())


def test_the_key_is_all_that_the_bytes_depend_on(folder):
    def key(revision=None, **settings):
        settings = {"bits": 4, "block_size": 64, "double_quant": True} | settings
        return PackedCopy(Shards(folder), revision, {"a": (64, 64)}, settings).folder

    keys = [key(), key(revision="main"), key(block_size=128), key(double_quant=False)]
    assert key() == keys[0] and len(set(keys)) == 4
    assert PackedCopy(Shards(folder), None, {"a": (64, 64)}, {"bits": 8}).folder not in keys
    (folder / "model.safetensors").touch()  # a change that the first numbers of a tensor do not show has a time
    keys.append(key())
    rewrite(folder, lambda tensors: tensors["model.layers.0.mlp.up_proj.weight"].neg_())
    assert len({*keys, key()}) == 6


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def swap(copy):
    """The whole copy of another setting, hashes and all."""
    load(copy.parents[3] / "model", bits=4, double_quant=False)
    other = next(path for path in copies() if path != copy)
    shutil.rmtree(copy)
    shutil.copytree(other, copy)


HARM = {
    "a bit": lambda copy: flip(copy / FILE),
    "a bit of the header": lambda copy: (copy / FILE).write_bytes(b"\0" + (copy / FILE).read_bytes()[1:]),
    "shorter": lambda copy: os.truncate(copy / FILE, 5000),
    "longer": lambda copy: (copy / FILE).write_bytes((copy / FILE).read_bytes() + b"x"),
    "empty": lambda copy: os.truncate(copy / FILE, 0),
    "no file": lambda copy: (copy / FILE).unlink(),
    "a folder": lambda copy: (copy / FILE).unlink() or (copy / FILE).mkdir(),
    "no hashes": lambda copy: (copy / SUMS).unlink(),
    "another hash": lambda copy: (copy / SUMS).write_text(f"{'0' * 64}  {FILE}\n"),
    "hashes of noise": lambda copy: (copy / SUMS).write_bytes(b"\xff\0\n"),
    "swapped": swap,
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_damaged_copy_is_named_and_made_again(folder, harm, monkeypatch):
    first, _ = load(folder)
    (copy,) = copies()
    harm(copy)
    second, said = load(folder)
    assert len(said) == 1 and str(copy) in said[0] and said[0].endswith("; the weights are packed again")
    assert "\n" not in said[0]
    assert_same(first, second)
    monkeypatch.setattr(kernels, "quantize", lambda *_, **__: pytest.fail("it was not made again"))
    third, said = load(folder)
    assert not said and not left()
    assert_same(first, third)


@pytest.mark.parametrize("for_good", [True, False], ids=["full for good", "full for one call"])
def test_no_room_at_each_call_in_turn(folder, for_good):
    expected, _ = load(folder)
    shutil.rmtree(cache_root())
    for number in itertools.count(1):
        with FullDisk(number, for_good) as disk:
            model, said = load(folder)
        assert_same(expected, model)
        assert len(said) <= 1 and all("No space left on device" in sentence for sentence in said)
        if disk.calls < number:
            break
        assert for_good or not left()  # where no folder can be opened, none can be removed: the next one sweeps
        again, said = load(folder)
        assert not said and len(copies()) == 1 and not left()
        assert_same(expected, again)
        shutil.rmtree(cache_root())
    assert number > 40


def test_little_room_is_told_before_a_weight_is_read(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    monkeypatch.setattr(Shards, "get", lambda self, name, get=Shards.get: order.append(name) or get(self, name))
    monkeypatch.setattr(Shards, "fingerprint", lambda _: "")
    monkeypatch.setattr(warnings, "warn", lambda message, *_, **__: order.append(message))
    order = []
    maple.load_model(str(folder), rank=0)
    assert "0.00 GiB free, 2 times 0.00 GiB wanted for a packed copy" in order[0] and len(order) > 5
    assert not copies()


def test_a_cache_that_cannot_be_written_is_told_and_stops_nothing(folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    _, said = load(folder)
    assert len(said) == 1 and str(tmp_path / "file") in said[0] and "Not a directory" in said[0]


def test_one_that_is_written_by_somebody_else_is_left_to_it(folder):
    cache_root().mkdir(parents=True)
    with locked(cache_root()):
        _, said = load(folder)
    assert not said and not copies()
    half = cache_root() / ".key.1a2b3c4d.partial"  # a process that was killed
    half.mkdir()
    load(folder)
    assert len(copies()) == 1 and not left()


LOAD = """
import hashlib, sys, torch, maple
from maple import packed_copy
packed_copy.WORTH = 0
print("ready", flush=True)
sys.stdin.readline()
model = maple.load_model(sys.argv[1], rank=0)
digest = hashlib.sha256()
for name, parameter in sorted(model.named_parameters()):
    digest.update(name.encode() + parameter.view(-1).view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


def test_processes_that_start_at_once_all_get_the_model_and_leave_one_copy(folder):
    command = [sys.executable, "-c", LOAD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate() for process in processes]
    assert len({out for out, _ in said}) == 1 and len(said[0][0]) == 65, said
    assert not any("warning" in err.lower() for _, err in said), said
    assert len(copies()) == 1 and not left()


def test_a_load_that_fails_leaves_no_copy(folder):
    rewrite(folder, lambda tensors: tensors["model.layers.0.mlp.up_proj.weight"][3].fill_(float("nan")))
    with pytest.raises(InputError, match="holds nan at row 3"):
        load(folder)
    assert not copies() and not left()


def test_what_is_not_worth_a_copy_gets_none(folder, monkeypatch):
    load(folder, bits=16)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    load(folder)
    load("tiny")
    assert not cache_root().exists()
    assert Path(folder.parent / "cache" / "maple" / "packed") == cache_root()
    assert packed_copy.is_worth({"a": (4096, 4096), "b": (4096, 4096 * 8)}, 4)
