"""No room at any call that writes, one after the other: the checkpoint before it always loads."""

import errno
import itertools
import os
import random
from pathlib import Path

import pytest
import torch

import maple
from maple import checkpoint, durable
from maple.errors import InputError
from maple.lora import lora_parameters
from maple.meters import MetricsFile
from tests.conftest import SEED
from tests.faults.conftest import adapter

CALLS = ("write", "open", "mkdir", "fsync", "rename", "replace")  # of `os`, by which everything is written


class FullDisk:
    """Every call of `os` that writes fails from the n-th on, or the n-th alone."""

    def __init__(self, first: int, for_good: bool):
        self.first, self.for_good, self.calls = first, for_good, 0

    def wrap(self, call):
        def failing(*arguments, **settings):
            self.calls += 1
            if self.calls == self.first or (self.for_good and self.calls > self.first):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **settings)

        return failing

    def __enter__(self):
        self.originals = {name: getattr(os, name) for name in CALLS}
        for name, call in self.originals.items():
            setattr(os, name, self.wrap(call))
        return self

    def __exit__(self, *_):
        for name, call in self.originals.items():
            setattr(os, name, call)


@pytest.fixture
def trained():
    """The embedded model after a step of AdamW."""
    torch.manual_seed(1)
    model = maple.load_model("tiny", rank=2, targets="qv")
    optimizer = torch.optim.AdamW([parameter for _, parameter in lora_parameters(model)])
    for _, parameter in lora_parameters(model):
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


def write(folder, model, optimizer, step):
    return checkpoint.write(folder, model, optimizer, "alpaca", {"step": step}, {"config": {}})


@pytest.mark.parametrize("for_good", [True, False], ids=["full for good", "full for one call"])
def test_no_room_at_each_call_in_turn(tmp_path, trained, tell, for_good):
    for step in (1, 2, 3):
        write(tmp_path, *trained, step)
    kept = {path.name: (path / "optimizer.safetensors").read_bytes() for path in checkpoint.steps(tmp_path)}
    for number in itertools.count(1):
        with FullDisk(number, for_good) as disk:
            try:
                write(tmp_path, *trained, 4)
                done = disk.calls < number
            except InputError as error:
                done = False
                assert "No space left on device" in str(error) and "\n" not in str(error)
            except OSError as error:  # of the folder above, once the checkpoint is in its place
                assert error.errno == errno.ENOSPC
                done = False
        found = checkpoint.newest(tmp_path)
        assert found.manifest["step"] in (3, 4)
        for name, content in kept.items():
            if (tmp_path / name).exists():
                assert (tmp_path / name / "optimizer.safetensors").read_bytes() == content
        assert (tmp_path / "step-00000003").exists()
        durable.sweep(tmp_path)
        if done:
            break
        if (tmp_path / "step-00000004").exists():
            durable.discard(tmp_path / "step-00000004")
    assert number > 50
    tell(f"ENOSPC ({'from then on' if for_good else 'once'}) at each of {number - 1} calls of a checkpoint: none lost")


@pytest.mark.parametrize("attempt", range(4))
def test_a_run_on_a_full_disk_ends_in_one_sentence_and_goes_on_when_there_is_room(world, begin, undisturbed, attempt):
    expected, _ = undisturbed
    run = world / f"full-{attempt}"

    def fill():
        """From the second checkpoint on, at some call of it."""
        original, disk = checkpoint.write, FullDisk(random.Random(SEED + attempt).randrange(1, 150), for_good=True)

        def later(folder, model, optimizer, template, state, identity):
            if state["step"] == 2 * (attempt + 1):
                disk.__enter__()
            return original(folder, model, optimizer, template, state, identity)

        checkpoint.write = later

    child = begin(run.name, before=fill)
    said = child.wait(), child.log.read_text()
    assert said[0] == 2 and "No space left on device" in said[1] and "Traceback" not in said[1]
    child = begin(run.name, "--resume")
    assert child.wait() == 0, child.log.read_text()
    assert adapter(run) == expected


def test_a_sync_that_fails_names_the_file(tmp_path):
    """Where a quota, or a server on the network, first tells of it."""
    metrics = MetricsFile(tmp_path / "metrics.csv", ["en"])
    for sync, name in ((metrics.sync, "metrics.csv"), (lambda: durable.sync_folder(tmp_path), tmp_path.name)):
        with FullDisk(1, for_good=True), pytest.raises(OSError, match="No space left on device.*" + name):
            sync()


def test_metrics_on_a_full_disk_are_an_error_that_names_the_file(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv", ["en"])
    metrics.file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
    with pytest.raises(OSError, match=r"No space left on device.*metrics.csv"):
        metrics.write({"step": 1})
