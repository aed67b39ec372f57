"""Several processes: one that dies ends the run with one sentence, a signal stops all at one step, nothing is lost."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maple import cli, ranks
from maple.checkpoint import steps, verify
from maple.fit import fit
from maple.outputs import own_flags
from tests.faults.conftest import adapter
from tests.ranks import Forks

TWO = ["--max-steps", "6", "--accumulate", "2", "--dropout", "0.1", "--batch-tokens", "256", "--max-length", "128"]
TWO += ["--rank", "4", "--lr", "0.005", "--checkpoint-every", "2", "--device", "cpu", "--devices", "2"]
PATIENCE = 60  # seconds that a run may take to end, on a machine that has other things to do
ENDED = re.compile(
    r"error: process (\d) of 2 was killed by SIGKILL.*step-\d+ is kept; to go on: python -m maple.fit --out"
)


@pytest.fixture(scope="module")
def undisturbed_by(world):
    """The adapter of a run of two processes that nobody disturbed, of each strategy."""
    found = {}

    def adapter_of(strategy: str) -> bytes:
        if strategy not in found:
            forks = forked(world, f"two-{strategy}", *TWO, "--strategy", strategy)
            assert forks.wait() == [0, 0], forks.said()
            found[strategy] = adapter(world / f"two-{strategy}")
        return found[strategy]

    return adapter_of


def forked(world, name, *flags, before=lambda: None) -> Forks:
    """Two processes as torchrun starts them."""
    data = [] if "--resume" in flags else ["--data", str(world / "data")]

    def work():
        before()
        cli.main(fit, [*data, "--out", str(world / name), *flags], under=own_flags)

    return Forks(work, world / f"{name}.logs")


def commanded(world, name, *flags) -> subprocess.Popen:
    """`python -m maple.fit --devices 2`, which starts its processes itself."""
    command = [sys.executable, "-m", "maple.fit", *TWO, "--data", world / "data", "--out", world / name, *flags]
    with (world / f"{name}.out").open("w") as out, (world / f"{name}.err").open("w") as err:
        return subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | {"OMP_NUM_THREADS": "1"})


def rank_of(process: Path) -> int | None:
    """The rank of one of the processes that maple.fit started, by its environment."""
    try:
        names = (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended
        return None
    names = dict(name.decode(errors="replace").partition("=")[::2] for name in names)
    return int(names["RANK"]) if ranks.LAUNCHED in names and "RANK" in names else None


def processes_of(parent: int) -> dict[int, int]:
    """rank -> process."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            above = int(status.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if above == parent and (rank := rank_of(status.parent)) is not None:
            found[rank] = int(status.parent.name)
    return found


def in_the_middle(run: Path, process: subprocess.Popen) -> dict[int, int]:
    """Wait until the second step is done."""
    while process.poll() is None:
        if (run / "metrics.csv").exists() and (run / "metrics.csv").read_text().count("\n") >= 4:
            return processes_of(process.pid)
        time.sleep(0.02)
    raise AssertionError(f"it ended: {run.with_suffix('.err').read_text()}")


def gone(pids) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(("strategy", "killed"), [("ddp", 1), ("fsdp", 0)])
def test_a_process_that_is_killed_ends_the_run_with_one_sentence(world, undisturbed_by, tell, strategy, killed):
    name = f"killed-{strategy}"
    process = commanded(world, name, "--strategy", strategy)
    pids = in_the_middle(world / name, process)
    sent = time.monotonic()
    os.kill(pids[killed], signal.SIGKILL)
    assert process.wait(PATIENCE) == 1
    seconds = time.monotonic() - sent
    said = (world / f"{name}.err").read_text()
    assert said.count("\n") == 1 and ENDED.match(said) and ENDED.match(said)[1] == str(killed)
    assert gone(pids.values()) and verify(steps(world / name / "checkpoints")[-1])
    forks = forked(world, name, "--resume")
    assert forks.wait() == [0, 0], forks.said()
    assert adapter(world / name) == undisturbed_by(strategy)
    tell(
        f"SIGKILL of process {killed} of 2 ({strategy}): one sentence after {seconds:.1f} s, resumed adapter byte-equal"
    )


@pytest.mark.parametrize(
    ("strategy", "number", "code"), [("fsdp", signal.SIGTERM, 143), ("ddp", signal.SIGINT, 130)]
)  # fmt: skip
def test_a_signal_to_whoever_started_them_stops_all_at_one_step(world, undisturbed_by, strategy, number, code):
    name = f"stopped-{strategy}"
    process = commanded(world, name, "--strategy", strategy)
    pids = in_the_middle(world / name, process)
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    said = (world / f"{name}.err").read_text()
    assert said == ("stopped by SIGTERM\n" if code == 143 else "stopped by Ctrl-C\n") and gone(pids.values())
    kept = verify(steps(world / name / "checkpoints")[-1]).manifest["step"]
    assert f"Step {kept} is kept" in (world / f"{name}.out").read_text()
    forks = forked(world, name, "--resume")
    assert forks.wait() == [0, 0], forks.said()
    assert adapter(world / name) == undisturbed_by(strategy)


def test_processes_whose_starter_was_killed_keep_their_step_and_end(world, undisturbed_by):
    process = commanded(world, "orphans")
    pids = in_the_middle(world / "orphans", process)
    process.kill()
    process.wait()
    until = time.monotonic() + PATIENCE
    while not gone(pids.values()) and time.monotonic() < until:
        time.sleep(0.1)
    assert gone(pids.values())
    assert verify(steps(world / "orphans" / "checkpoints")[-1]).manifest["step"] >= 2
    forks = forked(world, "orphans", "--resume")
    assert forks.wait() == [0, 0], forks.said()
    assert adapter(world / "orphans") == undisturbed_by("ddp")


def rank_1_gets_a_signal():
    import maple.module

    original = maple.module.FineTuning.optimizer_step

    def signalled(self, *arguments, **settings):
        original(self, *arguments, **settings)
        if self.step == 3 and ranks.here().number == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    maple.module.FineTuning.optimizer_step = signalled


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_signal_to_one_of_them_stops_all_and_one_says_so(world, undisturbed_by, strategy):
    name = f"one-stopped-{strategy}"
    forks = forked(world, name, *TWO, "--strategy", strategy, before=rank_1_gets_a_signal)
    assert forks.wait() == [143, 143], forks.said()
    assert forks.said().count("stopped by SIGTERM") == 1 and "Step 3 is kept" in forks.said()
    forks = forked(world, name, "--resume")
    assert forks.wait() == [0, 0], forks.said()
    assert adapter(world / name) == undisturbed_by(strategy)


def rank_1_dies():
    import maple.module

    original = maple.module.token_loss

    def dying(*arguments):
        dying.calls += 1
        if dying.calls == 6 and ranks.here().number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    dying.calls = 0
    maple.module.token_loss = dying


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_under_torchrun_or_slurm_who_is_left_says_that_another_is_gone(world, strategy):
    name = f"lost-{strategy}"
    forks = forked(world, name, *TWO, "--strategy", strategy, before=rank_1_dies)
    assert forks.wait() == [1, -signal.SIGKILL], forks.said()
    said = [line for line in forks.said().splitlines() if "error" in line.lower()]
    assert len(said) == 1 and said[0].startswith("error: another process of the run is gone")
    assert re.search(r"step-\d+ is kept; to go on: python -m maple.fit --out \S+ --resume$", said[0])
    assert "Traceback" not in forks.said() and verify(steps(world / name / "checkpoints")[-1])
