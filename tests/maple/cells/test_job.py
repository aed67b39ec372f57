"""What is left to do of a cell."""

import json

import pytest

from maple.cells.cell import DONE, FAILED, PLANNED, SCORING, STATE, TRAINING, read_state, write_state
from maple.cells.grid import plan
from maple.cells.job import Job

ALL = [(task, code) for task in ("xnli", "xquad") for code in ("en", "it")]
ROW = {"metric": "acc", "value": 0.5, "stderr": None, "n": 1, "settings": {}}


@pytest.fixture
def job(tmp_path):
    """A cell that is to be scored on two tasks in two languages."""
    settled = plan({"grid": {"rank": [1]}, "evaluate": {"tasks": "xnli,xquad", "languages": "en,it"}})
    job = Job(tmp_path, settled.cells[1], settled.evaluate)
    job.fit.mkdir(parents=True)
    job.scores.mkdir()
    return job


def scored(job, pairs):
    rows = [{"task": task, "language": language, **ROW} for task, language in pairs]
    (job.scores / "scores.json").write_text(json.dumps(rows))


def trained(job):
    (job.fit / "summary.json").write_text("{}")


def test_a_cell_is_finished_when_it_is_trained_and_all_is_scored(job):
    assert not job.is_trained and not job.is_finished and job.left() == ALL
    scored(job, ALL)
    assert job.left() == [] and not job.is_finished
    trained(job)
    assert job.is_trained and job.is_finished
    scored(job, ALL[:3])
    assert job.left() == ALL[3:] and not job.is_finished


def test_a_base_has_nothing_to_train(job):
    base = Job(job.study, plan({"grid": {"rank": [1]}}).cells[0], job.evaluate)
    assert base.is_trained and not base.is_finished and base.left() == ALL
    base.scores.mkdir(parents=True)
    scored(base, ALL)
    assert base.is_finished


@pytest.mark.parametrize(
    ("flag", "value", "left"),
    [
        ("languages", "en,it,de", [("xnli", "de"), ("xquad", "de")]),
        ("tasks", "xnli,xcopa", [("xcopa", "en"), ("xcopa", "it")]),
        ("languages", "en", []),
        ("limit", 5, ALL),
        ("seed", 1, ALL),
    ],
)
def test_another_language_or_task_is_all_that_is_left_and_other_settings_are_other_scores(job, flag, value, left):
    trained(job)
    scored(job, ALL)
    asked = Job(job.study, job.cell, job.evaluate | {flag: value})
    found = asked.left()
    assert sorted(found) == sorted(left) and asked.is_finished == (not left)
    assert (asked.scores == job.scores) == (flag in ("languages", "tasks"))


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", "null", '[{"task": "xnli"}]', "[" * 100_000, "\x00"])
def test_damaged_scores_are_no_scores(job, text):
    trained(job)
    (job.scores / "scores.json").write_text(text)
    assert job.left() == ALL and not job.is_finished


@pytest.mark.parametrize(
    ("state", "finished", "correct"),
    [
        (TRAINING, True, DONE),
        (SCORING, True, DONE),
        (FAILED, True, DONE),
        (DONE, True, DONE),
        (DONE, False, PLANNED),
        (TRAINING, False, TRAINING),
        (FAILED, False, FAILED),
        (PLANNED, False, PLANNED),
    ],
)
def test_a_state_that_is_not_so_is_corrected(job, state, finished, correct):
    write_state(job.folder, {"state": state, "seconds": 5.0, "error": None})
    before = (job.folder / STATE).stat().st_ino
    job.correct_state(finished)
    assert read_state(job.folder) == {"state": correct, "seconds": 5.0, "error": None}
    assert ((job.folder / STATE).stat().st_ino == before) == (state == correct)


def test_a_cell_that_nobody_has_begun_has_no_state(job):
    for finished in (True, False):
        job.correct_state(finished)
        assert not (job.folder / STATE).exists() and not job.has_failed


def test_a_failure_is_forgotten_with_the_adapter_that_is_not_finished(job):
    write_state(job.folder, {"state": FAILED})
    (job.fit / "checkpoints").mkdir()
    assert job.has_failed
    job.forget_failure()
    assert sorted(path.name for path in job.folder.iterdir()) == [job.scores.name, STATE]
    job.forget_failure()


def test_a_failure_to_score_does_not_cost_the_adapter(job):
    trained(job)
    write_state(job.folder, {"state": FAILED})
    scored(job, ALL[:1])
    job.forget_failure()
    assert job.is_trained and job.left() == ALL[1:]
