"""An evaluation that is killed, stopped or starved ends, resumed, in the same bytes, and scores nothing twice."""

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

import pytest

import maple.evaluation.run  # noqa: F401 - so that the children need not
from maple.evaluate import evaluate
from tests.conftest import SEED
from tests.faults.conftest import Child
from tests.ranks import LIMIT

KILLS = 7
ASKED = ["--model", "tiny", "--tasks", "xnli,xquad,alpaca_eval", "--languages", "en,it", "--limit", "12"]
ASKED += ["--batch-size", "3", "--device", "cpu"]
UNITS = [f"{task} {code}" for task in ("xnli", "xquad", "alpaca_eval") for code in ("en", "it")]
SIGNALS = {signal.SIGTERM: (143, "stopped by SIGTERM"), signal.SIGINT: (130, "stopped by Ctrl-C")}


def begin(run, *flags, before=lambda: None) -> Child:
    """The evaluation in this folder; with --resume go on with it."""
    asked = [] if "--resume" in flags else ASKED
    return Child([*asked, "--out", str(run), *flags], run.with_name(f"{run.name}.log"), before, verb=evaluate)


def content(run):
    """All files of a run."""
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def done(run) -> list[str]:
    """The tasks and languages that scores.json names."""
    if not (run / "scores.json").exists():
        return []
    return list(
        dict.fromkeys(f"{row['task']} {row['language']}" for row in json.loads((run / "scores.json").read_text()))
    )


def told(log) -> list[str]:
    """The tasks and languages that were scored, by what was said of each."""
    return re.findall(r"^(\w+ \w\w): ", log, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def whole(world):
    """(the files of an evaluation that nobody disturbed, the seconds it took)."""
    run = world / "whole-evaluation"
    child = begin(run)
    assert child.wait() == 0, child.log.read_text()
    assert told(child.log.read_text()) == done(run) == UNITS
    return content(run), child.seconds


def assert_resumes(run, whole):
    """What is there is not scored again, and the end is that of a run that nobody disturbed."""
    kept = done(run)
    times = {path: path.stat().st_mtime_ns for path in run.glob("predictions/*") if is_of(path, kept)}
    child = begin(run, "--resume")
    before = child.log.stat().st_size if child.log.exists() else 0
    assert child.wait() == 0, child.log.read_text()
    assert told(child.log.read_bytes()[before:].decode()) == [unit for unit in UNITS if unit not in kept]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert content(run) == whole


def is_of(path, units) -> bool:
    return " ".join(path.name.split(".")[:2]) in units


def test_an_evaluation_killed_at_random_moments_ends_in_the_same_bytes(world, whole, tell):
    expected, seconds = whole
    rng, kept = random.Random(SEED), []
    for number in range(KILLS):
        run = world / f"evaluation-{number}"
        child = begin(run)
        child.kill_at(rng.uniform(0.1, seconds))
        assert child.wait() in (0, -signal.SIGKILL), child.log.read_text()
        if not (run / "config.yaml").exists():  # before the model was there
            shutil.rmtree(run, ignore_errors=True)
            continue
        kept.append(len(done(run)))
        assert_resumes(run, expected)
        shutil.rmtree(run)
    tell(f"SIGKILL of an evaluation: {KILLS} kills, behind {kept} of {len(UNITS)} parts; all ended in the same bytes")


def kills_itself_between_two_writes():
    """Die when the third file of predictions is written and scores.json is not."""
    import maple.evaluation.results as results

    write, seen = results.replace_file, []

    def dying(path, text):
        if path.name == "scores.json" and len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.extend([path] if path.name == "scores.json" else [])
        write(path, text)

    results.replace_file = dying


def test_predictions_without_scores_are_made_again(world, whole):
    run = world / "between"
    assert begin(run, before=kills_itself_between_two_writes).wait() == -signal.SIGKILL
    assert done(run) == UNITS[:2] and (run / "predictions" / "xquad.en.jsonl").is_file()
    assert_resumes(run, whole[0])


def slow_batches():
    """Make a batch last long enough that a signal falls into its middle."""
    from maple.evaluation.scoring import Scoring

    step = Scoring.test_step

    def slow(self, *batch):
        time.sleep(0.1)
        return step(self, *batch)

    Scoring.test_step = slow


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_it_with_one_sentence_and_it_goes_on(world, whole, tell, number):
    code, words = SIGNALS[number]
    rng, slowest = random.Random(SEED), 0.0
    for parts in (0, 2):
        run = world / f"evaluation-{number.name}-{parts}"
        child = begin(run, before=slow_batches)
        assert child.until(lambda: (run / "config.yaml").exists() and len(done(run)) >= parts)  # noqa: B023
        time.sleep(rng.uniform(0, 0.3))
        sent = time.monotonic()
        os.kill(child.pid, number)
        assert child.wait() == code, child.log.read_text()
        slowest = max(slowest, time.monotonic() - sent)
        said = child.log.read_text()
        assert "Traceback" not in said and said.splitlines()[-1].startswith(words)
        assert said.count("stopped by") == 1
        assert_resumes(run, whole[0])
    assert slowest < 10
    tell(f"{number.name} in an evaluation: exit code {code} within {slowest:.1f} s, and the same bytes when resumed")


def full_disk():
    """No file of this process may be longer than 4 kB: predictions are 5."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))


def test_a_disk_that_is_full_is_told_and_a_resume_goes_on(world, whole):
    run = world / "full"
    child = begin(run, before=full_disk)
    code, said = child.wait(), child.log.read_text()
    assert code == 2 and "Traceback" not in said, said
    assert said.splitlines()[-1].endswith(".partial: File too large") and done(run) == []
    assert not list(run.glob("predictions/.*"))
    assert_resumes(run, whole[0])


def test_the_command_on_two_devices_that_one_is_taken_from(world):
    run = world / "two-devices"
    words = [sys.executable, "-m", "maple.evaluate", *ASKED, "--limit", "60", "--devices", "2", "--out", str(run)]
    log = world / "two-devices.err"
    with log.open("w") as err:
        launched = subprocess.Popen(words, stdout=err, stderr=err, env=os.environ | {"OMP_NUM_THREADS": "1"})
    until = time.monotonic() + LIMIT
    while not done(run) and time.monotonic() < until and launched.poll() is None:
        time.sleep(0.01)
    child = next(child for child in children(launched.pid) if rank_of(child) == "1")
    os.kill(child, signal.SIGKILL)
    assert launched.wait(LIMIT) == 1
    said = log.read_text()
    assert "Traceback" not in said, said
    assert "error: process 1 of 2 was killed by SIGKILL and the others ended with it; config.yaml is kept; to g" in said
    resumed = begin(run, "--resume", "--devices", "1")
    assert resumed.wait() == 0, resumed.log.read_text()
    assert done(run) == UNITS


def children(pid):
    """Of a process, also theirs."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            for child in map(int, file.read().split()):
                yield child
                yield from children(child)


def rank_of(pid) -> str | None:
    with open(f"/proc/{pid}/environ", "rb") as file:
        names = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
    return names.get(b"RANK", b"").decode() or None
