"""SIGTERM and Ctrl-C: a checkpoint of the last whole step, the exit code, and a resume that changes nothing."""

import os
import random
import signal
import time

import pytest
import torch

from maple.checkpoint import steps, verify
from tests.conftest import SEED
from tests.faults.conftest import adapter

SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130}
TRIES = 8  # of each signal


def slow_micro_batches():
    """Make a step last long enough that a signal falls into its middle."""
    import maple.module

    original = maple.module.token_loss

    def slow(*arguments):
        time.sleep(0.1)
        return original(*arguments)

    maple.module.token_loss = slow


def _read(path):
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_in_the_middle_of_a_step(world, begin, undisturbed, tell, number):
    expected, _ = undisturbed
    rng, slowest, saved = random.Random(SEED), 0.0, []
    for attempt in range(TRIES):
        run = world / f"{number.name}-{attempt}"
        child = begin(run.name, before=slow_micro_batches)
        rows = 2 + rng.randrange(7)  # header, validation, and a row for each step that is done
        assert child.until(lambda: len(_read(run / "metrics.csv").splitlines()) >= rows and steps(run / "checkpoints"))  # noqa: B023
        time.sleep(rng.uniform(0, 0.3))
        sent = time.monotonic()
        os.kill(child.pid, number)
        assert child.wait() == SIGNALS[number], child.log.read_text()
        slowest = max(slowest, time.monotonic() - sent)
        said = child.log.read_text()
        saved.append(verify(steps(run / "checkpoints")[-1]).manifest["step"])
        assert f"Step {saved[-1]} is kept" in said and "Traceback" not in said
        child = begin(run.name, "--resume")
        assert child.wait() == 0, child.log.read_text()
        assert f"Resumed at step {saved[-1]} of 8" in child.log.read_text()
        assert adapter(run) == expected
    assert slowest < 10 and len(set(saved)) > 2
    tell(
        f"{number.name} within a step: {TRIES} times exit code {SIGNALS[number]}, a checkpoint within {slowest:.1f} "
        f"s, {TRIES} of {TRIES} resumed adapters byte-equal"
    )


def arrives_while_the_optimizer_works():
    original = torch.optim.AdamW.step

    def interrupted(self, closure=None):
        if closure is None:  # that of the prediction, on tensors without memory
            return original(self)
        loss = closure()
        os.kill(os.getpid(), signal.SIGTERM)
        original(self)
        return loss

    torch.optim.AdamW.step = interrupted


def test_a_signal_while_the_parameters_change_waits_for_the_end_of_the_step(world, begin, undisturbed):
    expected, _ = undisturbed
    child = begin("held", before=arrives_while_the_optimizer_works)
    assert child.wait() == 143 and "Step 1 is kept" in child.log.read_text()
    child = begin("held", "--resume")
    assert child.wait() == 0 and adapter(world / "held") == expected


def fails_while_the_optimizer_works():
    original = torch.optim.AdamW.step

    def torn(self, closure=None):
        if closure is None:  # that of the prediction
            return original(self)
        closure()
        raise RuntimeError("half of the parameters were changed")

    torch.optim.AdamW.step = torn


def test_an_exception_while_the_parameters_change_saves_nothing_torn(world, begin, undisturbed):
    expected, _ = undisturbed
    child = begin("torn", before=fails_while_the_optimizer_works)
    assert child.wait() == 1
    assert [path.name for path in steps(world / "torn" / "checkpoints")] == ["step-00000000"]
    child = begin("torn", "--resume")
    assert child.wait() == 0 and adapter(world / "torn") == expected
