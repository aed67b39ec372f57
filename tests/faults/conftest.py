"""A tiny fit with dropout, accumulation and packing, run in forked children that may be killed at any moment.

The parent has done the imports, which take longer than the whole run, and computes nothing itself before it forks.
"""

import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import pytest

import maple.run  # noqa: F401 - so that the children need not
from maple import cli
from maple.fit import fit
from maple.outputs import own_flags
from tests.tiny_data import write_tiny_data

FLAGS = ["--max-steps", "8", "--accumulate", "3", "--dropout", "0.1", "--batch-tokens", "256", "--max-length", "128"]
FLAGS += ["--rank", "4", "--lr", "0.005", "--checkpoint-every", "2", "--device", "cpu"]


class Child:
    """`python -m maple.fit`, or another verb, with these flags, in a fork; its output goes to a file."""

    def __init__(self, flags: list[str], log: Path, before=lambda: None, verb=fit, under=own_flags):
        self.log, self.started = log, time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                os.dup2(output, 1)
                os.dup2(output, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                warnings.resetwarnings()  # pytest's own, which make errors of them
                signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs us behind it ignores it
                before()
                cli.main(verb, flags, under=under)
            except SystemExit as leaving:
                code = leaving.code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def kill_at(self, moment: float) -> None:
        """SIGKILL so many seconds after the start, if it still runs."""
        self.until(lambda: time.monotonic() - self.started > moment)
        os.kill(self.pid, signal.SIGKILL)

    def kill_in_a_write(self, folder: Path, number: int, delay: float) -> None:
        """SIGKILL so many seconds after the so-manieth half-written folder was seen."""
        seen = set()

        def writes() -> bool:
            seen.update(path.name for path in folder.glob(".*.partial"))
            return len(seen) >= number

        if self.until(writes):
            time.sleep(delay)
        os.kill(self.pid, signal.SIGKILL)

    def until(self, condition) -> bool:
        """Wait for a condition; False where the child ended before."""
        while not condition():
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(0.0005)
        return True

    def wait(self) -> int:
        """Its exit code; minus the signal's number where one killed it."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.seconds = time.monotonic() - self.started
        return code


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with data of two languages, and caches of its own."""
    folder = tmp_path_factory.mktemp("world")
    write_tiny_data(folder / "data", ("en", "de"), 60)
    os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    return folder


@pytest.fixture(scope="session")
def begin(world):
    """Start the fit in a folder of that name; with `resume` go on with it."""

    def start(name: str, *flags: str, before=lambda: None) -> Child:
        fixed = [] if "--resume" in flags else [*FLAGS, "--data", str(world / "data")]
        return Child([*fixed, "--out", str(world / name), *flags], world / f"{name}.log", before)

    return start


@pytest.fixture(scope="session")
def undisturbed(world, begin) -> tuple[bytes, float]:
    """(the adapter of a run that nobody disturbed, seconds it took)."""
    child = begin("undisturbed")
    assert child.wait() == 0, child.log.read_text()
    return adapter(world / "undisturbed"), child.seconds


def adapter(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


_told = []
TRIED, TAKEN = Counter(), Counter()  # inputs of each fuzzer, and those that were no error


@pytest.fixture(scope="session")
def tell():
    """Keep a sentence for the end of the session: what was tried, how often, and what was lost."""
    return _told.append


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("what was tried")
    for line in _told:
        terminalreporter.write_line(line)
    if TRIED:
        each = ", ".join(f"{name} {number:,} ({TAKEN[name]:,} taken)" for name, number in sorted(TRIED.items()))
        terminalreporter.write_line(f"fuzzing: {TRIED.total():,} inputs: {each}")
