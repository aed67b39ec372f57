"""The engine of many machines: every job a task of Ray, on a cluster that is there or on this machine alone.

Ray only says who does what. Whatever a cell is made of and makes lies in the study's folder, which every machine must
see; nothing goes through Ray's object store. A job whose process or machine is lost is done again elsewhere, since a
cell may be begun any number of times.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from maple import ranks
from maple.cells.engine import Needs
from maple.cli import TERMINATED
from maple.errors import InputError, LostError, first_line, shown
from maple.lock import NAME as LOCK

try:
    import ray
    from ray.exceptions import (
        LocalRayletDiedError,
        NodeDiedError,
        OutOfMemoryError,
        RayError,
        RayTaskError,
        WorkerCrashedError,
    )
except ModuleNotFoundError:
    raise InputError("--engine ray: Ray is not installed; pip install 'maple-lora[ray]'") from None

STORE = 80 * 2**20  # bytes of shared memory, the least that Ray takes
LIBRARIES = 700 * 2**20  # bytes in a process before it has done anything: PyTorch, Lightning, transformers, Ray
AGAIN = 10  # times a job is begun again that was lost with its process: one that ends every process must end once
LOOK = 2.0  # seconds from one look at the cluster to the next
SILENCE = 40  # seconds without an answer from the cluster until it is given up; after 60 Ray ends this process itself
REACH = 10  # seconds to reach a cluster that is asked for
APPEAR = 30  # seconds until a file of one machine is seen by another: what NFS takes to look again
RETURN = 600  # seconds to wait for a machine that has what is left to do, where the last such is gone
ON = "the same command goes on with what is left"
START = "; start one with `ray start --head`, or leave --address away"
ENDED = f"the Ray on this machine has ended; {ON}"
PATIENCE = 120  # seconds from Ctrl-C to the end of what runs: a micro-batch and a checkpoint


class OnRay:
    """As many jobs at once as the cluster has room for."""

    def __init__(self, address: str | None, study: Path):
        if address not in (None, "auto") and not re.fullmatch(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", address):
            raise InputError(
                f"--address is {shown(address)}, must be auto or host:port, as `ray start --head` shows it"
            )
        self.address, self.study = address, study

    def each(self, function: Callable[[Any], Any], jobs: Sequence[tuple[Any, Needs]]) -> Iterator[tuple[int, Any]]:
        """As they end; LostError in place of the result of a job that ended every process it was given to."""
        self.connect()
        wanted = [_settled(needs) for _, needs in jobs]
        for takes in wanted:
            if not any(_fits(takes, node) for node in _nodes()):
                raise InputError(_too_large(takes))
        token = (self.study / LOCK).read_text()
        task = ray.remote(_do)
        left = {}
        for number, ((job, _), takes) in enumerate(zip(jobs, wanted, strict=True)):
            options = {"num_cpus": takes["CPU"], "num_gpus": takes["GPU"], "memory": takes["memory"]}
            one = task.options(**options, max_retries=AGAIN)
            left[one.remote(function, job, takes["CPU"], self.study, token)] = number
        try:
            watch = Watch()
            while left:
                for done in _wait(list(left), timeout=LOOK):
                    yield left.pop(done), _result(done)
                watch.look([wanted[number] for number in left.values()])
        finally:
            _stop(list(left))

    def connect(self) -> None:
        """Once. Raises InputError where no cluster answers."""
        if ray.is_initialized():
            return
        settings = {"address": self.address, "log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            print("Starting Ray on this machine ...", flush=True)
            own = {"num_cpus": ranks.cores(), "object_store_memory": STORE, "include_dashboard": False}
            settings |= {"address": "local", **own}
            os.environ.setdefault("RAY_worker_niceness", "0")  # 15 gives all cores to whoever else is on the machine
        elif self.address != "auto":
            _reach(self.address)
        os.environ.setdefault("RAY_task_oom_retries", str(AGAIN))  # else without end
        ray._private.worker.print_to_stdstream = lambda *_, **__: None  # else every lost process is told at length
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with _unheard():
                ray.init(**settings)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            raise InputError(f"--engine ray: no cluster ({_reason(error)}){START if self.address else ''}") from error
        except SystemExit:  # Ray's own way with SIGTERM
            sys.exit(TERMINATED)
        finally:
            signal.signal(signal.SIGTERM, handler)


def _reach(address: str) -> None:
    """Ray itself would try for two minutes, and tell of every attempt."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--address {address}: nothing answers there ({error}){START}") from None


def _reason(error: BaseException) -> str:
    """What Ray's exceptions began with; one of them quotes a traceback, whose last line says it."""
    while error.__cause__:
        error = error.__cause__
    text = str(error).strip().splitlines()[-1][:200]
    return f"{text}; is RAY_AUTH_MODE here what it is there?" if "AuthenticationError" in text else text


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """What Ray's C++ says on stderr meanwhile goes nowhere; what it fails of is in its exception."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


# ----------------------------------------------------------------------------------------------------------------------
# What there is, and what is asked for
# ----------------------------------------------------------------------------------------------------------------------


def _nodes() -> list[dict[str, float]]:
    """What each machine has that is there and is to compute."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [node for node in found if node.get("CPU")]


def _settled(needs: Needs) -> dict[str, float]:
    """In Ray's words, with what was left to the cluster.

    A cell then has as many cores as every machine has for each of its GPUs, so that all of them are at work at once.
    """
    nodes = _nodes()
    with_gpu = [node for node in nodes if node.get("GPU")]
    gpus = bool(with_gpu) if needs.gpus is None else needs.gpus
    share = min((int(node["CPU"] // node.get("GPU", 1)) for node in (with_gpu if gpus else nodes)), default=1)
    cores = needs.cores or max(share, 1) * max(gpus, 1)
    return {"CPU": cores, "GPU": int(gpus), "memory": needs.memory + LIBRARIES}


def _fits(takes: dict[str, float], node: dict[str, float]) -> bool:
    return all(node.get(name, 0) >= count for name, count in takes.items())


def _too_large(takes: dict[str, float]) -> str:
    """One machine has to have all of it, now: on a cluster that grows on demand one of its kind has to be up."""
    there = "; ".join(sorted({_words(node) for node in _nodes()})) or "none"
    return (
        f"--engine ray: a cell takes {_words(takes)}, and no machine of the cluster has that (there: {there}); "
        "give fewer --cores, or add a machine that has it"
    )


def _words(one: dict[str, float]) -> str:
    cores, gpus = int(one["CPU"]), int(one.get("GPU", 0))
    return f"{cores} core{'s' * (cores != 1)}, {gpus} GPU{'s' * (gpus != 1)} and {one['memory'] / 2**30:.1f} GiB"


# ----------------------------------------------------------------------------------------------------------------------
# On a machine of the cluster
# ----------------------------------------------------------------------------------------------------------------------


def _do(function: Callable[[Any], Any], job: Any, cores: int, study: Path, token: str) -> Any:
    """One job, in a process of Ray's; Ray gives it to the next job, and so cells that share a base load it once."""
    ranks.forget()  # whoever started Ray on this machine may have been one of several processes of SLURM's
    _see(study, token)
    import torch

    torch.set_num_threads(cores)
    return function(job)


def _see(study: Path, token: str) -> None:
    """Raises InputError on a machine that does not see the folder that the driver holds the lock of."""
    until = time.monotonic() + APPEAR
    while True:
        with contextlib.suppress(OSError):
            if (study / LOCK).read_text() == token:
                return
        if time.monotonic() > until:
            raise InputError(
                f"--out {study}: {platform.node()} does not see what is written there; give a folder that all "
                "machines of the cluster share"
            )
        time.sleep(0.5)


# ----------------------------------------------------------------------------------------------------------------------
# How it goes, and how it ends
# ----------------------------------------------------------------------------------------------------------------------


class Watch:
    """Notices what Ray says nothing of, or ends this process for."""

    def __init__(self):
        self.answered = self.fitted = time.monotonic()
        host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
        self.head = host.strip("[]"), int(port)

    def look(self, wanted: Sequence[dict[str, float]]) -> None:
        """Raise LostError where the cluster is gone, or for long has had no machine for what is left to do."""
        now = time.monotonic()
        try:
            socket.create_connection(self.head, LOOK).close()
            self.answered = now
        except OSError as error:
            if now - self.answered > SILENCE:
                raise LostError(f"the Ray cluster no longer answers ({error}); {ON}") from None
            return
        if not _is_here():
            raise LostError(ENDED)
        nodes = _nodes()
        missing = [takes for takes in wanted if not any(_fits(takes, node) for node in nodes)]
        if not missing:
            self.fitted = now
        elif now - self.fitted > RETURN:
            raise LostError(f"{_too_large(missing[0])}; {ON}")


def _is_here() -> bool:
    """Whether the machine on which this process is still belongs to the cluster."""
    own = ray.get_runtime_context().get_node_id()
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own)


def _result(reference: ray.ObjectRef) -> Any:
    """What a job returned, or a LostError. Raises InputError of a machine that is set up wrongly."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        return LostError(first_line(error.cause))
    except LocalRayletDiedError:
        raise LostError(ENDED) from None
    except OutOfMemoryError as error:
        return LostError(f"its machine had no memory left for it ({first_line(error)})")
    except (WorkerCrashedError, NodeDiedError) as error:
        return LostError(f"its process or machine was lost, {AGAIN + 1} times ({first_line(error)})")
    except RayError as error:
        return LostError(first_line(error))


def _stop(left: list[ray.ObjectRef]) -> None:
    """Interrupt what still runs, as Ctrl-C would, and wait until it has kept its last step."""
    for reference in left:
        ray.cancel(reference)
    if left:
        _wait(left, num_returns=len(left), timeout=PATIENCE)


def _wait(references: list[ray.ObjectRef], **how: Any) -> list[ray.ObjectRef]:
    """Those that have ended."""
    try:
        return ray.wait(references, **how)[0]
    except SystemExit:  # of our handler of SIGTERM, whose exit code Ray does not keep
        sys.exit(TERMINATED)
