"""The command: everything that it refuses, its help, and --status."""

import json
import shutil
import subprocess
import sys
import textwrap
import time

import pytest

from maple import cli
from maple.lock import locked
from maple.study import study
from tests.studies import content, job_of, jobs_in, run, write


def command(*flags):
    """Exit code of the command in this process."""
    with pytest.raises(SystemExit) as leaving:
        cli.main(study, list(map(str, flags)))
    return leaving.value.code


REFUSED = [
    ("", "give --out, the folder of the study; the same folder again goes on with it"),
    ("--config CONFIG", "give --out, the folder of the study"),
    ("--out OUT", "give --config, as --config configs/study-tiny.yaml"),
    ("--config nowhere.yaml --out OUT", "nowhere.yaml: there is no such file"),
    ("--config . --out OUT", ".: there is no such file"),
    ("--config BROKEN --out OUT", "broken.yaml:2 is not YAML of a study: grid is there twice"),
    ("--config IMPOSSIBLE --out OUT", "error: 2 problems: (1) grid: --bits is 3, expected one of 4, 8, 16; (2) eval"),
    ("--config CONFIG --out CONFIG", "study.yaml is a file; give a folder"),
    ("--config CONFIG --out CONFIG/below", "study.yaml/below"),
    ("--config CONFIG --out OCCUPIED", "occupied is not empty and holds no study; give a new folder"),
    ("--config CONFIG --out RUN", "run is not empty and holds no study; give a new folder"),
    ("--config CONFIG --out OUT --address auto", "--address auto belongs to --engine ray"),
    ("--config CONFIG --out OUT --address auto --engine here", "--address auto belongs to --engine ray"),
    ("--config CONFIG --out OUT --cores 0", "--cores is 0, must be from 1 to 1024"),
    ("--config CONFIG --out OUT --cores -1", "--cores is -1, must be from 1"),
    ("--config CONFIG --out OUT --cores 4096", "--cores is 4096, must be from 1 to 1024"),
    ("--config CONFIG --out OUT --cores many", "--cores is many, expected int"),
    ("--config CONFIG --out OUT --engine slurm", "--engine is slurm, expected one of 'here', 'ray'"),
    ("--config CONFIG --out OUT --retry maybe", "--retry is maybe, expected bool"),
    ("--config CONFIG --outt OUT", "unknown flag --outt; did you mean '--out'?"),
    ("--conf CONFIG --out OUT", "unknown flag --conf; did you mean '--config'?"),
    ("--config CONFIG --out OUT --rank 8", "unknown flag --rank"),
    ("--config CONFIG --out OUT --print_config", "unknown flag --print_config"),
    ("--status nowhere", "--status nowhere: there is no study.yaml in it, so it is no study"),
    ("--status OCCUPIED", "there is no study.yaml in it, so it is no study"),
    ("--status CONFIG", "there is no study.yaml in it"),
    ("--status", "--status"),
]  # fmt: skip


@pytest.fixture
def named(at):
    """Replaces the names in a command line."""
    config = write(at.here, at.data)
    (at.here / "broken.yaml").write_text("grid: {rank: [1]}\ngrid: {rank: [2]}\n")
    (at.here / "impossible.yaml").write_text("grid: {bits: [3]}\nevaluate: {tasks: xnly}\n")
    for name, file in (("occupied", "notes.txt"), ("run", "config.yaml")):
        (at.here / name).mkdir()
        (at.here / name / file).write_text("")
    names = {"CONFIG": config, "OUT": at.out, **{name.upper(): at.here / name for name in ("occupied", "run")}}
    names |= {name.upper(): at.here / f"{name}.yaml" for name in ("broken", "impossible")}

    def words(text):
        for name, path in names.items():
            text = " ".join(str(path) + word[len(name) :] if word.startswith(name) else word for word in text.split())
        return text.split()

    return words


@pytest.mark.parametrize(("flags", "words"), REFUSED, ids=[words[:50] for _, words in REFUSED])
def test_wrong_input_is_one_sentence_and_exit_code_2(at, named, capsys, flags, words):
    before = content(at.here)
    assert command(*named(flags)) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert "Traceback" not in said.err and said.out == ""
    assert content(at.here) == before and not at.out.exists()


def test_help_and_whatever_needs_no_torch_answer_without_it(named):
    cases = [("--help", "--address"), *((" ".join(named(flags)), words) for flags, words in REFUSED)]
    script = textwrap.dedent(f"""
        import io, sys
        from contextlib import redirect_stderr, redirect_stdout
        from maple import cli
        from maple.study import study
        for flags, words in {cases!r}:
            with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
                try:
                    cli.main(study, flags.split())
                except SystemExit as leaving:
                    assert leaving.code == (0 if flags == "--help" else 2), flags
            heavy = {{"torch", "lightning", "transformers", "datasets", "numpy", "ray"}} & sys.modules.keys()
            assert not heavy, (flags, heavy)
            assert words in said.getvalue(), (words, said.getvalue())
        print("all", len({cases!r}))
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == f"all {len(cases)}\n", done.stderr


@pytest.mark.parametrize("flags", [["--help"], ["--config", "nowhere.yaml", "--out", "x"]])
def test_it_answers_at_once(flags, tmp_path):
    started = time.process_time(), time.monotonic()
    subprocess.run([sys.executable, "-m", "maple.study", *flags], cwd=tmp_path, capture_output=True, timeout=30)
    assert time.monotonic() - started[1] < 5  # half a second, where nobody else is at work


# ------------------------------------------------------------------------------------------------- what is there


DAMAGE = ["", "{", "[]", "null", "\x00", "grid: {rank: [0]}", "grid: [", "title: 5", "grid: {rank: [1], rank: [2]}"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("flags", ["--status {}", "--out {}"])
def test_a_damaged_study_is_named(copy, capsys, damage, flags):
    (copy / "study.yaml").write_text(damage)
    before = content(copy)
    assert command(*flags.format(copy).split()) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.count("\n") == 1
    assert str(copy / "study.yaml") in said or "--rank is 0" in said
    assert content(copy) == before


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"state": "done", "seconds": "x"}', '{"attempts": 1}'])
def test_a_damaged_state_costs_nothing(copy, capsys, damage):
    for job in jobs_in(copy):
        (job.folder / "state.json").write_text(damage)
    assert command("--status", copy) == 0 and "3 cells: 3 done" in capsys.readouterr().out
    assert run(None, copy) == 0 and "3 of 3 cells are finished" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["", "{", "5", '{"content": []}'])
def test_a_damaged_note_of_what_a_cell_was_made_of_is_named(copy, capsys, damage):
    path = job_of(copy, 4).folder / "cell.json"
    path.write_text(damage)
    before = content(copy)
    assert command("--status", copy) == 0
    assert run(None, copy) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ") and f"delete it; else {path.parent}\n" in said
    assert content(copy) == before
    path.unlink()
    assert run(None, copy) == 0


def scores(job):
    """What stands in scores.json, but where the adapter lies."""
    rows = json.loads((job.scores / "scores.json").read_text())
    return [row | {"settings": row["settings"] | {"adapter": None}} for row in rows]


@pytest.mark.parametrize("damage", ["", '[{"task": 5}]'])
def test_damaged_scores_fail_their_cell_with_what_to_do(copy, capsys, damage):
    job = job_of(copy, 4)
    path, rows = job.scores / "scores.json", scores(job)
    path.write_text(damage)
    assert command("--status", copy) == 0
    assert run(None, copy) == 1
    said = capsys.readouterr()
    assert f"{job.cell.name}: failed, " in said.out and f": {path}: " in said.out
    assert "; delete it to score again" in said.out and path.read_text() == damage
    path.unlink()
    assert run(None, copy, "--retry") == 0 and scores(job) == rows


def test_the_status_of_a_study_that_is_at_work(copy, capsys):
    """It takes no lock, and changes nothing."""
    before = content(copy)
    with locked(copy), locked(job_of(copy, 4).folder):
        assert command("--status", copy) == 0
    said = capsys.readouterr().out
    assert "3 cells: 3 done" in said and "tiny.data.r4.4bit.s0" in said
    assert content(copy) == before


def test_the_status_from_a_terminal_of_its_own(finished):
    words = [sys.executable, "-m", "maple.study", "--status", str(finished)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80 and "3 cells: 3 done" in done.stdout


def test_the_status_where_the_data_are_no_longer(copy, data, capsys):
    text = (copy / "study.yaml").read_text()
    (copy / "study.yaml").write_text(text.replace(data, str(copy / "elsewhere" / "data")))
    assert command("--status", copy) == 0 and "3 cells: 3 done" in capsys.readouterr().out


def test_what_a_finished_study_holds(finished):
    assert {path.name for path in finished.iterdir()} == {"study.yaml", "cells"}
    for job in jobs_in(finished):
        names = {"cell.json", "state.json", job.scores.name} | ({"fit"} if job.cell.rank else set())
        assert {path.name for path in job.folder.iterdir()} == names
        assert {path.name for path in job.scores.iterdir()} == {"config.yaml", "scores.json", "predictions"}
        if job.cell.rank:
            left = {"adapter", "config.yaml", "metrics.csv", "summary.json"}
            assert {path.name for path in job.fit.iterdir()} == left
            assert {row["settings"]["template"] for row in scores(job)} == {"alpaca"}


def test_the_base_is_asked_in_the_template_of_its_adapters(finished):
    asked = {(row["settings"]["template"], row["settings"]["bits"]) for row in scores(job_of(finished, 0))}
    assert asked == {("alpaca", 4)}


def test_a_copy_of_a_study_is_a_study(finished, tmp_path, capsys):
    moved = shutil.move(shutil.copytree(finished, tmp_path / "copied"), tmp_path / "moved")
    assert run(None, moved) == 0 and "3 of 3 cells" in capsys.readouterr().out
