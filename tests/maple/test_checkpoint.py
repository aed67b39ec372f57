"""A checkpoint on the disk: what is in it, how many are kept, and what it refuses to be."""

import json
import os
import subprocess

import pytest
import torch
from safetensors.torch import load_file

import maple
from maple import checkpoint, sums
from maple.durable import file_sha256
from maple.errors import InputError
from maple.lora import lora_parameters


def trained(rank=2, targets="qv", steps=1):
    torch.manual_seed(1)
    model = maple.load_model("tiny", rank=rank, targets=targets)
    optimizer = torch.optim.AdamW([parameter for _, parameter in lora_parameters(model)], lr=0.25)
    for _ in range(steps):
        for _, parameter in lora_parameters(model):
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return model, optimizer


def write(folder, step=1, steps=1, **state):
    state = {"step": step, "learning_rates": [0.125]} | state
    return checkpoint.write(folder, *trained(steps=steps), "alpaca", state, {"config": {"rank": 2}})


def test_what_is_in_it(tmp_path):
    path = write(tmp_path)
    found = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    assert found == sorted([*checkpoint.FILES, "manifest.json", "SHA256SUMS"])
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["config"] == {"rank": 2} and manifest["step"] == 1
    assert manifest["trainable"][0] == ["model.layers.0.self_attn.q_proj.lora_a", [2, 128]]
    assert manifest["files"] == {name: file_sha256(path / name) for name in checkpoint.FILES}
    names = load_file(path / "optimizer.safetensors").keys()
    assert {name.partition(".")[0] for name in names} == {"step", "exp_avg", "exp_avg_sq"}
    size = sum(p.stat().st_size for p in path.rglob("*"))
    assert size < 10 * sum(parameter.nbytes for _, parameter in lora_parameters(trained()[0])), "the base is in it"
    for folder in (path, path / "adapter"):
        subprocess.run(["sha256sum", "--check", "--quiet", sums.NAME], cwd=folder, check=True)


def test_the_last_ones_are_kept(tmp_path):
    for step in (0, 5, 10, 15, 20):
        write(tmp_path, step)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-00000010", "step-00000015", "step-00000020"]
    assert len(os.listdir(tmp_path)) == 3


def test_a_later_one_that_is_there_already_pushes_no_earlier_one_out(tmp_path):
    """As after a resume from behind damaged ones."""
    for step in (100, 200, 300, 150):
        write(tmp_path, step)
    assert [int(path.name[5:]) for path in checkpoint.steps(tmp_path)] == [100, 150, 200, 300]


@pytest.mark.parametrize("steps", [0, 3])
def test_adapter_and_optimizer_come_back_bit_for_bit(tmp_path, steps):
    model, optimizer = trained(steps=steps)
    checkpoint.write(tmp_path, model, optimizer, "alpaca", {"step": 1, "learning_rates": [0.125]}, {})
    other, fresh = trained(steps=0)
    found = checkpoint.newest(tmp_path)
    found.restore_adapter(other)
    found.restore_optimizer(other, fresh)
    for (name, one), (_, two) in zip(lora_parameters(model), lora_parameters(other), strict=True):
        assert torch.equal(one, two), name
        for key, value in optimizer.state[one].items():
            assert torch.equal(value, fresh.state[two][key]) and value.dtype == fresh.state[two][key].dtype
        assert fresh.state[two].keys() == optimizer.state[one].keys()
    assert fresh.param_groups[0]["lr"] == 0.125


def test_a_model_that_trains_other_parameters_is_refused(tmp_path):
    write(tmp_path)
    found = checkpoint.newest(tmp_path)
    for other in (trained(rank=4), trained(targets="attention")):
        with pytest.raises(InputError, match=r"it trained other parameters: there .*, now"):
            found.restore_adapter(other[0])


def signed(path, change):
    """A manifest or state that is whole but says something else."""
    for name in ("state.json", "manifest.json"):
        content = json.loads((path / name).read_text())
        change(content, name)
        (path / name).write_text(json.dumps(content))
        if name == "state.json":
            manifest = json.loads((path / "manifest.json").read_text())
            manifest["files"]["state.json"] = file_sha256(path / name)
            (path / "manifest.json").write_text(json.dumps(manifest))
    sums.write_sums(path, {"manifest.json": file_sha256(path / "manifest.json")})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, name: c.update(format=2), "its format is 2, this version reads 1"),
        (lambda c, name: c.update(step=7), "its manifest is that of step 7"),
        (lambda c, name: c.pop("files", 0), "no checkpoint that this version wrote"),
        (lambda c, name: c.update(files=["../../x"]), "no checkpoint that this version wrote"),
        (lambda c, name: c.update(step="../../x"), "no checkpoint that this version wrote"),
    ],
)
def test_one_that_is_whole_but_of_another_making_is_refused(tmp_path, change, words):
    path = write(tmp_path)
    signed(path, change)
    with pytest.raises(InputError, match=words):
        checkpoint.verify(path)


def test_a_state_that_no_run_wrote_is_refused_when_it_is_used(tmp_path):
    path = write(tmp_path)
    signed(path, lambda content, name: content.update(learning_rates="fast"))
    model, optimizer = trained()
    found = checkpoint.verify(path)
    with pytest.raises(InputError, match="no checkpoint that this version wrote"), checkpoint.understood(path):
        found.restore_optimizer(model, optimizer)


def test_a_giant_of_a_file_is_not_read(tmp_path):
    path = write(tmp_path)
    with (path / "SHA256SUMS").open("r+b") as file:
        file.truncate(2**40)  # takes no room: it is a hole
    with pytest.raises(InputError, match="does not hold one hash"):
        checkpoint.verify(path)
