"""What local files a cell was made of, and that their change is told."""

import json
import os
import re

import pytest

from maple.cells.cell import Cell
from maple.cells.content import changed, content, note
from maple.cells.grid import plan
from maple.cells.job import Job
from maple.errors import InputError

RECORD = json.dumps({"instruction": "Say a.", "output": "a"})


@pytest.fixture
def made(tmp_path):
    """A model, records in two languages and a task, of which nothing here reads more than the bytes."""
    for name, text in {
        "model/config.json": "{}", "model/model.safetensors": "weights", "model/README.md": "",
        "data/en.jsonl": RECORD, "data/de.jsonl": RECORD, "data/de.validation.jsonl": RECORD,
        "tasks/xnli/en.test.jsonl": "{}", "tasks/xnli/de.test.jsonl": "{}",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def jobs(made, languages=None, scored="en", **fit):
    """The jobs of a study of two ranks on these."""
    config = {
        "fit": {"model": str(made / "model"), "data": str(made / "data"), "languages": languages} | fit,
        "grid": {"rank": [1, 2]},
        "evaluate": {"data_dir": str(made / "tasks"), "tasks": "xnli", "languages": scored},
    }
    settled = plan(config)
    return [Job(made / "study", cell, settled.evaluate) for cell in settled.cells]


def noted(made, **flags):
    """Jobs of which something was made: adapters, and scores of xnli in English."""
    found = jobs(made, **flags)
    for job in found:
        note(job)
        job.scores.mkdir()
        row = {"task": "xnli", "language": "en", "metric": "acc", "value": 1.0, "stderr": None, "n": 1, "settings": {}}
        (job.scores / "scores.json").write_text(json.dumps([row]))
        if job.cell.rank:
            job.fit.mkdir()
    assert changed(found) == []
    return found


def test_what_nothing_was_made_of_yet_may_be_mended(made):
    found = jobs(made, scored="en,de")
    for job in found:
        note(job)
    for name in ("model/config.json", "data/en.jsonl", "tasks/xnli/de.test.jsonl"):
        (made / name).write_text("mended")
    assert changed(found) == []


def test_what_is_noted(made):
    base, one, _ = jobs(made, languages="de")
    assert content(base).keys() == {"model", "data_dir"} and content(one).keys() == {"model", "data", "data_dir"}
    assert content(one)["model"].keys() == {"config.json", "model.safetensors"}
    assert content(one)["data"].keys() == {"de.jsonl", "de.validation.jsonl"}
    assert content(one)["data_dir"].keys() == {"xnli/en.test"}
    note(one)
    assert json.loads((one.folder / "cell.json").read_text()) == {
        "fit": one.cell.fit,
        "evaluate": one.evaluate,
        "content": content(one),
    }


def test_what_has_a_revision_or_comes_with_the_project_is_not_looked_at():
    for sections in ({}, {"fit": {"model": "owner/name", "data": "multialpaca@main"}, "evaluate": {"tasks": "xnli"}}):
        settled = plan({"grid": {"rank": [1]}} | sections)
        assert all(content(Job("study", cell, settled.evaluate)) == {} for cell in settled.cells)


CHANGES = {
    "model/config.json": ("{ }", "--model {}/model (config.json changed since)", 3),
    "model/model.safetensors": ("shorter", "--model {}/model (model.safetensors changed since)", 3),
    "model/more.safetensors": ("new", "--model {}/model (more.safetensors changed since)", 3),
    "data/en.jsonl": (RECORD + "\n", "--data {}/data (en.jsonl changed since)", 2),
    "data/de.validation.jsonl": (None, "--data {}/data (de.validation.jsonl changed since)", 2),
    "data/fr.jsonl": (RECORD, "--data {}/data (fr.jsonl changed since)", 2),
    "tasks/xnli/en.test.jsonl": ("{ }", "--data-dir {}/tasks (xnli/en.test changed since)", 3),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_changed_is_told_once_for_all_its_cells(made, name):
    text, words, cells = CHANGES[name]
    made_then = noted(made)
    (made / name).unlink(missing_ok=True)
    if text is not None:
        (made / name).write_text(text)
    (said,) = changed(made_then)
    more = f"and {cells - 1} more were"
    assert re.match(rf"model\.\w+\..*-\w{{8}} {more} made with another {re.escape(words.format(made))}", said)
    assert said.endswith("; bring it back, or give another --out")


def test_what_a_cell_does_not_use_may_change(made):
    made_then = noted(made, languages="de")
    for name in (
        "data/en.jsonl",
        "data/fr.jsonl",
        "model/README.md",
        "tasks/xnli/de.test.jsonl",
        "tasks/xnli/fr.test.jsonl",
    ):
        (made / name).write_text(RECORD * 3)
    assert changed(made_then) == []
    assert changed(jobs(made, languages="de", scored="en,de")) == []  # another language is scored, and was not before


def test_a_folder_may_lie_elsewhere(made):
    before = noted(made)
    for name in ("model", "data", "tasks"):
        (made / "moved").mkdir(exist_ok=True)
        (made / name).rename(made / "moved" / name)
    (made / "study").rename(made / "moved" / "study")
    moved = jobs(made / "moved")
    assert [job.cell.name for job in moved] == [job.cell.name for job in before] and changed(moved) == []


def test_a_folder_in_the_place_of_what_comes_with_the_project_is_told(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "en.jsonl").write_text(RECORD)
    settled = plan({"fit": {"data": str(tmp_path / "tiny")}, "grid": {"rank": [1]}})
    job = Job(tmp_path / "study", settled.cells[1], settled.evaluate)
    note(job)
    job.fit.mkdir()
    now = Job(job.study, Cell(job.cell.fit | {"data": "tiny"}), job.evaluate)
    assert now.folder == job.folder
    assert "was made with another --data tiny (en.jsonl changed since)" in changed([now])[0]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"content": 5}', '{"content": {"model": 5}}', '{"content": {"a": []}}']
)
def test_a_damaged_note_is_named_with_what_to_do(made, text):
    made_then = noted(made)
    job = made_then[1]
    (job.folder / "cell.json").write_text(text)
    (said,) = changed(made_then)
    assert said.startswith(f"{job.folder}/cell.json: ")
    assert said.endswith(f"; if nothing has changed since then, delete it; else {job.folder}")
    (job.folder / "cell.json").unlink()
    assert changed(made_then) == []


def test_data_that_are_gone_are_an_error_of_the_plan(made):
    noted(made)
    (made / "data" / "en.jsonl").rename(made / "data" / "english.jsonl")
    with pytest.raises(InputError, match=r"english.jsonl: a file of a data folder is named by a language's"):
        jobs(made)


def test_weights_are_told_apart_by_some_of_their_pages(made):
    path = made / "model" / "model.safetensors"
    weights = bytearray(os.urandom(2**22))
    path.write_bytes(weights)
    before = content(jobs(made)[0])["model"][path.name]
    os.utime(path)
    assert content(jobs(made)[0])["model"][path.name] == before
    for number, place in enumerate((0, 2**21, 255 * 2**14)):  # the first, a middle and the last page that is looked at
        weights[place] ^= 1
        path.write_bytes(weights)
        os.utime(path, ns=(number, number))
        now = content(jobs(made)[0])["model"][path.name]
        assert now != before
        before = now
