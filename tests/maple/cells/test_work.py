"""One cell worked on: once, however often it is begun; what goes wrong in it is its own."""

import re
import shutil
import threading
import time

import pytest
import torch

from maple.cells import work
from maple.cells.cell import DONE, FAILED, TRAINING, read_state, write_state
from maple.cells.grid import plan
from maple.cells.job import Job
from maple.cells.work import work_on
from maple.errors import refuse
from maple.lock import locked
from tests.studies import EVALUATE, FIT, content, job_of, jobs_in, run, write


def only_when(rank, error):
    """`prepare` that raises for the cells of a rank."""

    def prepare(arguments, *given, **more):
        if arguments["rank"] == rank:
            raise error
        return before(arguments, *given, **more)

    before = work.prepare
    return prepare


def test_a_finished_cell_is_not_begun_again(copy, monkeypatch):
    monkeypatch.setattr(work, "_train", None)
    monkeypatch.setattr(work, "_score", None)
    before = content(copy)
    assert [work_on(job) for job in jobs_in(copy)] == [None] * 3
    assert content(copy) == before


def test_what_a_finished_cell_has_noted(finished):
    for job in jobs_in(finished):
        now = read_state(job.folder)
        assert (now["state"], now["attempts"], now["error"]) == (DONE, 1, None)
        assert now["scored"] == now["to_score"] == 8
        assert (now.get("step"), now.get("of")) == ((4, 4) if job.cell.rank else (None, None))
        assert 0 < now["seconds"] < 600


def test_an_adapter_is_trained_and_then_scored_from_where_it_is_missing(copy):
    job, before = job_of(copy, 4), content(copy)
    shutil.rmtree(job.scores)
    assert work_on(job) is None
    names = [name for name, (_, written) in content(copy).items() if before[name][1] != written]
    assert all(job.scores.name in name or name.endswith("state.json") for name in names)
    (job.scores / "predictions" / "xnli.it.jsonl").write_text("half of a")
    rows = (job.scores / "scores.json").read_text()
    (job.scores / "scores.json").unlink()
    assert work_on(job) is None and (job.scores / "scores.json").read_text() == rows
    shutil.rmtree(job.fit)
    assert work_on(job) is None
    adapter = f"{job.fit.relative_to(copy)}/adapter/adapter_model.safetensors"
    assert content(copy)[adapter][0] == before[adapter][0] and read_state(job.folder)["attempts"] == 4


def test_what_goes_wrong_in_one_cell_is_told_and_the_others_go_on(copy, monkeypatch, capsys):
    failed, other = job_of(copy, 1), job_of(copy, 4)
    shutil.rmtree(failed.folder)
    shutil.rmtree(other.scores)
    with monkeypatch.context() as patch:
        patch.setattr(work, "prepare", only_when(1, RuntimeError("the tracking\x1b[2J server\nis gone")))
        assert run(None, copy) == 1
    said = capsys.readouterr()
    assert other.is_finished and not failed.is_finished
    ended = rf"^{re.escape(failed.cell.name)}: failed, \d+ s: RuntimeError: the tracking\\x1b\[2J server$"
    assert re.search(ended, said.out, flags=re.MULTILINE)
    assert "2 of 3 cells are finished" in said.out and "\x1b" not in said.out + said.err
    assert said.err == (
        f"error: 1 of 3 cells failed: {failed.cell.name}; python -m maple.study --status {copy} says why, and "
        "--retry tries them again\n"
    )
    trace = (failed.folder / "error.txt").read_text()
    assert trace.startswith("Traceback") and "in _train" in trace and "is gone" in trace
    assert read_state(failed.folder)["state"] == FAILED

    before = content(copy / "cells")
    assert run(None, copy) == 1  # a failed cell is not tried again unasked
    assert content(copy / "cells") == before
    assert run(None, copy, "--retry") == 0
    assert failed.is_finished and not (failed.folder / "error.txt").exists()
    now = read_state(failed.folder)
    assert (now["state"], now["attempts"], now["error"]) == (DONE, 2, None)


def test_a_learning_rate_that_diverges_is_one_sentence_and_has_no_traceback(at, capsys):
    assert run(write(at.here, at.data, grid={"rank": [4]}, fit={"lr": 1, "alpha": 1e30}), at.out) == 1
    failed = job_of(at.out, 4)
    assert "the gradient's norm is inf" in read_state(failed.folder)["error"]
    assert not (failed.folder / "error.txt").exists() and "Traceback" not in capsys.readouterr().err


def test_a_base_that_fails_is_retried_alone(copy, monkeypatch, capsys):
    """Where nothing but a base is left there is no adapter whose needs it could share."""
    base = job_of(copy, 0)
    shutil.rmtree(base.scores)
    with monkeypatch.context() as patch:
        patch.setattr(work, "settle", lambda _: 1 / 0)
        assert run(None, copy) == 1
    assert [job.is_finished for job in jobs_in(copy)] == [False, True, True]
    assert run(None, copy, "--retry") == 0 and base.is_finished
    assert "1 cells to do" in capsys.readouterr().out


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(143)], ids=["Ctrl-C", "SIGTERM"])
def test_what_stops_the_process_is_no_failure_of_the_cell(copy, monkeypatch, stop):
    job = job_of(copy, 1)
    shutil.rmtree(job.fit)
    with monkeypatch.context() as patch:
        patch.setattr(work, "prepare", only_when(1, stop))
        with pytest.raises(type(stop)):
            work_on(job)
    assert read_state(job.folder)["state"] == TRAINING and not job.has_failed
    assert work_on(job) is None


def test_a_cell_that_was_stopped_goes_on_from_its_last_step(tmp_path, data, monkeypatch):
    """Also in the middle of a step of several micro-batches, of which nothing can be shown yet."""
    monkeypatch.setattr(work, "EVERY", 0.0)
    settled = plan({"fit": {"data": data, **FIT, "accumulate": 2}, "grid": {"rank": [4]}, "evaluate": EVALUATE})
    whole, job = (Job(tmp_path / name, settled.cells[1], settled.evaluate, {"checkpoint_every": 1}) for name in "ab")
    assert work_on(whole) is None

    def stop(self, trainer, pl_module, *_):
        if pl_module.step == 2:
            raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(work._Steps, "on_train_batch_end", stop)
        with pytest.raises(SystemExit):
            work_on(job)
    assert sorted(path.name for path in (job.fit / "checkpoints").iterdir())[-1] == "step-00000002"
    work.BASES.drop()
    assert work_on(job) is None and not (job.fit / "checkpoints").exists()
    adapters = [(one.fit / "adapter" / "adapter_model.safetensors").read_bytes() for one in (whole, job)]
    assert adapters[0] == adapters[1]
    lines = (job.fit / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "0", "1", "2", "3", "4", "4"]


def test_what_a_killed_process_left_of_its_writing_is_taken_away(copy):
    job = job_of(copy, 1)
    (job.scores / "scores.json").unlink()
    shutil.rmtree(job.fit)
    job.fit.mkdir()
    for place in (job.folder, job.fit, job.scores):
        (place / ".some.json.0a1b2c3d.partial").write_text("half")
    assert work_on(job) is None
    assert not list(job.folder.rglob("*.partial"))


# ------------------------------------------------------------------------------------------------- two at work


@pytest.fixture
def held(copy):
    """A cell to do, whose lock somebody else holds until `release`."""
    job = job_of(copy, 4)
    (job.scores / "scores.json").unlink()
    taken, release = threading.Event(), threading.Event()

    def hold():
        with locked(job.folder):
            taken.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    job_and_release = job, release
    yield job_and_release
    release.set()
    thread.join()


def test_a_cell_that_somebody_else_is_at_work_on_is_waited_for(held, monkeypatch):
    job, release = held
    monkeypatch.setattr(work, "EVERY", 0.05)
    threading.Timer(0.5, release.set).start()
    started = time.monotonic()
    assert work_on(job) is None and time.monotonic() - started > 0.5
    assert job.is_finished


def test_what_somebody_else_has_finished_meanwhile_is_taken_as_it_is(held, monkeypatch):
    job, release = held
    monkeypatch.setattr(work, "EVERY", 0.05)
    monkeypatch.setattr(Job, "is_finished", property(lambda _: release.is_set()))
    monkeypatch.setattr(work, "_score", None)
    threading.Timer(0.3, release.set).start()
    before = read_state(job.folder)
    assert work_on(job) is None and read_state(job.folder) == before


def test_somebody_without_a_sign_of_life_is_not_waited_for_without_end(held, monkeypatch):
    job, _ = held
    monkeypatch.setattr(work, "EVERY", 0.05)
    monkeypatch.setattr(work, "PATIENCE", 0.4)
    signs, state = iter(range(10)), read_state(job.folder)

    def show_a_sign(seconds):
        if (sign := next(signs, None)) is not None:
            write_state(job.folder, state | {"state": TRAINING, "step": sign})
        nap(seconds)

    nap = time.sleep
    monkeypatch.setattr(work.time, "sleep", show_a_sign)
    started = time.monotonic()
    assert "is at work in it; wait for it, or stop it" in work_on(job)
    assert 0.8 < time.monotonic() - started < 10  # ten signs, and the patience after the last
    assert read_state(job.folder)["step"] == 9


def test_a_study_whose_last_cell_somebody_else_holds_is_not_finished(held, monkeypatch, capsys):
    job, _ = held
    monkeypatch.setattr(work, "PATIENCE", 0.1)
    monkeypatch.setattr(work, "EVERY", 0.05)
    assert run(None, job.study) == 1
    said = capsys.readouterr()
    assert "2 of 3 cells are finished" in said.out
    assert said.err == "error: 1 of 3 cells are at work elsewhere; the same command goes on with them\n"


def test_data_that_are_gone_when_a_cell_begins_are_its_failure(copy, monkeypatch):
    job = job_of(copy, 4)
    monkeypatch.setattr(Job, "is_finished", property(lambda _: refuse(["--data-dir tasks: there is no such folder"])))
    assert work_on(job) == "--data-dir tasks: there is no such folder"
    assert job.has_failed and read_state(job.folder)["attempts"] == 1


def test_cores_are_those_that_are_asked_for(copy):
    job, threads = job_of(copy, 4), torch.get_num_threads()
    try:
        work_on(Job(job.study, job.cell, job.evaluate, cores=3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
