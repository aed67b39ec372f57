"""Memory that is not enough: one sentence, with the flags that would help and by how much."""

import re
import resource
from pathlib import Path

from maple.checkpoint import steps


def little_memory():
    """An address space hardly larger than the process is now: what the allocator asks for beyond is refused."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 800 * 2**20, resource.RLIM_INFINITY))


def test_a_run_that_is_too_large_says_what_would_help(world, begin):
    child = begin("large", "--data", "tiny", "--languages", "en", "--batch-tokens", "32768", before=little_memory)
    code, said = child.wait(), child.log.read_text()
    assert code == 2 and "Traceback" not in said
    last = said.splitlines()[-1]
    assert re.search(r"error: out of memory \(.*\); the run needs [\d.]+ .iB, as predicted; what would help: --", last)
    assert "--batch-tokens 16384 (-" in last and "--recompute layer (-" in last, last
    assert not steps(world / "large" / "checkpoints")[1:]
