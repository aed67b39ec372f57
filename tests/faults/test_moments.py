"""The moments at which a run is easily lost: each is hit on purpose, and what is resumed ends in the same bytes."""

import os
import signal
from pathlib import Path

import pytest

import maple.checkpoint
import maple.display
import maple.run
from maple.checkpoint import steps, verify
from tests.faults.conftest import adapter


def stop_at(module, name, number, call=1):
    """Make the so-manieth call of a function of the child's send it a signal first."""

    def patch():
        original, calls = getattr(module, name), []

        def stopped(*arguments, **settings):
            calls.append(name)
            if len(calls) == call:
                os.kill(os.getpid(), number)
            return original(*arguments, **settings)

        setattr(module, name, stopped)

    return patch


MOMENTS = {
    "the first validation": (maple.run.Run, "validate", 1),
    "the first checkpoint": (maple.checkpoint, "save_adapter", 1),
    "a later checkpoint": (maple.checkpoint, "save_adapter", 2),
    "the last checkpoint": (maple.checkpoint, "save_adapter", 5),
    "saving the adapter": (maple.run, "save_adapter", 1),
    "the last validation": (maple.run.Run, "validate", 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_a_signal_at_an_unlucky_moment(world, begin, undisturbed, moment, number, code):
    module, name, call = MOMENTS[moment]
    run = world / f"{moment} {code}".replace(" ", "-")
    child = begin(run.name, before=stop_at(module, name, number, call))
    assert child.wait() == code and "Traceback" not in child.log.read_text(), child.log.read_text()
    assert run.exists() == (moment != "the first validation")
    child = begin(run.name, *(["--resume"] if run.exists() else []))
    assert child.wait() == 0, child.log.read_text()
    assert adapter(run) == undisturbed[0]


def two_signals():
    """A scheduler sends one to the group and one to the process; the second meets the first on its way out."""
    stop_at(maple.run.Display, "on_train_batch_end", signal.SIGTERM, call=10)()
    maple.run.Meters.on_exception = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # comes before the checkpoint's


def test_a_second_signal_does_not_end_what_the_first_has_begun_to_save(world, begin, undisturbed):
    child = begin("twice", before=two_signals)
    assert child.wait() == 143
    assert verify(steps(world / "twice" / "checkpoints")[-1]).manifest["step"] == 3  # of ten micro-batches, by threes
    child = begin("twice", "--resume")
    assert child.wait() == 0 and adapter(world / "twice") == undisturbed[0]


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_lives(world, begin):
    first = begin("shared")
    assert first.until(lambda: steps(world / "shared" / "checkpoints"))
    for flags in ([], ["--resume"]):
        second = begin("shared", *flags)
        assert second.wait() == 2
    assert f"process {first.pid} on" in first.log.read_text() and "is at work in it" in first.log.read_text()
    assert first.wait() == 0, first.log.read_text()


def reader_that_leaves():
    """stdout is a pipe whose reader leaves at the third step."""
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    original = maple.display.Display.on_train_batch_end

    def leave(self, *arguments):
        if self.meters.steps == 3:
            os.closerange(reading, reading + 1)
        return original(self, *arguments)

    maple.display.Display.on_train_batch_end = leave


def test_a_run_whose_reader_has_left_goes_on_to_its_end(world, begin, undisturbed):
    child = begin("head", before=reader_that_leaves)
    assert child.wait() == 0, child.log.read_text()
    assert adapter(world / "head") == undisturbed[0]


def logger_that_fails():
    original = maple.display.Display.on_train_batch_end

    def fail(self, *arguments):
        if self.meters.steps == 3:
            raise RuntimeError("the tracking server is gone")
        return original(self, *arguments)

    maple.display.Display.on_train_batch_end = fail


def test_what_fails_while_it_is_shown_loses_no_step(world, begin, undisturbed):
    child = begin("shown", before=logger_that_fails)
    assert child.wait() == 1
    assert verify(steps(world / "shown" / "checkpoints")[-1]).manifest["step"] == 3
    child = begin("shown", "--resume")
    assert child.wait() == 0 and adapter(world / "shown") == undisturbed[0]


def slurm():
    """A job of SLURM's that is about to end, with a checkpoint of Lightning's lying where one stands."""
    os.environ |= {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "fit", "SLURM_PROCID": "0"}
    os.environ |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "slurm"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    Path("hpc_ckpt_1.ckpt").write_bytes(b"what Lightning would load")
    stop_at(maple.run.Display, "on_train_batch_end", signal.SIGTERM, call=8)()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def test_under_slurm_the_checkpoints_are_ours_alone(world, begin, undisturbed):
    child = begin("slurm", before=slurm)
    assert child.wait() == 143, child.log.read_text()
    assert [p.name for p in (world / "cache" / "slurm").iterdir()] == ["hpc_ckpt_1.ckpt"]
    child = begin("slurm", "--resume", before=slurm)
    child.wait()
    child = begin("slurm", "--resume")
    assert child.wait() == 0, child.log.read_text()
    assert adapter(world / "slurm") == undisturbed[0]
    assert not list((world / "slurm").rglob("*.ckpt"))


def test_a_damaged_newest_checkpoint_is_written_again_when_training_passes_it(world, begin, undisturbed):
    run = world / "passed"
    child = begin("passed", "--max-steps", "8", before=stop_at(maple.run, "save_adapter", signal.SIGTERM))
    assert child.wait() == 143
    for name in ("step-00000006", "step-00000008"):
        (run / "checkpoints" / name / "state.json").write_bytes(b"{}")
    child = begin("passed", "--resume", before=stop_at(maple.checkpoint, "save_adapter", signal.SIGTERM))
    assert child.wait() == 143
    assert "state.json: its SHA-256" in child.log.read_text()
    child = begin("passed", "--resume")
    assert child.wait() == 0, child.log.read_text()
    assert adapter(run) == undisturbed[0]
    assert [verify(path).manifest["step"] for path in steps(run / "checkpoints")] == [4, 6, 8]
