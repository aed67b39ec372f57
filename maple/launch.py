"""`--devices 2` without torchrun: torchrun's own agent starts the processes, and what they end with is one sentence.

Lightning's launcher is not used, since it makes the first process the parent of the others: whatever ends one of them
then ends it by SIGKILL, with nothing said and no exit code of ours, and nobody is left to speak when it is the first
that dies. The agent (torch.distributed.elastic) is a process of its own that computes nothing. It hands signals on and
waits for the checkpoint; when one process dies it ends the others. They see the environment that torchrun gives.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from maple import ranks
from maple.cli import written
from maple.errors import InputError, LostError
from maple.outputs import chosen, how_to_resume

PATIENCE = 120  # seconds from a signal to SIGKILL: a micro-batch and a checkpoint; 30 is the agent's own


def launch(arguments: dict, verb: str, doing: str, log: Path | None = None) -> None:
    """Run `verb`, as maple.fit, with these arguments in as many processes as --devices says, until all are done.

    log   a file for what they write; None: the terminal

    Raises what ends it, as if there were one: LostError where a process died.
    """
    if log is None:
        print(f"{doing} on {arguments['devices']} devices; starting their processes ...", flush=True)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from maple.device import check_count

    check_count(arguments["device"], arguments["devices"])
    with chosen(arguments["out"]) as out, tempfile.TemporaryDirectory() as last_words, _inherited(arguments["devices"]):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=arguments["devices"],
            run_id="maple",
            rdzv_backend="static",  # torchrun's default; c10d's keeps the agent for 5 s at its end
            rdzv_endpoint=f"127.0.0.1:{_free_port()}",
            rdzv_configs={"rank": 0},
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=last_words, redirects=Std.NONE if log is None else Std.ALL),
        )
        try:
            elastic_launch(config, sys.executable)("-m", verb, *written(arguments | {"out": str(out)}))
        except SignalException as stopped:
            raise KeyboardInterrupt if stopped.sigval == signal.SIGINT else SystemExit(128 + stopped.sigval) from None
        except ChildFailedError as failed:
            _end_as(failed.failures, arguments["devices"], how_to_resume(out, verb), log)
        finally:
            if log is not None:
                with log.open("ab") as file:
                    file.writelines(path.read_bytes() for path in sorted(Path(last_words).rglob("*.log")))


@contextlib.contextmanager
def _inherited(devices: int) -> Iterator[None]:
    """What the processes find in their environment; the agent logs nothing meanwhile."""
    before = os.environ.copy()
    os.environ[ranks.LAUNCHED] = "1"
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(PATIENCE)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # or every broken connection is told with a C++ stack
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, ranks.cores() // devices)))
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        os.environ.clear()
        os.environ.update(before)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _end_as(failures: dict, world: int, resume: str, log: Path | None) -> None:
    """End as the process did whose end explains that of the others."""
    rank, first = min(failures.items(), key=lambda item: (_weight(item[1]), item[1].timestamp, item[0]))
    words = _words(first).removeprefix("error: ")
    if first.exitcode == 2 and words:
        raise InputError(words)
    if first.exitcode == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if first.exitcode > 2:
        raise SystemExit(first.exitcode)
    how = f"failed, as told {'above' if log is None else f'in {log}'},"
    if first.exitcode < 0:
        how = f"was killed by {signal.Signals(-first.exitcode).name}"
    raise LostError(words or f"process {rank} of {world} {how} and the others ended with it; {resume}")


def _words(failure) -> str:
    return failure.message if os.path.isfile(failure.error_file) else ""


def _weight(failure) -> int:
    """How little an end explains: a kill most, and least of all that another process was lost."""
    if failure.exitcode < 0:
        return 4 if failure.exitcode == -signal.SIGTERM else 0  # the agent itself sends SIGTERM, on the way out
    if failure.exitcode == 1:
        return 5 if _words(failure) else 2
    return 1 if failure.exitcode == 2 else 3
