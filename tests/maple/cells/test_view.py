"""A study on the terminal: the table, what is left, and nothing that commands it."""

import io
import json
import os
import platform
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console

from maple.cells import view
from maple.cells.cell import DONE, FAILED, PLANNED, SCORING, TRAINING, write_state
from maple.cells.grid import plan
from maple.cells.job import Job
from maple.cells.view import STOPPED, Live, labels, show, standing, summary, table

HERE = f"process {os.getpid()} on {platform.node()}"
PAPER = {
    "model": ["meta-llama/Llama-2-7b-hf", "mistralai/Mistral-7B-v0.1"],
    "data": ["multialpaca", "bactrian-x-22"],
    "rank": [8, 128],
    "bits": [4, 16],
}
TRAINED = {"step": 812, "of": 1000, "loss": 1.23456, "tokens_per_second": 12345.6, "seconds": 12345.6}


def jobs(folder, grid=None, **sections):
    """The jobs of a study of which nothing is there."""
    settled = plan({"grid": grid or {"rank": [1, 2, 4]}} | sections, look=False)
    return [Job(folder, cell, settled.evaluate) for cell in settled.cells]


def note(job, state, **more):
    job.folder.mkdir(parents=True, exist_ok=True)
    write_state(job.folder, {"state": state, "attempts": 1, "error": None, "where": HERE, "seconds": 60.0} | more)


def shown(found, width=80):
    """What --status writes on a terminal of that width."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show(console, found)
    return console.file.getvalue()


def lines(text):
    return [line.split() for line in text.splitlines() if line.strip()]


def test_where_every_cell_stands(tmp_path):
    found = jobs(tmp_path, {"rank": [1, 2, 3, 4, 5]})
    note(found[0], DONE, scored=8, to_score=8)
    note(found[1], DONE, **TRAINED)
    note(found[2], FAILED, error="out of memory; give a smaller --batch-tokens", **TRAINED)
    note(found[3], TRAINING, **TRAINED)
    note(found[4], SCORING, scored=50, to_score=400)
    said = lines(shown(found))
    assert said[0] == ["cell", "state", "loss", "tok/s", "seconds"]
    assert said[2] == ["tiny.base.4bit", "done", "60"]
    assert said[3] == ["tiny.tiny.r1.4bit.s0", "done", "1.235", "12,346", "12,346"]
    assert said[4][1] == "failed" and said[5][1:4] == ["training", "81", "%"]
    assert said[6] == ["tiny.tiny.r4.4bit.s0", "scoring", "12", "%", "60"]
    assert said[7] == ["tiny.tiny.r5.4bit.s0", "planned"]
    assert " ".join(said[8]).startswith("6 cells: 2 done, 1 failed, 1 training, 1 scoring, 1 planned; about ")
    why = f"{found[2].cell.name} failed: out of memory; give a smaller --batch-tokens"
    assert " ".join(word for line in said[9:] for word in line) == why


def test_the_names_of_the_paper_and_all_numbers_fit_into_80_characters(tmp_path):
    found = jobs(tmp_path, PAPER, evaluate={"tasks": "xnli"})
    for job in found:
        note(job, TRAINING, **TRAINED)
    said = shown(found)
    assert max(map(len, said.splitlines())) <= 80 and "…" not in said
    assert said.count(" training 81 % 1.235 12,346  12,346\n") == len(found)
    assert all(f"\n{job.cell.name.rpartition('-')[0]} " in said for job in found)


def test_cells_that_differ_in_less_than_a_name_has_are_told_apart_by_their_hash(tmp_path):
    found = jobs(tmp_path, {"rank": [4], "alpha": [4, 8], "bits": [4, 8]}, slices=[{"rank": 4, "alpha": 8, "bits": 16}])
    names = labels(found)
    assert len(set(names.values())) == len(found)
    assert sorted(map(len, names.values())) == [14, 14, 15, 21, 25, 25, 25, 25]
    assert all(name.startswith(label) for name, label in names.items())


@pytest.mark.parametrize("width", [60, 50, 40, 20, 1])
def test_a_narrow_terminal_keeps_beginning_and_end_of_a_name(tmp_path, width):
    found = jobs(tmp_path, PAPER, evaluate={"tasks": "xnli"})
    said = shown(found, width)
    assert max(map(len, said.splitlines())) <= width
    if width == 60:
        assert {"Mistral…22.r128.16bit.s0", "Llama-2…lpaca.r8.4bit.s0"} < {
            word for line in lines(said) for word in line
        }


def gone():
    """A process of this machine that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return f"process {ended.pid} on {platform.node()}"


def test_a_process_that_is_gone_is_told(tmp_path):
    found = jobs(tmp_path)
    note(found[1], TRAINING, where=gone(), **TRAINED)
    note(found[2], SCORING, where="process 1 on another machine", scored=1, to_score=2)
    assert standing(found[1])["state"] == STOPPED and standing(found[2])["state"] == SCORING
    assert "1 planned, 1 stopped, 1 scoring" not in shown(found)
    assert "4 cells: 2 planned, 1 stopped, 1 scoring" in shown(found)


def finish(job):
    """What is there of a cell that was brought from another study."""
    rows = [
        {"task": task, "language": code, "metric": "acc", "value": 0.5, "stderr": None, "n": 1, "settings": {}}
        for task, code in job.left()
    ]
    job.scores.mkdir(parents=True)
    (job.scores / "scores.json").write_text(json.dumps(rows))
    (job.folder / "cell.json").write_text("{}")
    job.fit.mkdir()
    (job.fit / "summary.json").write_text("{}")


def test_a_cell_brought_from_another_study_is_done(tmp_path):
    found = jobs(tmp_path)
    finish(found[1])
    assert [standing(job)["state"] for job in found] == [PLANNED, DONE, PLANNED, PLANNED]


def test_a_study_is_shown_where_its_tasks_are_not(tmp_path):
    found = jobs(tmp_path, evaluate={"data_dir": str(tmp_path / "gone")})
    assert "4 cells: 4 planned" in shown(found)


def left(tmp_path, states, grid=None):
    """What is said of the time, for cells in these states."""
    found = jobs(tmp_path, grid)
    for job, state in zip(found, states, strict=True):
        if state:
            note(job, state[0], seconds=state[1])
    return summary([(job, standing(job)) for job in found]).plain.partition("; ")[2]


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ([(DONE, 60), None, None, None], ""),  # nobody knows yet how long an adapter takes
        ([None, (DONE, 600), None, None], ""),  # nor a base
        ([(DONE, 60), (DONE, 600), None, None], "about 20 min left"),
        ([(DONE, 60), (DONE, 600), (TRAINING, 300), None], "about 15 min left"),
        ([(DONE, 60), (DONE, 600), (TRAINING, 300), (TRAINING, 540)], "about 3 min left"),  # two at once
        ([(DONE, 60), (DONE, 600), (TRAINING, 900), None], "about 10 min left"),
        ([(DONE, 60), (DONE, 600), (FAILED, 300), (DONE, 1)], ""),
        ([(DONE, 60), (DONE, 7200), None, None], "about 4.0 h left"),
    ],
)
def test_how_long_the_rest_may_take(tmp_path, states, words):
    assert left(tmp_path, states) == words


HOSTILE = ["\x1b[2J\x1b]0;mine\x07", "[bold]loud[/]", "[/]", "\u202egnp", "a\nb\tc", "x" * 10_000]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_that_is_read_commands_the_terminal(tmp_path, text):
    found = jobs(tmp_path, {"model": [f"owner/{text}"], "rank": [1]}, evaluate={"tasks": "xnli"})
    note(found[0], FAILED, error=f"--model {text}: it is not there", where=text[:9])
    note(found[1], FAILED, error="[red]")
    said = shown(found)
    assert not re.search(r"[^\n\w .,:;?…─\[\]/\\-]", said), said
    assert "failed: [red]" in said and len(said) < 6000


# ------------------------------------------------------------------------------------------------- while it goes on


def live(found, terminal, during):
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, highlight=False)
    with Live(console, found) as one:
        during(one)
    return console.file.getvalue()


def test_where_nobody_watches_a_line_for_each_cell_that_ends(tmp_path):
    found = jobs(tmp_path)
    note(found[0], DONE)
    note(found[1], FAILED, error="[b]no\x1b room[/b]")
    note(found[2], TRAINING, **TRAINED)
    said = live(found, False, lambda one: [one.ended(job) for job in found[:2]])
    names = [job.cell.name for job in found]
    assert said == f"{names[0]}: done, 60 s\n{names[1]}: failed, 60 s: [b]no\\x1b room[/b]\n"


def test_a_table_that_follows_what_the_cells_note(tmp_path, monkeypatch):
    monkeypatch.setattr(view, "AGAIN", 0.02)
    found = jobs(tmp_path, {"rank": list(range(1, 31))})
    for job in found[:20]:
        note(job, DONE, **TRAINED)

    def during(one):
        for step in (100, 200):
            note(found[20], TRAINING, **TRAINED | {"step": step})
            time.sleep(0.3)

    said = live(found, True, during)
    assert "training 10 %" in said and "training 20 %" in said and "31 cells: 20 done, 1 training, 10 planned" in said
    frame = said.split("tok/s")[-1]
    assert frame.count("12,346  12,346") == view.SHOWN  # the last that are done, and what is at work
    assert "r20.4bit" in frame and "r9.4bit" in frame and "r8.4bit" not in frame and "planned " not in frame


def test_no_state_that_anybody_wrote_ends_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(view, "AGAIN", 0.01)
    found = jobs(tmp_path)

    def during(one):
        for text in ("", "{", '{"attempts": 1}', '{"state": "training", "of": 0, "step": 0}', '{"state": "scoring"}'):
            for job in found:
                job.folder.mkdir(parents=True, exist_ok=True)
                (job.folder / "state.json").write_text(text)
            time.sleep(0.3)
            assert one.thread.is_alive()

    said = live(found, True, during)
    assert "4 cells: 4 planned" in said and "4 cells: 4 training" in said and "4 cells: 4 scoring" in said


def test_a_table_of_nothing(tmp_path):
    assert table([], {}, 80).row_count == 0
