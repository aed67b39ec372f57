"""A study that is killed, stopped, starved or moved ends, started again, in the same bytes, and does nothing twice."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import maple.cells.checks
import maple.cells.content
import maple.cells.driver
import maple.cells.work
import maple.summary  # - so that the children need not
from maple.lock import NAME as LOCK
from maple.study import study
from tests.conftest import SEED
from tests.faults.conftest import Child
from tests.faults.test_full_disk import FullDisk
from tests.faults.test_moments import stop_at
from tests.studies import content, jobs_in

ROOT = Path(__file__).resolve().parents[2]
QUICK = ROOT / "configs" / "study-quick.yaml"
SEQUENCES, KILLS = 2, 5  # so often is a study started, and killed before it is left alone
SIGNALS = {signal.SIGTERM: (143, "stopped by SIGTERM"), signal.SIGINT: (130, "stopped by Ctrl-C")}
TIMES = {  # what a run notes of itself, by file
    "summary.json": ("seconds", "tokens_per_second", "peak_memory_bytes"),
    "state.json": ("seconds", "attempts", "where", "tokens_per_second", "scored", "to_score"),  # of the last attempt
}
SMALL = {
    "fit": {"max_steps": 8, "batch_tokens": 256, "max_length": 128, "recompute": "none", "device": "cpu"}
    | {"targets": "qv", "checkpoint_every": 2, "dropout": 0.1},
    "grid": {"rank": [1, 4]},
    "slices": [{"rank": 4, "alpha": 8, "rslora": True}, {"rank": 2, "bits": 16}],
    "evaluate": {"tasks": "xnli,xquad,alpaca_eval", "languages": "en,it", "limit": 3},
}


@pytest.fixture(scope="session")
def small(world) -> Path:
    """The YAML of a study of two bases and four adapters, two of them of slices."""
    return written(world / "small.yaml", {**SMALL, "fit": SMALL["fit"] | {"data": str(world / "data")}})


def written(path: Path, config: dict) -> Path:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def begin(out: Path, config: Path | None = None, *flags: str, before=lambda: None) -> Child:
    """The study in this folder; without a file go on with it."""
    given = [] if config is None else ["--config", str(config)]
    return Child([*given, "--out", str(out), *flags], out.with_name(f"{out.name}.log"), before, study, under=None)


def finish(out: Path, config: Path | None = None, *flags: str) -> str:
    """Run it to its end; what was said."""
    log = out.with_name(f"{out.name}.log")
    start = log.stat().st_size if log.exists() else 0
    child = begin(out, config, *flags)
    code, said = child.wait(), log.read_bytes()[start:].decode()
    assert code == 0, said
    return said


def results(out: Path) -> dict[str, object]:
    """All that a study has found, but times and where it lies."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.name != LOCK):
        name = str(path.relative_to(out))
        if path.name in TIMES:
            found[name] = {n: v for n, v in json.loads(path.read_text()).items() if n not in TIMES[path.name]}
        elif path.name == "scores.json":
            rows = json.loads(path.read_text())
            found[name] = [row | {"settings": row["settings"] | {"adapter": None}} for row in rows]
        elif path.name == "metrics.csv":
            found[name] = [line.split(",")[:5] + line.split(",")[7:] for line in path.read_text().splitlines()]
        else:
            found[name] = path.read_bytes().replace(os.fsencode(out), b"OUT")  # the adapter of an evaluation
    return found


def assert_the_same(out: Path, expected: dict[str, object]) -> None:
    found = results(out)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.fixture(scope="module")
def whole(world, small):
    """(the folder of a study that nobody disturbed, the seconds it took). Not to be changed."""
    child = begin(world / "whole-study", small)
    assert child.wait() == 0, child.log.read_text()
    said = child.log.read_text()
    assert "6 of 6 cells are finished" in said and "Traceback" not in said
    return world / "whole-study", child.seconds


def done(out: Path) -> set[str]:
    """Names of the cells that are finished."""
    return {job.cell.name for job in jobs_in(out) if job.is_finished} if (out / "study.yaml").is_file() else set()


# ------------------------------------------------------------------------------------------------- the report


def with_times_of(one: Path, other: Path) -> None:
    """Write into a study what another one noted of itself: times, speeds and memory."""
    for name in TIMES:
        for path in one.rglob(name):
            place = other / path.relative_to(one)
            there, here = json.loads(path.read_text()), json.loads(place.read_text())
            place.write_text(json.dumps(here | {name: there[name] for name in TIMES[path.name] if name in there}))
    for path in one.rglob("metrics.csv"):
        shutil.copy(path, other / path.relative_to(one))  # its other columns are compared in `results`


def report_of(folder: Path) -> dict[str, bytes]:
    """What `maple.report` makes of a study: the page and the tables."""
    words = [sys.executable, "-m", "maple.report", folder.name]
    shown = subprocess.run(
        words, cwd=folder.parent, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert shown.returncode == 0, shown.stderr
    files = [folder / "report.html", *sorted((folder / "tables").glob("*.csv"))]
    return {path.name: path.read_bytes() for path in files}


def assert_the_same_report(one: Path, other: Path, tmp_path: Path) -> None:
    """Byte for byte, but for what each noted of itself."""
    copies = [Path(shutil.copytree(study, tmp_path / place / "study")) for study, place in ((one, "a"), (other, "b"))]
    with_times_of(*copies)
    reports = [report_of(folder) for folder in copies]
    assert reports[0].keys() == reports[1].keys() and len(reports[0]) > 1
    assert [name for name in reports[0] if reports[0][name] != reports[1][name]] == []


# ------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("sequence", range(SEQUENCES))
def test_a_study_killed_again_and_again_ends_in_the_same_bytes_and_the_same_report(
    world, small, whole, tmp_path, tell, sequence
):
    folder, seconds = whole
    rng, out, kept = random.Random(SEED + sequence), world / f"study-{sequence}", []
    for _ in range(KILLS):
        child = begin(out, small)
        child.kill_at(rng.uniform(0.1, 0.6 * seconds))
        assert child.wait() in (0, -signal.SIGKILL), child.log.read_text()
        kept.append(len(done(out)))
    before = {name: content(out / "cells" / name) for name in done(out)}
    finish(out, small)
    for name, files in before.items():  # but what the killed process had not come to note
        now = content(out / "cells" / name)
        assert [file for file in files if now[file] != files[file] and file != "state.json"] == []
    assert_the_same(out, results(folder))
    assert_the_same_report(folder, out, tmp_path)
    tell(f"SIGKILL of a study: {KILLS} kills, with {kept} of 6 cells finished; the same bytes at its end")


class Killed(maple.cells.work.State):
    """A state whose process dies just before it notes that a cell is done."""

    def change(self, **changes):
        if changes.get("state") == "done":
            os.kill(os.getpid(), signal.SIGKILL)
        super().change(**changes)


def killed_before_done():
    maple.cells.work.State = Killed


MOMENTS = {
    "before its own file": stop_at(maple.cells.driver, "replace_file", signal.SIGKILL),
    "in its own file": lambda: setattr(maple.cells.driver, "replace_file", half_of_a_file),
    "before the first cell": stop_at(maple.cells.content, "note", signal.SIGKILL),
    "before the second cell": stop_at(maple.cells.content, "note", signal.SIGKILL, call=2),
    "in the summary of an adapter": stop_at(maple.summary, "replace_file", signal.SIGKILL),
    "before the checkpoints go": stop_at(maple.cells.work, "discard", signal.SIGKILL),
    "before a cell is scored": stop_at(maple.cells.work, "_score", signal.SIGKILL, call=2),
    "before it is noted that a cell is done": killed_before_done,
}


def half_of_a_file(path, text):
    path.with_name(f".{path.name}.0a1b2c3d.partial").write_text(text[:40])
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def smallest(world):
    """(the YAML of a study of one adapter, the results of one that nobody disturbed)."""
    fit = SMALL["fit"] | {"data": str(world / "data"), "max_steps": 4}
    evaluate = SMALL["evaluate"] | {"tasks": "xnli,xquad"}
    config = written(world / "smallest.yaml", {"fit": fit, "grid": {"rank": [2]}, "evaluate": evaluate})
    finish(world / "smallest", config)
    return config, results(world / "smallest")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_study_killed_at_an_unlucky_moment(world, smallest, moment):
    config, expected = smallest
    out = world / moment.replace(" ", "-")
    child = begin(out, config, before=MOMENTS[moment])
    assert child.wait() == -signal.SIGKILL, child.log.read_text()
    finish(out, config)
    assert_the_same(out, expected)
    states = [json.loads(path.read_text())["state"] for path in out.rglob("state.json")]
    assert states == ["done"] * 2 and not list(out.rglob("*.partial"))


# ------------------------------------------------------------------------------------------------- signals


def slow_steps():
    """Make a step, and a batch that is scored, last long enough that a signal falls into its middle."""
    import maple.evaluation.scoring
    import maple.module

    def slow(call):
        def slower(*arguments):
            time.sleep(0.1)
            return call(*arguments)

        return slower

    maple.module.token_loss = slow(maple.module.token_loss)
    maple.evaluation.scoring.Scoring.test_step = slow(maple.evaluation.scoring.Scoring.test_step)


STAGES = {
    "training": lambda out: list(out.glob("cells/*/fit/checkpoints/step-00000002")),
    "scoring": lambda out: list(out.glob("cells/*.r2.*/scores-*/predictions/xnli.en.jsonl")),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_it_with_one_sentence_and_the_same_command_goes_on(world, smallest, tell, number, stage):
    code, words = SIGNALS[number]
    config, expected = smallest
    out = world / f"study-{number.name}-{stage}"
    child = begin(out, config, before=slow_steps)
    assert child.until(lambda: STAGES[stage](out)), child.log.read_text()
    sent = time.monotonic()
    os.kill(child.pid, number)
    assert child.wait() == code, child.log.read_text()
    took, said = time.monotonic() - sent, child.log.read_text()
    assert "Traceback" not in said and said.count("stopped by") == 1
    last, end = said.splitlines()[-2:]
    assert last == f"What is finished is kept; to go on: python -m maple.study --out {out}" and end.startswith(words)
    assert took < 10
    finish(out)
    assert_the_same(out, expected)
    tell(f"{number.name} while a study is {stage}: exit code {code} after {took:.1f} s")


# ------------------------------------------------------------------------------------------------- no room


def no_large_files():
    """No file of this process may be longer than 6 kB: the adapter is."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))


def test_an_adapter_that_has_no_room_fails_and_is_tried_again_when_there_is(world, smallest):
    config, expected = smallest
    out = world / "study-large"
    child = begin(out, config, before=no_large_files)
    code, said = child.wait(), child.log.read_text()
    assert code == 1 and "Traceback" not in said, said
    assert re.search(r"r2\.4bit\.s0-\w{8}: failed, \d+ s: .*File too large", said)
    assert "error: 2 of 2 cells failed" in said and "--retry tries them again" in said.splitlines()[-1]
    finish(out, None, "--retry")
    assert_the_same(out, expected)


@pytest.mark.parametrize("attempt", range(3))
def test_a_full_disk_ends_it_in_one_sentence_and_it_goes_on_when_there_is_room(world, smallest, attempt):
    """From some call on nothing can be written, not even that a cell has failed."""
    config, expected = smallest
    out, rng = world / f"study-full-{attempt}", random.Random(SEED + attempt)

    def fill():
        disk, original = FullDisk(rng.randrange(1, 60), for_good=True), maple.cells.work._train

        def train(*arguments):
            disk.__enter__()
            return original(*arguments)

        maple.cells.work._train = train

    child = begin(out, config, before=fill)
    code, said = child.wait(), child.log.read_text()
    assert code == 2 and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("error: ") and said.splitlines()[-1].endswith("No space left on device")
    assert f"to go on: python -m maple.study --out {out}" in said.splitlines()[-2]
    finish(out)
    assert_the_same(out, expected)


# ------------------------------------------------------------------------------------------------- two at once; moved


def test_a_second_driver_is_refused_and_the_status_is_shown_while_the_first_is_at_work(world, smallest):
    config, expected = smallest
    out, log = world / "study-twice", world / "status.log"
    first = begin(out, config, before=slow_steps)
    assert first.until(lambda: STAGES["training"](out))
    second = begin(out, config)
    assert second.wait() == 2
    assert f"process {first.pid} on" in second.log.read_text().splitlines()[-1]
    seen = set()

    def look() -> bool:
        log.write_text("")
        assert Child(["--status", str(out)], log, verb=study, under=None).wait() == 0
        seen.update(re.findall(r"s0 +(training|scoring)", log.read_text()))
        return seen == {"training", "scoring"}

    first.until(look)
    assert first.wait() == 0, first.log.read_text()
    assert seen == {"training", "scoring"}
    log.write_text("")
    assert Child(["--status", str(out)], log, verb=study, under=None).wait() == 0
    assert "2 cells: 2 done" in log.read_text()
    assert_the_same(out, expected)


def test_a_study_that_was_killed_and_moved_goes_on_where_it_is_now(world, smallest):
    config, expected = smallest
    out = world / "study-here"
    child = begin(out, config, before=slow_steps)
    assert child.until(lambda: STAGES["scoring"](out))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    (world / "moved").mkdir()
    moved = out.rename(world / "moved" / "study-there")
    log = world / "status-moved.log"
    assert Child(["--status", str(moved)], log, verb=study, under=None).wait() == 0
    assert "1 stopped" in log.read_text()
    finish(moved)
    assert_the_same(moved, expected)


def test_another_rank_and_another_language_are_all_that_is_run(world, whole):
    out = Path(shutil.copytree(whole[0], world / "study-more"))
    before, config = content(out), yaml.safe_load((out / "study.yaml").read_text())
    said = finish(out, written(world / "rank.yaml", config | {"grid": {"rank": [1, 2, 4]}}))
    assert "1 cells to do" in said and "7 of 7" in said
    after = content(out)
    assert {name for name in before if after[name] != before[name]} == {"study.yaml"}
    said = finish(
        out, written(world / "language.yaml", config | {"evaluate": config["evaluate"] | {"languages": "en,it,de"}})
    )
    assert "6 cells to do" in said and "6 of 6" in said
    again = content(out)
    changed = {name.split("/")[-1] for name in after if again[name] != after[name]}
    assert changed == {"study.yaml", "cell.json", "state.json", "scores.json", "config.yaml"}
    assert {name.split("/")[-1] for name in again.keys() - after.keys()} == {
        *(f"{task}.de.jsonl" for task in ("xnli", "xquad", "alpaca_eval")), "alpaca_eval.de.annotations.json",
        "alpaca_eval.de.model_outputs.json",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- the command itself


@pytest.fixture(scope="module")
def quick(world):
    """configs/study-quick.yaml by the command: (its folder, what was said, seconds)."""
    started = time.monotonic()
    done = command("--config", str(QUICK), "--out", str(world / "quick"))
    assert done.returncode == 0, done.stderr
    return world / "quick", done, time.monotonic() - started


def command(*flags: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "maple.study", *flags]
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_the_quick_study_run_twice_does_nothing_the_second_time(quick, tell):
    out, first, seconds = quick
    assert first.stderr == "" and len(first.stdout.splitlines()) == 1 + 6 + 1
    before, started = content(out), time.monotonic()
    second = command("--config", str(QUICK), "--out", str(out))
    took = time.monotonic() - started
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout == f"6 of 6 cells are finished. To see them: python -m maple.report {out}\n"
    after = content(out)
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} == {"study.yaml"}
    assert before["study.yaml"][0] == after["study.yaml"][0] and took < seconds / 4
    tell(f"the quick study: {seconds:.0f} s; again: nothing done, {took:.1f} s")


def test_an_adapter_on_two_devices(world, small):
    config = yaml.safe_load(small.read_text())
    fit, evaluate = config["fit"] | {"devices": 2}, config["evaluate"] | {"tasks": "xnli"}
    path = written(world / "devices.yaml", {"fit": fit, "grid": {"rank": [2]}, "evaluate": evaluate})
    done = command("--config", str(path), "--out", str(world / "devices"))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "2 of 2 cells are finished" in done.stdout and len(done.stdout.splitlines()) == 4
    (job,) = (job for job in jobs_in(world / "devices") if job.cell.rank)
    said = (job.folder / "log.txt").read_text()
    assert "step 8/8" in said and "xnli it: acc" in said
    state = json.loads((job.folder / "state.json").read_text())
    assert (state["state"], state["step"], state["of"]) == ("done", 8, 8) and state["loss"] > 0
