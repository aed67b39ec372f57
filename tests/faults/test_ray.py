"""A study on a real Ray: whatever is killed, every cell ends once, with the bytes of a study in one process."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from itertools import pairwise
from pathlib import Path

import pytest
import ray
import yaml

from maple import ranks
from maple.cells import bases, cell, grid, on_ray
from maple.cells.engine import Here, Needs
from maple.cells.job import Job
from maple.cells.work import work_on
from maple.lock import locked
from maple.study import study
from tests.faults.conftest import Child
from tests.ranks import Forks

FIT = {"model": "tiny", "max_steps": 15, "batch_tokens": 512, "max_length": 128, "device": "cpu", "checkpoint_every": 2}
GRID = {"rank": [4, 16], "bits": [4, 8]}  # and a base of each bits
EVALUATE = {"tasks": "xnli,xquad", "limit": 5, "languages": "en,de"}
CELLS = 6
MARK = "MAPLE_TEST_RAY"  # in the environment of every process that is started here
PATIENCE = 100  # seconds, on a machine that has other things to do


@pytest.fixture(scope="module", autouse=True)
def marked():
    """Nothing that was started here is left behind, not even what only notices its cluster's death after minutes."""
    own = {MARK: str(os.getpid()), "RAY_worker_niceness": "0"}  # else whoever else is on the machine gets all of it
    own |= {"RAY_AUTH_TOKEN": uuid.uuid4().hex}  # else Ray leaves one in the home
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        yield
        for pid in started():
            os.kill(pid, signal.SIGKILL)


def started(kind: str = "") -> list[int]:
    """Processes that have the mark, and this in their name; a process gives itself its name, as ray::_do."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            names, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        if f"{MARK}={os.getpid()}".encode() in environment.split(b"\0") and kind.encode() in names:
            found.append(int(process.name))
    return found


@pytest.fixture(scope="module")
def file(world) -> Path:
    path = world / "study.yaml"
    path.write_text(yaml.safe_dump({"fit": FIT | {"data": str(world / "data")}, "grid": GRID, "evaluate": EVALUATE}))
    return path


def states(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("cells/*/state.json")}


def made(folder: Path) -> dict[str, list]:
    """Of each cell its adapter, its scores but for the adapter's path, and its predictions."""
    found = {}
    for one in sorted(folder.glob("cells/*")):
        (scores,) = one.glob("scores-*")
        rows = json.loads((scores / "scores.json").read_text())
        for row in rows:
            row["settings"].pop("adapter")
        predictions = [path.read_bytes() for path in sorted(scores.glob("predictions/*"))]
        adapters = [path.read_bytes() for path in one.glob("fit/adapter/adapter_model.safetensors")]
        assert len({(row["task"], row["language"]) for row in rows}) == len(predictions) == 4
        found[one.name] = [adapters, rows, predictions]
    return found


# ------------------------------------------------------------------------------------------------- what it costs


def timed(job: Job) -> tuple[float, float, int, int, str | None]:
    """When a cell begins and ends, in which process, the bases that were loaded there so far, and what went wrong."""
    if not hasattr(bases, "loads"):
        load, bases.loads = bases.load_model, 0

        def counted(*given, **named):
            bases.loads += 1
            return load(*given, **named)

        bases.load_model = counted
    began = time.time()
    error = work_on(job)
    return began, time.time(), os.getpid(), bases.loads, error


@pytest.fixture(scope="module")
def measured(world, file):
    """The study in one process, and on a Ray with one process: what `timed` says of each, and the seconds in all."""

    def work():
        one_core()
        settled = grid.plan(grid.read_study(file))
        found = {}
        for name in ("here", "on_ray"):
            (world / name).mkdir()
            with locked(world / name):
                engine = Here() if name == "here" else on_ray.OnRay(None, world / name)
                jobs = [Job(world / name, one, settled.evaluate, settled.bookkeeping, 1) for one in settled.cells]
                began = time.time()
                each = list(engine.each(timed, [(job, Needs(1)) for job in jobs]))
                found[name] = [began, time.time(), each]
        (world / "measured.json").write_text(json.dumps(found))

    forks = Forks(work, world / "measured", world=1, names=lambda *_: {})
    assert forks.wait() == [0], forks.said()
    return json.loads((world / "measured.json").read_text())


@pytest.fixture(scope="module")
def expected(world, measured) -> dict[str, list]:
    """What the study in one process made."""
    return made(world / "here")


def test_ray_costs_its_start_and_next_to_nothing_a_cell(world, measured, expected, tell):
    began, ended, each = measured["on_ray"]
    assert [number for number, _ in each] == list(range(CELLS)) and made(world / "on_ray") == expected
    cells = [found for _, found in each]
    assert len({process for _, _, process, _, _ in cells}) == 1 and not any(error for *_, error in cells)
    loads = [loads for _, _, _, loads, _ in cells]
    assert loads == [1, 1, 1, 2, 2, 2]  # of 4 bits, of 8 bits: cells of one base follow each other in one process
    between = [after[0] - before[1] for before, after in pairwise(cells)]
    start, alone = cells[0][0] - began, measured["here"][1] - measured["here"][0]
    assert max(between) < 1
    tell(
        f"Ray: {start:.1f} s to its first cell, then {1000 * sum(between) / len(between):.0f} ms from one cell to the "
        f"next; {CELLS} cells in {ended - began - start:.1f} s, without Ray {alone:.1f} s "
        f"({(ended - began - start - alone) / CELLS:+.2f} s a cell); {loads[-1]} bases loaded in both"
    )


# ------------------------------------------------------------------------------------------------- what is lost


class Machine:
    """`ray start`, as in a job of SLURM's with a process on each of two machines; both are this one."""

    def __init__(self, folder: Path, *where: str):
        self.log = folder / f"ray-{len(where)}.log"
        command = [str(Path(sys.executable).parent / "ray"), "start", *where, "--block", "--num-cpus", "1"]
        command += ["--object-store-memory", str(on_ray.STORE), "--disable-usage-stats"]
        slurm = {"NTASKS": "2", "PROCID": "1", "LOCALID": "0", "JOB_NAME": "study"}
        environment = os.environ | {f"SLURM_{name}": value for name, value in slurm.items()}
        environment["RAY_AUTH_MODE"] = "disabled"  # as in this process, where ray has been imported
        before = started("raylet/raylet")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        while "Ray runtime started" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)
        (self.raylet,) = set(started("raylet/raylet")) - set(before)


@pytest.fixture(scope="module")
def cluster(world):
    """The address of a cluster, and the machines of it. No part of it is in this process, which forks."""
    with socket.socket() as free, tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short, as names of sockets are
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        head = Machine(world, "--head", "--port", address.rpartition(":")[2], "--temp-dir", folder)
        machines = [head, Machine(world, "--address", address)]
        yield address, machines
        for machine in machines:  # what they started goes with all that is marked
            machine.process.kill()
            machine.process.wait()


@functools.wraps(study)
def study_and_exit(**flags) -> None:
    """A fork of ours leaves without what Ray has Python do at its exit."""
    try:
        study(**flags)
    finally:
        ray.shutdown()


def begin(world, file, name, *flags, before=lambda: None) -> Child:
    flags = ["--config", str(file), "--out", str(world / name), "--engine", "ray", *flags]
    return Child(flags, world / f"{name}.log", before, verb=study_and_exit, under=None)


def stop(child: Child, number: int, code: int, pid: int) -> float:
    """Send the driver a signal; seconds until it and its worker have ended."""
    sent = time.monotonic()
    os.kill(child.pid, number)
    assert child.wait() == code, child.log.read_text()
    while Path(f"/proc/{pid}").exists() and time.monotonic() < sent + PATIENCE:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    return time.monotonic() - sent


def worker(child: Child, folder: Path, raylet: int | None = None) -> int:
    """A process that is training and past its first checkpoint; that raylet's, where one is given. Waits for one."""
    found = []

    def is_there() -> bool:
        training = [state for state in states(folder).values() if state["state"] == cell.TRAINING]
        begun = [state for state in training if (state.get("step") or 0) > 2 and not cell.is_gone(state)]
        pids = [int(state["where"].split()[1]) for state in begun]
        found[:] = [pid for pid in pids if raylet in (None, parent(pid))]
        return bool(found)

    assert child.until(is_there), child.log.read_text()
    return found[0]


def interrupted(folder: Path) -> int:
    """Cells that were begun and not ended; what is at work when its driver is killed may end first."""
    return sum(state["state"] != cell.DONE for state in states(folder).values() if state.get("attempts"))


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except FileNotFoundError:
        return 0


def test_a_killed_worker_and_a_lost_machine_lose_nothing(world, file, cluster, expected, tell):
    address, (first, second) = cluster
    child, folder = begin(world, file, "lost", "--address", address), world / "lost"
    seconds = stop(child, signal.SIGTERM, 143, worker(child, folder))
    assert child.log.read_text().endswith("\nstopped by SIGTERM\n")
    child.log.unlink()
    cut = interrupted(folder)
    child = begin(world, file, "lost", "--address", address)
    os.kill(worker(child, folder, first.raylet), signal.SIGKILL)
    own = worker(child, folder, second.raylet)
    for process in (second.raylet, own):  # a machine goes with all that is on it
        os.kill(process, signal.SIGKILL)
    lost = time.monotonic()
    assert child.wait() == 0, child.log.read_text()
    assert made(folder) == expected
    found = states(folder).values()
    assert {state["state"] for state in found} == {cell.DONE}
    attempts = sum(state["attempts"] for state in found)
    assert attempts == CELLS + cut + 2
    said = child.log.read_text()
    assert said.count("\n") == 2 + len(re.findall(r"^tiny\.\S+: done, \d+ s$", said, re.M)), said
    tell(
        f"Ray, two machines: the driver terminated (ended after {seconds:.1f} s), a worker killed, a machine lost: "
        f"{CELLS} of {CELLS} cells done in {attempts} attempts, all bytes equal, {time.monotonic() - lost:.0f} s after "
        "the loss"
    )


def impatient():
    on_ray.SILENCE = 3


def test_a_cluster_that_is_gone_is_one_sentence(world, file, cluster):
    child, folder = begin(world, file, "gone", "--address", cluster[0], before=impatient), world / "gone"
    worker(child, folder)
    for head in started("gcs_server"):
        os.kill(head, signal.SIGKILL)
    assert child.wait() == 1
    said = child.log.read_text().splitlines()
    assert re.match(r"error: the Ray cluster no longer answers \(.*\); the same command goes on", said[-1]), said
    assert not any("Traceback" in line for line in said)


def one_core():
    ranks.cores = lambda: 1


def test_a_driver_that_is_killed_or_interrupted_goes_on_with_the_same_command(world, file, expected, tell):
    folder, seconds, done, cut = world / "driver", [], set(), 0
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        child = begin(world, file, "driver", before=one_core)
        seconds.append(stop(child, number, code, worker(child, folder)))
        finished = {name for name, state in states(folder).items() if state["state"] == cell.DONE}
        assert done <= finished
        done, cut = finished, cut + interrupted(folder)
    assert child.log.read_text().endswith("\nstopped by Ctrl-C\n") and not started("ray::_do")
    child = begin(world, file, "driver", before=one_core)
    assert child.wait() == 0, child.log.read_text()
    assert made(folder) == expected and {state["state"] for state in states(folder).values()} == {cell.DONE}
    assert "Traceback" not in child.log.read_text()
    assert sum(state["attempts"] for state in states(folder).values()) == CELLS + cut
    tell(
        f"Ray, the driver killed and interrupted: all ended after {seconds[0]:.1f} and {seconds[1]:.1f} s, {CELLS} of "
        f"{CELLS} cells done in {CELLS + cut} attempts, all bytes equal"
    )
