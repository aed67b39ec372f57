"""A run that is never lost: checkpoints while it trains and when it is stopped, and a resume that is exact.

What the next step depends on is all written down: A and B, AdamW's moments, the schedule, the random numbers, and the
place in the data, which is a function of seed and epoch, so that two numbers say it. It is written at the boundary
between two optimizer steps only: within an accumulation the gradients so far would be lost.

A signal or an exception may come at any moment. The parameters change only while the optimizer steps, and everything
else that counts was noted at the last boundary; so whenever the optimizer is not at work, that boundary can still be
written. Signals that arrive while it is are held back for those milliseconds.

Several processes stop at the same micro-batch: before each they tell one another which signal they got, if any, and all
obey. Where they share the parameters (FSDP2) nothing can be written but by all of them, so an error of one is answered
by the checkpoint before.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import threading
import warnings
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from lightning.pytorch import Callback
from rich.console import Console

from maple import checkpoint, ranks
from maple.checkpoint import Checkpoint, understood
from maple.cli import TERMINATED
from maple.devices import most
from maple.errors import InputError, InputWarning
from maple.meters import Meters, MetricsFile
from maple.screen import printable
from maple.sharded import is_sharded

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SCHEDULE = ("last_epoch", "_step_count", "_last_lr")  # what torch's LambdaLR counts with, in every version
# Flags that may change: where the run is kept and shown, and on what it computes, of which `versions` warns. All others
# must be those of its beginning.
FREE = ("out", "resume", "checkpoint_every", "logger", "device", "strategy", "recompute")
# Flags that only say where something lies: what lies there is compared by its hash.
PLACES = {"model": "model", "revision": "model", "data": "data"}


def check_same_run(found: Checkpoint, now: dict) -> None:
    """Raise InputError with what differs, side by side, where a checkpoint is that of another run.

    `now` is what the run would write into a manifest. Other versions of libraries are a warning.
    """
    with understood(found.path):
        then = found.manifest
        same = {flag: then[kind] == now[kind] for flag, kind in PLACES.items()}
        flags = then["config"].keys() & now["config"].keys() - set(FREE)  # another version may have more or fewer
        pairs = [(flag, then["config"][flag], now["config"][flag]) for flag in sorted(flags)]
        differing = [f"{flag} {a}, now {b}" for flag, a, b in pairs if a != b and not same.get(flag)]
        for kind in ("model", "data", "template", "tokenizer"):
            if then[kind] != now[kind]:
                differing.append(f"the {kind} has SHA-256 {_short(then[kind], now[kind])}")
        if differing:
            raise InputError(
                f"--resume: the run in {found.path.parents[1]} began otherwise: {'; '.join(differing)}. Leave those "
                "flags away to go on with it, or begin a new run"
            )
        for library, version in then["versions"].items():
            if version != now["versions"].get(library):
                warnings.warn(
                    f"the run began with {library} {version}, this is {now['versions'].get(library)}: the same numbers "
                    "are not promised",
                    InputWarning,
                    stacklevel=2,
                )


def _short(then, now) -> str:
    """Two hashes, or of two dictionaries of them those that differ."""
    if isinstance(then, str):
        return f"{then[:12]}, now {str(now)[:12]}"
    keys = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    return ", ".join(f"{str(then.get(key))[:12]}, now {str(now.get(key))[:12]} in {key}" for key in keys)


class Checkpoints(Callback):
    """Writes checkpoints into a folder every so many steps, at the end, and when the run is stopped."""

    def __init__(
        self,
        folder: Path,
        console: Console,
        *,
        every: int,
        template: str,
        identity: dict,
        before: dict,
        meters: Meters,
        metrics: MetricsFile,
        resumed: Checkpoint | None,
    ):
        self.folder, self.console, self.every, self.template = folder, console, every, template
        self.identity, self.before, self.meters, self.metrics = identity, before, meters, metrics
        self.resumed, self.boundary, self.micro_batches = resumed, None, 0
        self.last: Path | None = None if resumed is None else resumed.path  # the newest one on the disk
        self.signals = HeldSignals()

    def on_train_start(self, trainer, pl_module) -> None:
        """Continue where the checkpoint stood, or write the first: from then on the run can be resumed."""
        (optimizer,), (scheduler,) = trainer.optimizers, trainer.lr_scheduler_configs
        if self.resumed:
            with understood(self.resumed.path):
                self.resumed.restore_optimizer(pl_module.model, optimizer)
                restore_schedule(scheduler.scheduler, self.resumed.state["schedule"])
                restore_random(self.resumed.state["random"], pl_module.device)
                self.micro_batches = self.resumed.state["micro_batches"]
                self._note(trainer, pl_module, self.resumed.state["place"])
        else:
            self._note(trainer, pl_module, place=(0, -1))
            self._write(pl_module, optimizer)
        self.signals.install(pl_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Before each micro-batch: stop here if any process is to, and draw its dropout from its place alone."""
        self.signals.agree()
        torch.manual_seed(batch["seed"])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """At the end of an optimizer step: note where the run stands, and now and then write it."""
        self.micro_batches += batch["round"]
        if not pl_module.changing:
            return
        self._note(trainer, pl_module, batch["last"])
        if pl_module.step % self.every == 0:
            self._write(pl_module, trainer.optimizers[0])
        pl_module.changing = False
        self.signals.let_through()

    def on_train_end(self, trainer, pl_module) -> None:
        """What comes now, saving the adapter and validating, can be done again from here."""
        self._write_if_new(trainer, pl_module)
        self.signals.agree()
        self.signals.remove()

    def on_exception(self, trainer, pl_module, exception) -> None:
        """Write the last boundary, unless the optimizer was at work."""
        alone = self.signals.agreed or not is_sharded(pl_module.model)  # else the others would have to share
        if self.boundary is not None and not pl_module.changing and alone:
            pl_module.changing = True  # no second signal while this is written
            self._write_if_new(trainer, pl_module)
            path = printable(shlex.quote(str(self.last.parents[1])))
            self.console.print(
                f"Step {pl_module.step} is kept; to go on: python -m maple.fit --out {path} --resume", soft_wrap=True
            )
        self.signals.remove()

    def _write_if_new(self, trainer, pl_module) -> None:
        if self.last is None or self.last.name != checkpoint.name_of(pl_module.step):
            self._write(pl_module, trainer.optimizers[0])

    def _write(self, pl_module, optimizer) -> None:
        self.metrics.sync()  # what the checkpoint counts on
        self.last = checkpoint.write(
            self.folder, pl_module.model, optimizer, self.template, self.boundary, self.identity
        )

    def _note(self, trainer, pl_module, place: tuple[int, int]) -> None:
        (optimizer,), (scheduler,) = trainer.optimizers, trainer.lr_scheduler_configs
        self.boundary = {
            "step": pl_module.step,
            "micro_batches": self.micro_batches,
            "place": list(place),
            "learning_rates": [group["lr"] for group in optimizer.param_groups],
            "schedule": schedule_state(scheduler.scheduler),
            "random": random_state(pl_module.device),
            "meters": self.meters.state(),
            "metrics_bytes": self.metrics.size(),
            "before": self.before,
        }


class HeldSignals:
    """SIGTERM and Ctrl-C raise at once, but while the module's parameters change: then at the end of the step.

    Of several processes any may get one: they raise together, where they `agree`.
    """

    def __init__(self):
        self.alone = ranks.here().world == 1
        self.agreed = False  # whether all processes are about to raise
        self.parent = os.getppid()
        self.pending: int | None = None
        self.others: dict[int, object] = {}

    def install(self, module) -> None:
        """Take the signals over, from Lightning too; only the main thread of a process gets any."""
        self.module = module
        if threading.current_thread() is threading.main_thread():
            self.others = {number: signal.signal(number, self._arrived) for number in SIGNALS}

    def remove(self) -> None:
        """Give them back."""
        for number, handler in self.others.items():
            signal.signal(number, handler)
        self.others = {}

    def let_through(self) -> None:
        """Raise for a signal that was held back, or whose exception was swallowed on its way (as in a __del__)."""
        if self.pending is not None and self.alone:
            self._raise()

    def agree(self) -> None:
        """Raise in every process if one got a signal, or lost whoever started it, and so will not get any."""
        if self.alone:
            return
        orphaned = ranks.LAUNCHED in os.environ and os.getppid() != self.parent
        number = int(most(self.pending or (signal.SIGTERM if orphaned else 0)))
        if number:
            self.pending, self.agreed = number, True
            self._raise()

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        again, self.pending = self.pending is not None, number
        # a second one would end what the first has begun to save
        if self.alone and not again and not self.module.changing:
            self._raise()

    def _raise(self) -> None:
        raise KeyboardInterrupt if self.pending == signal.SIGINT else SystemExit(TERMINATED)


def schedule_state(scheduler) -> dict:
    """Where a scheduler stands; its function and its base rates come from the flags."""
    return {key: getattr(scheduler, key) for key in SCHEDULE}


def restore_schedule(scheduler, state: dict) -> None:
    """Raises KeyError where the state lacks a number."""
    for key in SCHEDULE:
        setattr(scheduler, key, state[key])


def random_state(device: torch.device) -> dict:
    """Of every generator that a run on `device` may draw from, as JSON has it."""
    version, words, gauss = random.getstate()
    name, numpy_words, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": torch.cuda.get_rng_state(device).numpy().tobytes().hex() if device.type == "cuda" else None,
        "numpy": [name, numpy_words.tolist(), *rest],
        "python": [version, list(words), gauss],
    }


def restore_random(state: dict, device: torch.device) -> None:
    """Put every generator back where it was. Raises KeyError, TypeError or ValueError for what is no state."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, numpy_words, *rest = state["numpy"]
    np.random.set_state((name, np.array(numpy_words, dtype=np.uint32), *rest))
    torch.set_rng_state(_bytes(state["torch"]))
    if state["cuda"] and device.type == "cuda":
        torch.cuda.set_rng_state(_bytes(state["cuda"]), device)


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
