"""`--devices 2` without torchrun: torchrun's own agent starts the processes, and what they end with is one sentence.

Lightning's launcher is not used, since it makes the first process the parent of the others: whatever ends one of them
then ends it by SIGKILL, with nothing said and no exit code of ours, and nobody is left to speak when it is the first
that dies. The agent (torch.distributed.elastic) is a process of its own that computes nothing. It hands signals on and
waits for the checkpoint; when one process dies it ends the others. They see the environment that torchrun gives.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile

from maple import ranks
from maple.errors import LostError
from maple.outputs import chosen, how_to_resume
from maple.terminal import without_controls

PATIENCE = 120  # seconds from a signal to SIGKILL: a micro-batch and a checkpoint; 30 is the agent's own


def launch(arguments: dict) -> None:
    """Run `maple.fit` with these arguments in as many processes as --devices says; returns when all are done.

    Raises what ends it, as if there were one: LostError where a process died.
    """
    names = without_controls(f"{arguments['model']} on {arguments['data']}")
    print(f"Fine-tuning {names} on {arguments['devices']} devices; starting their processes ...", flush=True)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from maple.devices import check_count

    check_count(arguments["device"], arguments["devices"])
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    _environment(arguments["devices"])
    with chosen(arguments["out"]) as out, tempfile.TemporaryDirectory() as last_words:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=arguments["devices"],
            run_id="maple",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=last_words),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "maple.fit", *_flags(arguments | {"out": str(out)}))
        except SignalException as stopped:
            raise KeyboardInterrupt if stopped.sigval == signal.SIGINT else SystemExit(128 + stopped.sigval) from None
        except ChildFailedError as failed:
            _tell(failed, arguments["devices"], how_to_resume(out))


def _environment(devices: int) -> None:
    """What the processes inherit."""
    os.environ[ranks.LAUNCHED] = "1"
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(PATIENCE)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # or every broken connection is told with a C++ stack
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // devices)))


def _flags(arguments: dict) -> list[str]:
    """The command line that gives these arguments again."""
    texts = {None: "null", True: "true", False: "false"}
    return [
        f"--{name.replace('_', '-')}={texts[value] if value is None or value is True or value is False else value}"
        for name, value in arguments.items()
    ]


def _tell(failed, world: int, resume: str) -> None:
    """End as the process did whose end explains that of the others."""
    rank, first = min(failed.failures.items(), key=lambda item: (_weight(item[1]), item[1].timestamp, item[0]))
    if first.exitcode < 0:
        name = signal.Signals(-first.exitcode).name
        raise LostError(f"process {rank} of {world} was killed by {name}, and the others ended with it; {resume}")
    words = _words(first)
    if first.exitcode == 1 and not words:
        raise LostError(f"process {rank} of {world} failed, as told above, and the others ended with it; {resume}")
    from maple.cli import leave

    leave(first.exitcode, words or f"process {rank} of {world} left with exit code {first.exitcode}; {resume}")


def _words(failure) -> str:
    return failure.message if isinstance(failure.error_file_data.get("message"), str) else ""


def _weight(failure) -> int:
    """How little an end explains: a kill most, and least of all that another process was lost."""
    if failure.exitcode < 0:
        return 4 if failure.exitcode == -signal.SIGTERM else 0  # the agent itself sends SIGTERM, on the way out
    if failure.exitcode == 1:
        return 5 if _words(failure) else 2
    return 1 if failure.exitcode == 2 else 3
