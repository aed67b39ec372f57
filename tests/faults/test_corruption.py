"""A thousand damaged checkpoints and adapters: none loads unnoticed, none ends in a traceback, none runs anything."""

import pickle
import random
import shutil
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

import maple
from maple import checkpoint
from maple.errors import InputError, InputWarning
from maple.lora import lora_parameters
from tests.conftest import SEED
from tests.faults.conftest import adapter

CHECKPOINTS, ADAPTERS = 700, 300


class Canary:
    """What a pickle runs when it is read."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def flip(rng, path, _):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(rng, path, _):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def lengthen(rng, path, _):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 100)))


def zero_a_page(rng, path, _):
    """What a lost write leaves."""
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    content[start : start + 4096] = b"\0" * len(content[start : start + 4096])
    path.write_bytes(content)


def swap(rng, path, others):
    """With another file of the folder, or with that of another checkpoint."""
    other = rng.choice([file for file in others if file.read_bytes() != path.read_bytes()])
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


def remove(rng, path, _):
    path.unlink()


def duplicate(rng, path, _):
    shutil.copy(path, path.with_name(f"{path.stem} (copy){path.suffix}"))


def empty(rng, path, _):
    path.write_bytes(b"")


def pickled(rng, path, _):
    path.write_bytes(pickle.dumps(Canary(path.parents[2] / "canary")))


def as_folder(rng, path, _):
    path.unlink()
    path.mkdir()


def elsewhere(rng, path, _):
    """A link to a file that is not there, or that never ends."""
    path.unlink()
    path.symlink_to(rng.choice(["/nowhere", path.name]))


DAMAGES = (
    flip,
    flip,
    flip,
    truncate,
    lengthen,
    zero_a_page,
    swap,
    remove,
    duplicate,
    empty,
    pickled,
    as_folder,
    elsewhere,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return maple.load_model("tiny", rank=2, targets="qv")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A folder of three checkpoints whose adapters and moments differ, and what the last but one holds."""
    folder = tmp_path_factory.mktemp("whole")
    optimizer = torch.optim.AdamW([parameter for _, parameter in lora_parameters(model)])
    for step in (1, 2, 3):
        for _, parameter in lora_parameters(model):
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        state = {"step": step, "learning_rates": [step / 10]}
        checkpoint.write(folder, model, optimizer, "alpaca", state, {"config": {"rank": 2}})
    return folder


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def restored(found, model):
    optimizer = torch.optim.AdamW([parameter for _, parameter in lora_parameters(model)])
    with checkpoint.understood(found.path):
        found.restore_adapter(model)
        found.restore_optimizer(model, optimizer)
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    return torch.cat([t.detach().flatten() for t in [*(p for _, p in lora_parameters(model)), *moments]])


def test_damaged_checkpoints(whole, model, tmp_path, tell):
    expected = {path.name: restored(checkpoint.verify(path), model) for path in checkpoint.steps(whole)}
    rng, tried = random.Random(SEED), Counter()
    for number in range(CHECKPOINTS):
        folder = Path(shutil.copytree(whole, tmp_path / f"{number}"))
        damage = rng.choice(DAMAGES)
        path = rng.choice(files(folder / "step-00000003"))
        damage(rng, path, files(folder))
        before = set(checkpoint.steps(folder))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = checkpoint.newest(folder)
        assert found.path.name == "step-00000002" or (damage is swap and found.path.name == "step-00000001"), damage
        assert torch.equal(restored(found, model), expected[found.path.name])
        assert [w.category for w in said] == [InputWarning] * (3 - int(found.path.name[-1]))
        assert "step-00000003" in str(said[0].message) and set(checkpoint.steps(folder)) == before
        assert not list(tmp_path.rglob("canary"))
        tried[damage.__name__] += 1
        shutil.rmtree(folder)
    tell(f"{CHECKPOINTS} damaged checkpoints ({said_of(tried)}): each named, the one before it loaded")


def test_a_renamed_or_copied_checkpoint_is_no_newer_one(whole, model, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "checkpoints"))
    shutil.copytree(folder / "step-00000002", folder / "step-00000009")
    with pytest.warns(InputWarning, match="its manifest is that of step 2; the folder was renamed"):
        assert checkpoint.newest(folder).path.name == "step-00000003"


def test_when_all_are_damaged_each_is_named(whole, tmp_path):
    folder = Path(shutil.copytree(whole, tmp_path / "checkpoints"))
    for path in checkpoint.steps(folder):
        (path / "state.json").write_bytes(b"{}")
    with pytest.raises(InputError, match=r"none in .* is whole: .*0003.*0002.*0001"):
        checkpoint.newest(folder)


def test_damaged_adapters(model, whole, tmp_path, tell):
    rng, tried = random.Random(SEED), Counter()
    maple.save_adapter(model, tmp_path / "whole", "alpaca")
    start = [parameter.clone() for _, parameter in lora_parameters(model)]
    for number in range(ADAPTERS):
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "a" / f"{number}"))
        damage = rng.choice([d for d in DAMAGES if d is not duplicate])  # a file beside an adapter is no part of it
        path = rng.choice(files(folder))
        damage(rng, path, files(folder))
        if damage is remove and path.name == "SHA256SUMS":
            with pytest.warns(InputWarning, match="SHA256SUMS is missing"):
                maple.load_adapter(model, folder)
        else:
            with pytest.raises(InputError) as error:
                maple.load_adapter(model, folder)
            assert "\n" not in str(error.value)
        assert all(torch.equal(a, b) for a, (_, b) in zip(start, lora_parameters(model), strict=True))
        assert not list(tmp_path.rglob("canary"))
        tried[damage.__name__] += 1
        shutil.rmtree(folder)
    tell(f"{ADAPTERS} damaged adapters ({said_of(tried)}): each refused or, without SHA256SUMS, warned of")


def said_of(tried):
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in tried.most_common())


@pytest.fixture(scope="module")
def stopped(world, begin):
    """A run that was killed at its fourth step."""
    child = begin("stopped")
    child.kill_in_a_write(world / "stopped" / "checkpoints", number=3, delay=0.01)
    child.wait()
    return world / "stopped"


@pytest.mark.parametrize("attempt", range(8))
def test_the_command_over_damaged_files_ends_in_the_same_bytes_or_in_one_sentence(
    world, begin, stopped, undisturbed, attempt
):
    rng = random.Random(SEED + attempt)
    run = Path(shutil.copytree(stopped, world / f"damaged-{attempt}"))
    paths = [path for path in files(run) if path.name != ".lock"]
    path = rng.choice(paths)
    rng.choice(DAMAGES)(rng, path, paths)
    child = begin(run.name, "--resume")
    code, said = child.wait(), child.log.read_text()
    assert "Traceback" not in said and code in (0, 2), said
    if code == 0:
        assert adapter(run) == undisturbed[0]
    else:
        assert said.splitlines()[-1].startswith("error: ")
