"""Several processes of one run in forks, as torchrun or SLURM would start them: the imports are done once."""

import os
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

LIMIT = 120  # seconds, after which whatever hangs is killed


class Forks:
    """`world` forks that each run `work`; what they say goes to one file each."""

    def __init__(self, work: Callable, folder: Path, world: int = 2, names: Callable | None = None):
        folder.mkdir(exist_ok=True)
        self.logs = [folder / f"rank-{rank}.log" for rank in range(world)]
        port = _free_port()
        self.pids = [self._fork(work, rank, (names or of_torchrun)(rank, world, port)) for rank in range(world)]

    def _fork(self, work: Callable, rank: int, names: dict) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            output = os.open(self.logs[rank], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            warnings.resetwarnings()  # pytest's own, which make errors of them
            os.environ |= names
            work()
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> list[int]:
        """Their exit codes; minus the signal's number where one ended them."""
        codes, until = {}, time.monotonic() + LIMIT
        while len(codes) < len(self.pids):
            for pid in set(self.pids) - codes.keys():
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > until:
                    os.kill(pid, 9)
            time.sleep(0.01)
        return [codes[pid] for pid in self.pids]

    def said(self) -> str:
        """What all of them wrote."""
        return "\n".join(log.read_text() for log in self.logs)


def of_torchrun(rank: int, world: int, port: int) -> dict[str, str]:
    """The environment that torchrun gives."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    return {name: str(value) for name, value in names.items()} | _meeting(port)


def of_slurm(rank: int, world: int, port: int) -> dict[str, str]:
    """The environment that srun gives."""
    names = {"PROCID": rank, "LOCALID": rank, "NODEID": 0, "NNODES": 1, "NTASKS": world, "NTASKS_PER_NODE": world}
    names |= {"JOB_ID": 4711, "JOB_NAME": "fit"}
    return {f"SLURM_{name}": str(value) for name, value in names.items()} | _meeting(port)


def _meeting(port: int) -> dict[str, str]:
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCH_CPP_LOG_LEVEL": "FATAL"}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
