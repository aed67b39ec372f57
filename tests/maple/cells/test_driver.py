"""A study from its folder: what is done again, what is not, and what is refused before the first cell."""

import os
import shutil
import subprocess
import sys
import warnings

import pytest
import yaml

from maple.cells import work
from maple.cells.cell import DONE, PLANNED, SCORING, read_state, write_state
from maple.errors import InputWarning
from maple.lock import locked
from tests.studies import content, job_of, jobs_in, run, write


def rewrite(out, change):
    """The study's own file, changed by `change`, as a file beside the study."""
    config = yaml.safe_load((out / "study.yaml").read_text())
    change(config)
    path = out.parent / "changed.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def changed(before, after):
    """Names of the files that are new or were written again."""
    return {name for name, one in after.items() if before.get(name) != one} | before.keys() - after.keys()


def test_a_finished_study_is_not_begun_again_and_needs_no_torch(copy):
    before = content(copy)
    script = (
        "import sys; from maple import cli; from maple.study import study\n"
        f"try: cli.main(study, ['--out', {str(copy)!r}])\n"
        "except SystemExit as end: print(end.code, *{'torch', 'lightning', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == f"3 of 3 cells are finished. To see them: python -m maple.report {copy}\n0\n", done.stderr
    assert changed(before, content(copy)) == {"study.yaml"}
    assert content(copy)["study.yaml"][0] == before["study.yaml"][0]


def test_another_rank_is_all_that_is_run(copy, capsys):
    before = content(copy)
    assert run(rewrite(copy, lambda config: config["grid"].update(rank=[1, 2, 4])), copy) == 0
    new = job_of(copy, 2)
    assert "1 cells to do" in capsys.readouterr().out and new.is_finished
    folder = f"cells/{new.cell.name}/"
    assert {name for name in changed(before, content(copy)) if not name.startswith(folder)} == {"study.yaml"}


def test_another_language_and_task_is_scored_and_nothing_is_trained_again(copy, monkeypatch):
    before = content(copy)
    monkeypatch.setattr(work, "_train", None)
    more = {"tasks": "xnli,xquad,xcopa", "languages": "en,it,de"}
    config = rewrite(copy, lambda config: config["evaluate"].update(more))
    assert run(config, copy) == 0
    names = {name.split("/")[-1] for name in changed(before, content(copy))}
    predictions = {f"{task}.{code}.jsonl" for task in ("xnli", "xquad") for code in ("de",)}
    predictions |= {f"xcopa.{code}.jsonl" for code in ("en", "it", "de")}
    assert names == predictions | {"study.yaml", "cell.json", "state.json", "scores.json", "config.yaml"}
    assert all(job.is_finished and read_state(job.folder)["state"] == DONE for job in jobs_in(copy))
    shutil.copy(copy / "study.yaml", config)
    assert (
        run(rewrite(copy, lambda config: config["evaluate"].update(languages="en")), copy) == 0
    )  # fewer are asked for


def test_finished_cells_that_are_asked_for_more_are_planned_until_it_is_their_turn(copy, monkeypatch):
    seen = {}

    def look(job):
        seen[job.cell.rank] = [read_state(other.folder)["state"] for other in jobs_in(copy)]

    monkeypatch.setattr(work, "work_on", look)
    config = rewrite(copy, lambda config: config["evaluate"].update(languages="en,it,de"))
    assert run(config, copy) == 0
    assert seen == {rank: [PLANNED] * 3 for rank in (0, 1, 4)}
    assert run(rewrite(copy, lambda config: config["evaluate"].update(languages="en,it")), copy) == 0
    assert [read_state(job.folder)["state"] for job in jobs_in(copy)] == [DONE] * 3


def test_a_cell_that_was_killed_behind_its_last_score_is_done(copy):
    job = job_of(copy, 4)
    write_state(job.folder, read_state(job.folder) | {"state": SCORING})
    assert run(None, copy) == 0
    assert read_state(job.folder)["state"] == DONE


def test_a_rank_less_leaves_its_cell_where_it_is(copy):
    before, dropped = content(copy), job_of(copy, 4)
    assert run(rewrite(copy, lambda config: config["grid"].update(rank=[1])), copy) == 0
    assert changed(before, content(copy)) == {"study.yaml"} and dropped.is_finished
    assert len(jobs_in(copy)) == 2


def test_a_cell_can_be_brought_from_another_study(copy, tmp_path):
    job = job_of(copy, 4)
    config = shutil.copy(copy / "study.yaml", tmp_path / "config.yaml")
    (tmp_path / "other" / "cells").mkdir(parents=True)
    (tmp_path / "other" / "study.yaml").write_text(config.read_text())
    shutil.copytree(job.folder, tmp_path / "other" / "cells" / job.cell.name)
    before = content(tmp_path / "other" / "cells" / job.cell.name)
    assert run(config, tmp_path / "other") == 0
    assert content(tmp_path / "other" / "cells" / job.cell.name) == before


LEFT = {
    "half of its own file": lambda out: [
        shutil.rmtree(out / "cells"),
        (out / "study.yaml").rename(out / ".study.yaml.0a1b2c3d.partial"),
    ],
    "a cell without anything in it": lambda out: [
        (shutil.rmtree(path), path.mkdir()) for path in (out / "cells").iterdir() if ".r4." in path.name
    ],
}


@pytest.mark.parametrize("kill", LEFT)
def test_what_a_killed_driver_leaves_is_gone_on_with(copy, tmp_path, kill):
    config = rewrite(copy, lambda config: config["grid"].update(rank=[4]))
    job, before = job_of(copy, 4), content(copy)
    adapter = f"cells/{job.cell.name}/fit/adapter/adapter_model.safetensors"
    LEFT[kill](copy)
    assert run(config, copy) == 0
    assert all(job.is_finished for job in jobs_in(copy))
    assert content(copy)[adapter][0] == before[adapter][0]
    assert not list(copy.rglob("*.partial"))


def test_a_second_driver_is_refused_in_one_sentence(copy, capsys):
    before = content(copy)
    with locked(copy):
        assert run(None, copy) == 2
        assert (copy / ".lock").exists()
    said = capsys.readouterr().err
    assert said.startswith(f"error: --out {copy}: process {os.getpid()} on ") and said.count("\n") == 1
    assert content(copy) == before


REFUSED = {
    "fit: {device: cuda}": "--device cuda: PyTorch finds no GPU on this machine; use --device cpu",
    "fit: {max_length: 100000, batch_tokens: 100000}": "--max-length 100000 is more than the 512 positions",
    "fit: {template: chat}": "this tokenizer has no chat template",
    "grid: {targets: [qv, nolayer]}": "targets: no linear layer is called 'nolayer'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_only_a_look_at_the_model_tells_is_told_before_the_first_cell(at, capsys, text):
    assert run(write(at.here, at.data, **yaml.safe_load(text)), at.out / "in" / "here") == 2
    said = capsys.readouterr()
    assert REFUSED[text] in said.err and said.err.count("\n") == 1 and "looking for all that can go wrong" in said.out
    assert not at.out.exists()


def test_a_record_that_is_broken_is_told_before_the_first_cell_with_all_else(at, capsys):
    (at.here / "data").mkdir()
    (at.here / "data" / "en.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": 5}\n')
    assert run(write(at.here, "data", fit={"targets": "nolayer"}), at.out) == 2
    said = capsys.readouterr().err
    assert "2 problems: " in said and "data/en.jsonl:2: " in said and "nolayer" in said
    assert not at.out.exists()


def test_nothing_of_a_study_that_is_there_changes_when_its_next_file_is_refused(copy, capsys):
    before = content(copy)
    for change in (
        lambda config: config["grid"].update(rank=[1, 4, 8], device=["cuda"]),
        lambda config: config["grid"].update(rank=[0]),
        lambda config: config["fit"].update(data="./nowhere"),
    ):
        assert run(rewrite(copy, change), copy) == 2
        assert content(copy) == before


def test_data_that_changed_since_are_told_and_nothing_is_run(copy, tmp_path, data, capsys):
    moved = shutil.copytree(data, tmp_path / "data")
    with (moved / "de.jsonl").open("a") as file:
        file.write('{"instruction": "a", "output": "b"}\n')
    before = content(copy)
    assert run(rewrite(copy, lambda config: config["fit"].update(data=str(moved))), copy) == 2
    said = capsys.readouterr().err
    assert f" and 1 more were made with another --data {moved} (de.jsonl changed since); bring it back, or give" in said
    assert content(copy) == before


def test_a_rank_above_the_smallest_dimension_is_a_warning_and_the_study_goes_on(at, capsys):
    config = write(at.here, at.data, grid={"rank": [1, 200]}, fit={"max_steps": 1}, evaluate={"tasks": "xnli"})
    with warnings.catch_warnings():
        warnings.simplefilter("default", InputWarning)  # pytest makes errors of ours
        assert run(config, at.out) == 0
    said = capsys.readouterr().err
    assert said.startswith("warning: rank 200 is more than 64, the smallest dimension of a layer of tiny: ")
    assert said.count("warning: rank") == 1
    assert all(job.is_finished for job in jobs_in(at.out))


def test_in_a_job_of_slurm_a_study_is_one_process(copy, monkeypatch, capsys):
    """sbatch -n 4 tells its script that there are four of it."""
    job = job_of(copy, 1)
    shutil.rmtree(job.folder)
    for name, value in {"NTASKS": "4", "PROCID": "0", "LOCALID": "0", "JOB_NAME": "study"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert run(None, copy) == 0 and job.is_finished


@pytest.mark.parametrize("name", ["a [b]'c[/b]", "-[/]Bücher", "a\x1b[2Jb\u202e"])
def test_a_folder_of_any_name(finished, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    out = shutil.copytree(finished, tmp_path / name)
    shutil.rmtree(job_of(out, 1).scores)
    assert run(None, f"./{name}") == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\u202e" not in said
    assert "3 of 3 cells are finished. To see them: python -m maple.report " in said
    assert name.isprintable() is False or name.split("'")[0] in said


def test_flags_under_ours_are_kept_as_they_were_written(copy, tmp_path):
    config = rewrite(copy, lambda config: config.update(title="Ränge: [1, 4]", fit={"lr": "5e-3", **config["fit"]}))
    assert run(config, copy) == 0
    assert yaml.safe_load((copy / "study.yaml").read_text()) == yaml.safe_load(config.read_text())
