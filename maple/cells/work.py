"""Work on one cell: train it if it is not trained, score what is not scored, and note where it stands.

A cell may be begun any number of times, by any process: what is finished is taken as it is, what was stopped goes on
from its last checkpoint or its last task and language. Two processes are never at work on one cell.
"""

from __future__ import annotations

import contextlib
import gc
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from lightning.pytorch import Callback
from rich.console import Console

from maple.adapter import CONFIG as ADAPTER_CONFIG
from maple.cells.bases import Bases
from maple.cells.cell import DONE, FAILED, SCORING, TRAINING, State
from maple.cells.grid import defaults_of
from maple.cells.job import Job
from maple.durable import discard, sweep
from maple.errors import InputError, LostError, first_line, one_line
from maple.evaluate import settle
from maple.evaluation.run import Run as Evaluation
from maple.evaluation.view import View
from maple.fit import fit, prepare
from maple.jsonfile import read_object
from maple.launch import launch
from maple.lock import Busy, locked
from maple.meters import Meters
from maple.outputs import CHECKPOINTS, CONFIG, SUMMARY, claim
from maple.quiet import quieten
from maple.ranks import check_devices

TRACEBACK = "error.txt"
LOG = "log.txt"  # of a cell on several devices: what their processes wrote
EVERY = 1.0  # seconds from one note of a cell's progress to the next
PATIENCE = 600  # seconds without a sign from whoever else is at work on a cell: ten times what a step of 7B takes
BASES = Bases()  # of this process


def work_on(job: Job) -> str | None:
    """Finish a cell; what went wrong in one sentence, or None. Only what stops this process comes out of it."""
    quieten()
    if job.cores:
        torch.set_num_threads(job.cores)
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with _alone(job.folder) as state:
            return _finish(job, state)
    except Busy as error:  # it is for whoever holds it to say how it ended
        return str(error)
    finally:
        gc.collect()  # a Trainer and what it trained hold each other, and Python's collector seldom comes by itself


def _finish(job: Job, state: State) -> str | None:
    error = None
    try:
        if job.is_finished:  # by whoever was at work on it
            return None
        state.begin(SCORING if job.is_trained else TRAINING)
        sweep(job.folder)
        (job.folder / TRACEBACK).unlink(missing_ok=True)
        if not job.is_trained:
            _train(job, state)
        if (job.fit / CHECKPOINTS).is_dir():  # three times the adapter, and there is nothing left to resume
            discard(job.fit / CHECKPOINTS)
        _score(job, state)
    except Exception as wrong:  # of one cell; the others go on
        error = _sentence(wrong, job.folder / TRACEBACK)
        BASES.drop()
    state.change(state=FAILED if error else DONE, error=error)
    return error


def _sentence(wrong: Exception, path: Path) -> str:
    """What went wrong; of what should not, also where, in a file."""
    if isinstance(wrong, InputError | LostError):
        return str(wrong)
    if isinstance(wrong, OSError) and wrong.filename is not None:  # a disk that is full, a file that may not be read
        return one_line(f"{wrong.filename}: {wrong.strerror}")
    path.write_text(traceback.format_exc(), encoding="utf-8")
    return one_line(first_line(wrong))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[State]:
    """The state of a cell that nobody else is at work on; waits for who is, as long as there are signs of work.

    On a cluster a machine that is thought lost may go on for a while, and a cell of it be given to another.
    """
    seen, since = None, time.monotonic()
    while True:
        try:
            with locked(folder):
                yield State(folder)
                return
        except Busy:
            now = State(folder).now
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                raise
        time.sleep(EVERY)


# ----------------------------------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------------------------------


def _train(job: Job, state: State) -> None:
    """As `python -m maple.fit --out cell/fit` does, on a base that may be here already."""
    out = job.fit
    set_flags = {name: value for name, value in job.cell.fit.items() if value is not None}
    arguments = defaults_of(fit) | job.bookkeeping | set_flags | {"out": str(out)}
    arguments["resume"] = (out / CONFIG).is_file() or any((out / CHECKPOINTS).glob("step-*"))
    arguments["recompute"] = _begun_with(out) or arguments["recompute"] or job.recompute
    check_devices(arguments)
    state.change(state=TRAINING, step=0, of=None, loss=None, tokens_per_second=None)
    if arguments["devices"] > 1:
        BASES.drop()  # the processes need the room
        launch(arguments, "maple.fit", f"Training {job.cell.name}", job.folder / LOG)
    else:
        with claim(arguments["out"], arguments["resume"]) as folder:
            steps = _Steps(state)
            prepare(arguments, folder, Console(quiet=True), load=BASES.load, watching=[steps]).go()
    found = read_object(out / SUMMARY)
    shown = {"step": found["steps"], "of": found["steps"], "loss": found["train_loss_last"]}
    state.change(**shown, tokens_per_second=found["tokens_per_second"])


def _begun_with(out: Path) -> str | None:
    """The --recompute of a run that was stopped, which is bound to it: the memory that was free then decided."""
    config = out / CONFIG
    return yaml.safe_load(config.read_text(encoding="utf-8")).get("recompute") if config.is_file() else None


class _Steps(Callback):
    """Notes the last step now and then."""

    def __init__(self, state: State):
        self.state = state

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """After each micro-batch."""
        meters = next(one for one in trainer.callbacks if isinstance(one, Meters))
        if meters.row and self.state.is_due(EVERY):  # there is no row in the first step, nor in the first of a resume
            shown = {name: meters.row[name] for name in ("step", "loss", "tokens_per_second")}
            self.state.change(**shown, of=pl_module.total_steps)


# ----------------------------------------------------------------------------------------------------------------------
# Scoring
# ----------------------------------------------------------------------------------------------------------------------


def _score(job: Job, state: State) -> None:
    """As `python -m maple.evaluate --out cell/scores-...` does; a base is asked in the template of its adapters."""
    flags, out = job.cell.fit, job.scores
    adapter = job.fit / "adapter"
    arguments = job.evaluate | {name: flags[name] for name in ("model", "bits", "revision", "device", "precision")}
    arguments |= {"out": str(out), "resume": (out / CONFIG).is_file(), "template": flags["template"]}
    arguments["adapter"] = str(adapter) if (adapter / ADAPTER_CONFIG).is_file() else None
    arguments["devices"] = arguments["devices"] or flags.get("devices") or 1
    state.change(state=SCORING, scored=0, to_score=None)
    plan = settle(arguments)
    if arguments["devices"] > 1:
        BASES.drop()
        launch(arguments, "maple.evaluate", f"Scoring {job.cell.name}", job.folder / LOG)
        return
    with claim(arguments["out"], arguments["resume"]) as folder:
        Evaluation(arguments, plan, folder, load=BASES.load, view=_Scored(state)).go()


class _Scored(View):
    """Notes how many examples are scored, and shows nothing."""

    def __init__(self, state: State):
        super().__init__(Console(quiet=True))
        self.state, self.scored = state, 0

    @contextlib.contextmanager
    def progress(self, examples: int) -> Iterator[None]:
        """So many are to come."""
        self.state.change(to_score=examples)
        with super().progress(examples):
            yield
        self.state.change(scored=self.scored)

    def advance(self, examples: int) -> None:
        """So many more are done."""
        self.scored += examples
        if self.state.is_due(EVERY):
            self.state.change(scored=self.scored)
