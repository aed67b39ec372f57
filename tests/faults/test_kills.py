"""SIGKILL at random moments: what is resumed ends in the same bytes."""

import os
import random
import shutil
import signal

from tests.conftest import SEED
from tests.faults.conftest import adapter

KILLS = int(os.environ.get("MAPLE_KILLS", 50))
AT_A_WRITE = 0.4  # of the kills: as soon as a half-written folder is seen; the others at any moment
AGAIN = 0.3  # of the resumed runs are killed as well


def test_runs_killed_at_random_moments_end_in_the_same_bytes(world, begin, undisturbed, tell):
    expected, seconds = undisturbed
    rng = random.Random(SEED)
    found = {"before the first checkpoint": 0, "between writes": 0, "in the middle of a write": 0}

    def killed(run, flags) -> bool:
        child = begin(run.name, *flags)
        if rng.random() < AT_A_WRITE:
            child.kill_in_a_write(run / "checkpoints", number=rng.randint(1, 5), delay=rng.uniform(0, 0.01))
        else:
            child.kill_at(rng.uniform(0, seconds))
        code = child.wait()
        assert code in (0, -signal.SIGKILL), child.log.read_text()
        return code != 0

    def flags_of(run) -> list[str]:
        begun = any((run / "checkpoints").glob("step-*"))
        half = [path for path in run.glob("**/.*") if path.name != ".lock"]
        found[list(found)[2 if half else begun]] += 1
        return ["--resume"] if (run / "config.yaml").exists() else []

    for number in range(KILLS):
        run = world / f"killed-{number}"
        while not killed(run, []):  # it was done before
            assert adapter(run) == expected
            shutil.rmtree(run)
        done = rng.random() < AGAIN and not killed(run, flags_of(run))
        if not done:
            child = begin(run.name, *flags_of(run))
            assert child.wait() == 0, child.log.read_text()
        assert adapter(run) == expected
        assert not list(run.glob("**/.*")), "what a kill leaves is swept away"
        shutil.rmtree(run)
    where = ", ".join(f"{count} {place}" for place, count in found.items())
    tell(f"SIGKILL: {sum(found.values())} kills of {KILLS} runs ({where}); {KILLS} of {KILLS} adapters byte-equal")
