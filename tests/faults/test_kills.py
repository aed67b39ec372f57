"""SIGKILL at random moments: what is resumed ends in the same bytes."""

import os
import random
import shutil
import signal

from tests.conftest import SEED
from tests.faults.conftest import adapter

KILLS = int(os.environ.get("MAPLE_KILLS", 50))


def test_runs_killed_at_random_moments_end_in_the_same_bytes(world, begin, undisturbed, tell):
    expected, seconds = undisturbed
    moments = random.Random(SEED)
    where = {"before the first checkpoint": 0, "between writes": 0, "in the middle of writing": 0}
    resumes = 0
    for number in range(KILLS):
        run = world / f"killed-{number}"
        child = begin(run.name)
        child.kill_at(moments.uniform(0, seconds))
        while child.wait() == 0:  # it was done before the kill: once more
            assert adapter(run) == expected
            shutil.rmtree(run)
            child = begin(run.name)
            child.kill_at(moments.uniform(0, seconds))
        for _ in range(2):  # the resumed run may be killed as well
            left = [path.name for path in run.glob("**/.*") if path.name != ".lock"]
            resumable = any((run / "checkpoints").glob("step-*"))
            where[list(where)[2 if left else 1 if resumable else 0]] += 1
            child = begin(run.name, *(["--resume"] if resumable else []))
            resumes += resumable
            if moments.random() < 0.3:
                child.kill_at(moments.uniform(0, seconds))
            code = child.wait()
            if code != -signal.SIGKILL:
                break
        else:
            child = begin(run.name, *(["--resume"] if any((run / "checkpoints").glob("step-*")) else []))
            code = child.wait()
        assert code == 0, child.log.read_text()
        assert adapter(run) == expected
        assert not list(run.glob("**/.*")), "what a kill left is swept away"
    tell(f"{KILLS} runs killed by SIGKILL ({where}), {resumes} resumes: {KILLS} final adapters equal, none lost")
