"""A cell's name, its state, and what its scores depend on."""

import os
import platform
import subprocess
import sys

import pytest

from maple.cells.cell import DONE, SCORING, TRAINING, Cell, State, is_gone, known_as, read_state, scores_folder, slug
from maple.cells.grid import defaults_of, plan
from maple.evaluate import evaluate


def cell(**fit):
    """The trained cell of a study with these flags."""
    return plan({"fit": fit, "grid": {"rank": [fit.pop("rank", 8)]}}, look=False).cells[1]


# Folders of studies that are there carry these names: one that changes makes all of them begin again.
GOLDEN = {
    "tiny.base.4bit-45dcebdf": ({}, 0),
    "tiny.base.16bit-d935a514": ({"bits": 16}, 0),
    "tiny.tiny.r8.4bit.s0-e66ada7c": ({}, 1),
    "tiny.tiny-half.r8.8bit.s3-cd15f3f0": ({"data": "tiny-half", "bits": 8, "seed": 3}, 1),
    "Llama-2-7b-hf.bactrian-x-11.r64.4bit.s0-af3551aa": (
        {"model": "meta-llama/Llama-2-7b-hf", "data": "bactrian-x-11", "rank": 64, "alpha": 16, "rslora": True},
        1,
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_names_are_those_that_they_were(name):
    fit, place = GOLDEN[name]
    assert plan({"fit": fit, "grid": {"rank": [fit.get("rank", 8)]}}, look=False).cells[place].name == name


def test_the_folder_of_scores_is_called_what_it_was():
    assert scores_folder(defaults_of(evaluate)) == "scores-050161c4"
    assert scores_folder(defaults_of(evaluate) | {"limit": 20, "seed": 1}) == "scores-01cc503d"


def test_a_name_depends_on_flags_alone(tmp_path, monkeypatch):
    here = cell(model="../models/mine", data="~/records").name
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "home" / "records").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    assert cell(model="../models/mine", data="~/records").name == here
    assert cell(model="/elsewhere/mine", data="/other/records/").name == here
    assert cell(model="someone/mine", data="records").name != here


def test_a_name_is_the_same_in_another_process():
    script = "from tests.maple.cells.test_cell import cell; print(cell(lr=1e-3, languages='de,en').name)"
    for seed in "12":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert done.stdout == cell(languages="de,en", lr=0.001).name + "\n", done.stderr


OTHERS = {"alpha": 3, "lr": 0.1, "dropout": 0.5, "targets": "qv", "seed": 7, "languages": "de", "template": "bactrian"}
OTHERS |= {"batch_tokens": 2048, "devices": 2, "block_size": 128, "recompute": "layer", "precision": "bf16"}


@pytest.mark.parametrize("flag", OTHERS)
def test_every_flag_that_results_depend_on_is_in_the_name(flag):
    assert cell(**{flag: OTHERS[flag]}).name != cell().name


HOSTILE = [
    "../../../etc/passwd", "..", ".", "...", "/", "//", "", "a/b/../..", ".hidden", "a\0b", "a\nb", "$(reboot)",
    "a b\tc", "x" * 300, "модель/модель", "\u202egnp.exe", "CON", "a:b*c?d", "\x1b[2J", "~", "~root/.ssh", "-rf",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_a_plain_name_in_its_folder(tmp_path, name):
    for one in (cell(model=name), cell(data=name)):
        assert one.folder(tmp_path).parent == tmp_path / "cells"
        assert one.name.isascii() and one.name.isprintable() and not set(one.name) & set(' /\\:*?"<>|$~')
        assert one.name[0] not in ".-" and len(one.name) < 100
        one.folder(tmp_path).mkdir(parents=True)
        assert [path.name for path in (tmp_path / "cells").iterdir()] == [one.name]
        one.folder(tmp_path).rmdir()
    assert list(tmp_path.iterdir()) == [tmp_path / "cells"]


def test_hub_ids_of_one_last_name_are_two_models():
    assert cell(model="one/model").name != cell(model="two/model").name
    assert slug("one/model") == slug("two/model") == "model"
    assert known_as("model", "one/model") == "one/model" and known_as("model", "./one/model/") == "model"


def test_scores_of_more_tasks_and_languages_lie_together():
    flags = defaults_of(evaluate)
    same = [{"tasks": "xnli"}, {"languages": "de,en"}, {"batch_size": 3}, {"devices": 2}]
    other = [{"limit": 5}, {"shots": 1}, {"seed": 1}, {"setting": "mega"}, {"data_dir": "tiny"}, {"max_tokens": 9}]
    assert {scores_folder(flags | one) for one in same} == {scores_folder(flags)}
    assert len({scores_folder(flags | one) for one in [{}, *other]}) == 1 + len(other)
    assert scores_folder(flags | {"data_dir": "/a/tasks"}) == scores_folder(flags | {"data_dir": "tasks/"})


# ------------------------------------------------------------------------------------------------- state.json


def test_a_state_is_kept_from_one_attempt_to_the_next(tmp_path):
    state = State(tmp_path)
    assert state.now == {}
    state.begin(TRAINING)
    state.change(state=TRAINING, step=3, of=8, loss=1.5)
    state.started -= 10
    state.change(step=4)
    assert read_state(tmp_path) == state.now
    again = State(tmp_path)
    again.begin(SCORING)
    again.change(state=DONE)
    now = read_state(tmp_path)
    assert (now["attempts"], now["state"], now["step"], now["loss"], now["error"]) == (2, DONE, 4, 1.5, None)
    assert 10 <= now["seconds"] < 11 and now["where"] == f"process {os.getpid()} on {platform.node()}"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_change_is_due_when_the_last_was_so_long_ago(tmp_path):
    state = State(tmp_path)
    state.begin(TRAINING)
    assert not state.is_due(60) and state.is_due(0)


DAMAGED = [
    *(b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"state": "done", "state": "failed"}'),
    *(b'{"state": %s}' % value for value in (b"5", b"null", b'"a"', b'["done"]', b'"\\u001b[2J"')),
    *(
        b'{"state": "done", "seconds": %s}' % value
        for value in (b'"long"', b"1e400", b"NaN", b"-5", b"true", b"9" * 400)
    ),
    *(b'{"state": "done", "%s": {"a": 1}}' % name for name in (b"loss", b"step", b"of", b"error", b"where")),
    b'{"state": "training", "where": 7}',
    b'{"attempts": 1, "seconds": 0.5}',
]


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: damage[:45].decode(errors="replace"))
def test_a_damaged_state_is_that_of_a_cell_of_which_nothing_is_known(tmp_path, damage):
    (tmp_path / "state.json").write_bytes(damage)
    assert read_state(tmp_path) == {}
    state = State(tmp_path)
    state.begin(TRAINING)
    assert read_state(tmp_path)["attempts"] == 1


def test_a_process_that_is_gone_is_told_from_one_that_is_there():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = platform.node()
    at_work = {"state": TRAINING, "where": f"process {os.getpid()} on {here}"}
    assert not is_gone(at_work) and not is_gone(at_work | {"where": f"process 1 on {here}"})
    gone = f"process {ended.pid} on {here}"
    assert is_gone({"state": TRAINING, "where": gone}) and is_gone({"state": SCORING, "where": gone})
    assert not is_gone({"state": DONE, "where": gone})
    assert not is_gone({"state": TRAINING, "where": f"process {ended.pid} on another"})
    assert not is_gone({"state": TRAINING, "where": f"process {2**80} on {here}"})
    assert not is_gone({}) and not is_gone({"state": TRAINING})


def test_a_cell_is_what_its_flags_are():
    assert Cell({"rank": 0}).rank == 0 and cell() == cell() and cell(seed=1) != cell()
