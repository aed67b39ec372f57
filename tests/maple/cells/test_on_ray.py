"""Jobs as tasks of a real Ray on this machine; what is wrong with a cluster, in one sentence."""

import multiprocessing
import os
import signal
import socket
import sys
import time
import uuid
from concurrent.futures import ProcessPoolExecutor

import pytest
import ray
import torch

from maple import ranks
from maple.cells import on_ray
from maple.cells.cell import read_state
from maple.cells.checks import Found
from maple.cells.driver import Driver
from maple.cells.engine import Needs
from maple.cells.grid import plan, read_study
from maple.cells.job import Job
from maple.cells.on_ray import OnRay
from maple.errors import InputError, LostError
from maple.lock import NAME as LOCK
from maple.lock import locked
from maple.study import choose_engine

GPU_NODE = {"CPU": 32.0, "GPU": 8.0, "memory": 400.0 * 2**30}
CPU_NODE = {"CPU": 4.0, "memory": 16.0 * 2**30}


# ------------------------------------------------------------------------------------------------- without a cluster


def test_where_ray_is_not_installed_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "maple.cells.on_ray")
    with pytest.raises(InputError, match=r"Ray is not installed; pip install 'maple-lora\[ray\]'"):
        choose_engine("ray", None, tmp_path)


@pytest.mark.parametrize("address", ["here", "ray://host:10001", "host", "host:", "host:port", "a b:1", ""])
def test_an_address_is_auto_or_a_host_and_its_port(address, tmp_path):
    with pytest.raises(InputError, match="must be auto or host:port"):
        OnRay(address, tmp_path)


def test_where_nothing_answers_that_is_told_at_once(tmp_path, monkeypatch):
    with socket.socket() as taken:  # bound, and listening to nobody
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        for wrong in (address, "127.0.0.1:99999", "no.such.host.invalid:6379"):
            with pytest.raises(InputError, match=f"--address {wrong}: nothing answers there"):
                OnRay(wrong, tmp_path).connect()
        assert time.monotonic() - began < on_ray.REACH


@pytest.mark.parametrize(
    ("nodes", "needs", "takes"),
    [
        ([CPU_NODE], Needs(), (4, 0)),
        ([CPU_NODE, CPU_NODE | {"CPU": 2.0}], Needs(), (2, 0)),  # as many as every machine has
        ([CPU_NODE, CPU_NODE | {"CPU": 2.0}], Needs(3), (3, 0)),
        ([CPU_NODE, GPU_NODE], Needs(), (4, 0)),  # --device cpu
        ([CPU_NODE, GPU_NODE], Needs(gpus=None), (4, 1)),  # --device auto: eight at once on the machine with GPUs
        ([CPU_NODE, GPU_NODE], Needs(gpus=2), (8, 2)),
        ([CPU_NODE, GPU_NODE], Needs(cores=1, gpus=2), (1, 2)),
        ([CPU_NODE], Needs(gpus=None), (4, 0)),
        ([GPU_NODE | {"CPU": 4.0}], Needs(gpus=1), (1, 1)),
    ],
)
def test_a_cell_takes_its_share_of_a_machine(monkeypatch, nodes, needs, takes):
    monkeypatch.setattr(on_ray, "_nodes", lambda: nodes)
    found = on_ray._settled(needs)
    assert (found["CPU"], found["GPU"], found["memory"]) == (*takes, on_ray.LIBRARIES)


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Needs(8), "8 cores, 0 GPUs and 0.7 GiB"),
        (Needs(gpus=1), "1 core, 1 GPU and 0.7 GiB"),
        (Needs(memory=20 * 2**30), "4 cores, 0 GPUs and 20.7 GiB"),
    ],
)
def test_what_no_machine_has_is_told_and_not_waited_for(monkeypatch, tmp_path, needs, words):
    monkeypatch.setattr(on_ray, "_nodes", lambda: [CPU_NODE, CPU_NODE])
    monkeypatch.setattr(OnRay, "connect", lambda _: None)
    expected = rf"a cell takes {words}, and no machine .* \(there: 4 cores, 0 GPUs and 16.0 GiB\)"
    with pytest.raises(InputError, match=expected):
        next(OnRay(None, tmp_path).each(abs, [(1, Needs(1)), (1, needs)]))


def test_a_machine_that_does_not_see_the_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(on_ray, "APPEAR", 0)
    with locked(tmp_path):
        token = (tmp_path / LOCK).read_text()
        on_ray._see(tmp_path, token)
        for folder, wanted in ((tmp_path / "elsewhere", token), (tmp_path, "process 1 on another")):
            with pytest.raises(InputError, match="does not see what is written there; give a folder that all"):
                on_ray._see(folder, wanted)


def rank_and_threads(_):
    return ranks.here().world, torch.get_num_threads()


def test_a_job_is_alone_though_slurm_started_ray_as_one_of_several(monkeypatch, tmp_path):
    for name, value in {"NTASKS": 4, "PROCID": 2, "LOCALID": 0, "JOB_NAME": "study"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert ranks.here().world == 4
    with locked(tmp_path):
        assert on_ray._do(rank_and_threads, None, 2, tmp_path, (tmp_path / LOCK).read_text()) == (1, 2)


class Losing:
    """An engine with which every job ends every process."""

    def each(self, _, jobs):
        return ((number, LostError("its machine had no memory left for it")) for number, _ in enumerate(jobs))


def test_a_cell_that_is_lost_has_failed_and_says_why(tmp_path):
    (tmp_path / "study.yaml").write_text("grid: {rank: [1, 2]}\nfit: {model: tiny, device: cpu}\n")
    config = read_study(tmp_path / "study.yaml")
    driver = Driver(config, plan(config), tmp_path, None, False)
    jobs = [Job(tmp_path, cell, driver.plan.evaluate) for cell in driver.plan.cells]
    for job in jobs:
        job.folder.mkdir(parents=True)
    driver.work(Losing(), jobs, jobs, {"of any": Found()})
    assert [job.has_failed for job in jobs] == [True] * 3 and not any(job.is_finished for job in jobs)
    assert {read_state(job.folder)["error"] for job in jobs} == {"its machine had no memory left for it"}
    with pytest.raises(LostError, match="its machine had no memory"):
        driver.look(Losing(), jobs, jobs)


# ------------------------------------------------------------------------------------------------- on a real one


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """Call a function in a process with a Ray of two cores: other tests fork this one, which Ray is not made for."""
    folder, token = tmp_path_factory.mktemp("study"), uuid.uuid4().hex
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start, (folder, token)) as driver:
        yield lambda function, *given: driver.submit(function, *given).result()
        driver.submit(ray.shutdown)


def start(folder, token):
    global engine
    os.environ |= {"RAY_AUTH_TOKEN": token}  # else Ray leaves one in the home
    ranks.cores, on_ray.AGAIN = lambda: 2, 1
    (folder / LOCK).write_text("held")
    engine = OnRay(None, folder)
    engine.connect()


def done(function, *jobs):
    return list(engine.each(function, jobs))


def slowly(seconds):
    time.sleep(seconds)
    return seconds


def test_results_come_as_they_are_done(drive):
    assert drive(done, slowly, (1.5, Needs(1)), (0, Needs(1))) == [(1, 0), (0, 1.5)]
    assert drive(done, slowly) == []


def test_a_job_computes_with_the_threads_that_it_takes_and_leaves_its_process_to_the_next(drive):
    found = drive(done, process_and_threads, (None, Needs(2)), (None, Needs(2)), (None, Needs(None)))
    assert [number for number, _ in found] == [0, 1, 2]
    assert len({process for _, (process, _) in found}) == 1 and {threads for _, (_, threads) in found} == {2}


def process_and_threads(_):
    return os.getpid(), torch.get_num_threads()


def dies_once(trace):
    if not trace.exists():
        trace.write_text("here I was")
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def dies(_):
    os.kill(os.getpid(), signal.SIGKILL)


def fails(_):
    raise ValueError("half of it\nwas missing")


def is_wrong(_):
    raise InputError("--data x: it is gone")


def test_a_job_whose_process_is_killed_is_done_again(drive, tmp_path, capfd):
    assert drive(done, dies_once, (tmp_path / "trace", Needs(1))) == [(0, "done")]
    assert capfd.readouterr() == ("", "")


def test_a_job_that_ends_every_process_ends_and_the_others_go_on(drive):
    found = dict(drive(done, dies, (0, Needs(1))))
    assert isinstance(found[0], LostError) and str(found[0]).startswith("its process or machine was lost, 2 times")
    found = dict(drive(done, fails, (0, Needs(1)), (1, Needs(1))))
    assert [str(found[number]) for number in (0, 1)] == ["ValueError: half of it"] * 2


def test_wrong_input_that_only_a_machine_notices_ends_all(drive):
    with pytest.raises(InputError, match="--data x: it is gone"):
        drive(done, is_wrong, (0, Needs(1)))


def test_the_driver_keeps_its_own_way_with_sigterm(drive):
    assert drive(signal.getsignal, signal.SIGTERM) == signal.SIG_DFL


def what_is_noticed():
    """What a watch says of a cell that no machine has room for, of a Ray that is gone, of a head that is silent."""
    watch, large, taken = on_ray.Watch(), [{"CPU": 64.0, "GPU": 0, "memory": 0}], socket.socket()
    watch.look([{"CPU": 2.0, "GPU": 0, "memory": 0}])
    watch.look(large)  # a machine may come back
    on_ray.RETURN = 0
    found = [said_by(watch, large)]
    is_here, on_ray._is_here = on_ray._is_here, lambda: False
    found.append(said_by(watch, []))
    on_ray._is_here = is_here
    taken.bind(("127.0.0.1", 0))  # and listening to nobody
    watch.head = taken.getsockname()
    watch.look([])
    on_ray.SILENCE = 0
    return [*found, said_by(watch, [])]


def said_by(watch, wanted):
    try:
        watch.look(wanted)
    except LostError as error:
        return str(error)


def test_a_cluster_that_goes_away_is_noticed(drive):
    room, ray_here, head = drive(what_is_noticed)
    assert "a cell takes 64 cores" in room and "no machine of the cluster has that (there: 2 cores" in room
    assert ray_here.startswith("the Ray on this machine has ended")
    assert head.startswith("the Ray cluster no longer answers")
    assert all(said.endswith("; the same command goes on with what is left") for said in (room, ray_here, head))
