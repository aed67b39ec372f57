"""A resume is exact from every step, and only of the same run."""

import csv
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from maple import cli
from maple.check import check
from maple.checkpoint import steps
from maple.durability import random_state, restore_random
from maple.errors import InputError, InputWarning
from maple.fit import fit
from maple.outputs import own_flags
from tests.tiny_data import write_tiny_data

# 9 steps of 3 micro-batches, over more than one epoch; the last group of an epoch is no whole one
FLAGS = ["--rank", "4", "--dropout", "0.1", "--accumulate", "3", "--batch-tokens", "256", "--max-length", "128"]
FLAGS += ["--max-steps", "9", "--lr", "0.005", "--checkpoint-every", "1", "--device", "cpu"]
TIMED = ("tokens_per_second", "memory_bytes")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data of two languages, and a run over them of which every checkpoint was kept."""
    folder = tmp_path_factory.mktemp("world")
    write_tiny_data(folder / "data", ("en", "sw"), 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr("maple.checkpoint.KEPT", 99)
        torch.set_num_threads(1)
        assert command(folder / "whole", "--data", str(folder / "data"), *FLAGS) == 0
    return folder


def command(out, *flags) -> int:
    with pytest.raises(SystemExit) as leaving:
        cli.main(fit, ["--out", str(out), *flags], under=own_flags)
    return leaving.value.code


def stopped_at(world, folder, step) -> Path:
    """The run as a kill behind that step would have left it."""
    out = Path(shutil.copytree(world / "whole", folder))
    for path in steps(out / "checkpoints")[step + 1 :]:
        shutil.rmtree(path)
    for path in (out / "adapter", out / "summary.json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return out


def rows(out):
    with (out / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in TIMED} for row in csv.DictReader(file)]


@pytest.mark.parametrize("step", range(10))
def test_a_resume_from_every_step_sees_the_same_losses_and_ends_in_the_same_bytes(world, tmp_path, step):
    out = stopped_at(world, tmp_path / "run", step)
    assert command(out, "--resume") == 0
    weights = "adapter/adapter_model.safetensors"
    assert (out / weights).read_bytes() == (world / "whole" / weights).read_bytes()
    assert rows(out) == rows(world / "whole")
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in (out, world / "whole"))
    same = ("steps", "train_loss_first", "train_loss_last", "val_loss_by_language", "exact_match_by_language")
    assert {name: one[name] for name in same} == {name: two[name] for name in same}
    assert (out / "config.yaml").read_text() == (world / "whole" / "config.yaml").read_text()


def test_the_data_go_over_an_epochs_end(world):
    places = [json.loads((path / "state.json").read_text())["place"] for path in steps(world / "whole" / "checkpoints")]
    assert places[0] == [0, -1] and places[-1][0] >= 1


def test_a_run_over_epochs_whose_last_step_has_fewer_micro_batches(world, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(world / "cache"))
    flags = ["--data", str(world / "data"), *FLAGS, "--max-steps", "null", "--epochs", "2", "--accumulate", "4"]
    assert command(tmp_path / "whole", *flags) == 0
    *_, before, last = steps(tmp_path / "whole" / "checkpoints")
    counts = [json.loads((path / "state.json").read_text())["micro_batches"] for path in (before, last)]
    assert 0 < counts[1] - counts[0] < 4
    out = Path(shutil.copytree(tmp_path / "whole", tmp_path / "run"))
    shutil.rmtree(out / "checkpoints" / last.name)
    shutil.rmtree(out / "adapter")
    (out / "summary.json").unlink()
    assert command(out, "--resume") == 0
    weights = "adapter/adapter_model.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert rows(out) == rows(tmp_path / "whole")


def test_a_checkpoint_has_the_same_size_however_far_the_run_is(world):
    sizes = [sum(p.stat().st_size for p in path.rglob("*.*")) for path in steps(world / "whole" / "checkpoints")][1:]
    assert max(sizes) - min(sizes) < 200  # digits of the counts


def test_nothing_of_the_base_is_in_it_and_the_adapter_talks(world, tmp_path):
    from maple.adapter import load_adapter
    from maple.model import load_model

    path = steps(world / "whole" / "checkpoints")[-1]
    load_adapter(load_model("tiny", rank=0), path / "adapter")
    final = (world / "whole" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert (path / "adapter" / "adapter_model.safetensors").read_bytes() == final
    manifest = json.loads((path / "manifest.json").read_text())
    assert len(manifest["trainable"]) == 56 and manifest["config"]["rank"] == 4


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rank", "8"], "rank 4, now 8"),
        (["--bits", "8"], "bits 4, now 8"),
        (["--targets", "qv"], "targets all-linear, now qv"),
        (["--template", "bactrian"], "template alpaca, now bactrian"),
        (["--seed", "3", "--lr", "0.1"], "lr 0.005, now 0.1; seed 0, now 3"),
        (["--max-steps", "20"], "max_steps 9, now 20"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_another_run_is_refused_with_what_differs_side_by_side(world, tmp_path, capsys, flags, words):
    out = stopped_at(world, tmp_path / "run", 4)
    before = sorted(path.name for path in out.rglob("*"))
    assert command(out, "--resume", *flags) == 2
    said = capsys.readouterr().err
    assert re.search(words, said) and "Leave those flags away" in said and said.count("\n") == 1
    assert sorted(path.name for path in out.rglob("*")) == before


def test_data_that_were_changed_since_are_refused(world, tmp_path, capsys):
    data = Path(shutil.copytree(world / "data", tmp_path / "elsewhere"))
    out = stopped_at(world, tmp_path / "run", 8)
    assert command(out, "--resume", "--data", str(data)) == 0, "the same data may lie elsewhere"
    lines = (data / "sw.jsonl").read_text().splitlines(keepends=True)
    (data / "sw.jsonl").write_text("".join([*lines[:-1], lines[0]]))
    out = stopped_at(world, tmp_path / "other", 8)
    assert command(out, "--resume", "--data", str(data)) == 2
    said = capsys.readouterr().err
    assert f"data {world / 'data'}, now {data}" in said and re.search(
        r"the data has SHA-256 \w+, now \w+ in sw\.", said
    )


def test_a_model_of_the_same_shape_but_other_weights_is_refused(world, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    from maple import tiny

    model = Path(shutil.copytree(tiny.BASE, tmp_path / "tiny"))
    out = stopped_at(world, tmp_path / "run", 4)
    assert command(out, "--resume", "--model", str(model)) == 0, "the same model may lie elsewhere"
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] *= 2
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    out = stopped_at(world, tmp_path / "other", 4)
    assert command(out, "--resume", "--model", str(model)) == 2
    assert "the model has SHA-256" in capsys.readouterr().err


def test_other_versions_warn_and_go_on(world, tmp_path, monkeypatch):
    from maple import summary

    out = stopped_at(world, tmp_path / "run", 8)
    now = summary.versions()
    monkeypatch.setattr(summary, "versions", lambda: now | {"torch": "9.9"})
    with pytest.warns(InputWarning, match=r"the run began with torch .*, this is 9\.9"):
        fit(out=str(out), data=str(world / "data"), resume=True, **flags_as_arguments())


def flags_as_arguments():
    import yaml

    pairs = zip(FLAGS[::2], FLAGS[1::2], strict=True)
    return {flag[2:].replace("-", "_"): yaml.safe_load(value) for flag, value in pairs}


def test_flags_that_change_no_number_may_change(world, tmp_path):
    out = stopped_at(world, tmp_path / "run", 7)
    assert command(out, "--resume", "--checkpoint-every", "5", "--recompute", "layer") == 0
    weights = "adapter/adapter_model.safetensors"
    assert (out / weights).read_bytes() == (world / "whole" / weights).read_bytes()


def test_check_looks_at_the_run_that_would_be_resumed(world, tmp_path, capsys):
    out = stopped_at(world, tmp_path / "run", 4)
    with pytest.raises(SystemExit) as leaving:
        cli.main(check, ["--out", str(out), "--resume"], under=own_flags)
    assert leaving.value.code == 0 and f"Checking tiny on {world / 'data'}" in capsys.readouterr().out


def test_nothing_to_resume_is_an_error(world, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for out, words in (
        (tmp_path / "empty", "holds no run, so there is nothing to resume"),
        (tmp_path / "nowhere", "holds no run, so there is nothing to resume"),
        (world / "whole", "is finished, so there is nothing to resume"),
    ):
        assert command(out, "--resume") == 2
        assert words in capsys.readouterr().err
    with pytest.raises(InputError, match="--resume needs --out"):
        fit(resume=True)


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again(world, tmp_path, capsys):
    out = stopped_at(world, tmp_path / "run", 0)
    shutil.rmtree(out / "checkpoints")
    first_rows = (out / "metrics.csv").read_text().splitlines(keepends=True)[:2]
    (out / "metrics.csv").write_text("".join(first_rows))
    assert command(out, "--resume") == 0
    assert "before its first checkpoint, so it begins again" in capsys.readouterr().out
    weights = "adapter/adapter_model.safetensors"
    assert (out / weights).read_bytes() == (world / "whole" / weights).read_bytes()
    assert rows(out) == rows(world / "whole")


def test_a_run_whose_checkpoints_are_gone_does_not_begin_again_unnoticed(world, tmp_path, capsys):
    out = stopped_at(world, tmp_path / "run", 0)
    shutil.rmtree(out / "checkpoints")
    before = (out / "metrics.csv").read_bytes()
    assert command(out, "--resume") == 2
    assert "checkpoints is empty, but metrics.csv beside it shows steps" in capsys.readouterr().err
    assert (out / "metrics.csv").read_bytes() == before


def test_a_stopped_run_is_not_written_over_and_the_way_on_is_told(world, tmp_path, capsys):
    out = stopped_at(world, tmp_path / "run", 2)
    assert command(out) == 2
    assert "is not empty; give a new folder, or --resume to go on with the run in it" in capsys.readouterr().err


def test_every_generator_goes_on_where_it_was():
    def draw():
        return random.random(), np.random.rand(), torch.rand(3).tolist(), np.random.randn(), random.gauss()

    draw()
    state = json.loads(json.dumps(random_state(torch.device("cpu"))))
    expected = draw()
    draw()
    restore_random(state, torch.device("cpu"))
    assert draw() == expected


def test_rows_that_somebody_cut_away_are_missed_with_a_warning(world, tmp_path):
    out = stopped_at(world, tmp_path / "run", 8)
    rows_before = (out / "metrics.csv").read_bytes().splitlines(keepends=True)
    (out / "metrics.csv").write_bytes(b"".join(rows_before[:4])[:-3])
    with pytest.warns(InputWarning, match="metrics.csv has lost rows"):
        fit(out=str(out), data=str(world / "data"), resume=True, **flags_as_arguments())
    assert [row["step"] for row in rows(out)] == ["0", "1", "9", "9"]
