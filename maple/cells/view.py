"""A study on the terminal: a live table over the cells, and the same once for --status, from any terminal.

Both read what the cells note in their folders, so it does not matter which process, or which machine, works on them.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import rich.live
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from maple.cells.cell import CELL, DONE, FAILED, PLANNED, SCORING, TRAINING, is_gone, read_state
from maple.cells.job import Job
from maple.errors import InputError, one_line

AGAIN = 1.0  # seconds from one look at the folders to the next
SHOWN = 12  # lines of the live table; all cells are in that of --status
COLUMNS = {"state": 13, "loss": 6, "tok/s": 6, "seconds": 7}  # and characters of the widest that stands there
BESIDE = sum(COLUMNS.values()) + len(COLUMNS)  # with a space before each; the paper's names fit into what 80 leave
DIGITS = 4  # of a cell's hash, where it takes one to tell it from others
STOPPED = "stopped"


def standing(job: Job) -> dict:
    """state.json, with a state for a cell that nobody has begun or whose process is gone."""
    state = read_state(job.folder)
    if is_gone(state):
        return state | {"state": STOPPED}
    with contextlib.suppress(InputError):  # the data of the tasks may be on another machine
        if not state and (job.folder / CELL).is_file() and job.is_finished:  # brought from another study
            return {"state": DONE}
    return state or {"state": PLANNED}


class Live:
    """The table while cells are worked on; where the output is no terminal a line for each cell that ends."""

    def __init__(self, console: Console, jobs: Sequence[Job]):
        self.console, self.jobs = console, jobs
        self.live = rich.live.Live(console=console, auto_refresh=False, transient=True)
        self.labels, self.over = labels(jobs), threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> Live:
        if self.console.is_terminal:
            self.live.start()
            self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        if self.console.is_terminal:
            self.thread.join()
            self.live.stop()

    def watch(self) -> None:
        """Look again and again until it is over."""
        while not self.over.wait(AGAIN):
            found = [(job, standing(job)) for job in self.jobs]
            going = [one for one in found if one[1]["state"] in (TRAINING, SCORING, STOPPED)]
            ended = [one for one in found if one[1]["state"] in (DONE, FAILED)]
            shown = table([*ended, *going][-SHOWN:], self.labels, self.console.width)
            self.live.update(Group(shown, Text(), summary(found)), refresh=True)

    def ended(self, job: Job) -> None:
        """A line for a cell that is done or has failed."""
        state = standing(job)
        why = f": {one_line(state['error'])}" if state.get("error") else ""
        self.console.print(Text(f"{job.cell.name}: {_done(state)}, {state.get('seconds') or 0:.0f} s{why}"))


def show(console: Console, jobs: Sequence[Job]) -> None:
    """All cells, once."""
    found = [(job, standing(job)) for job in jobs]
    console.print(Group(table(found, labels(jobs), console.width), Text(), summary(found)))
    for job, state in found:
        if state["state"] == FAILED:
            console.print(Text(f"{job.cell.name} failed: {one_line(state.get('error') or 'nobody knows why')}"))


def labels(jobs: Sequence[Job]) -> dict[str, str]:
    """The cells' names, with no more of their hashes than tells them apart."""
    plain = {job.cell.name: job.cell.name.rpartition("-")[0] for job in jobs}
    counts = Counter(plain.values())
    return {name: one if counts[one] == 1 else name[: len(one) + 1 + DIGITS] for name, one in plain.items()}


def table(found: Sequence[tuple[Job, dict]], names: dict[str, str], width: int) -> Table:
    """A line for each cell, whose name gives way where the terminal is narrow."""
    shown = Table(box=SIMPLE, padding=0, show_edge=False)
    shown.add_column("cell", no_wrap=True)
    for column in COLUMNS:
        shown.add_column(column, justify="right" if column != "state" else "left", no_wrap=True)
    for job, state in found:
        loss, speed, seconds = (state.get(name) for name in ("loss", "tokens_per_second", "seconds"))
        shown.add_row(
            Text(_cut(names[job.cell.name], width - BESIDE)),
            _done(state),
            "" if loss is None else f"{loss:.3f}",
            "" if speed is None else f"{speed:,.0f}",
            "" if seconds is None else f"{seconds:,.0f}",
        )
    return shown


def summary(found: Sequence[tuple[Job, dict]]) -> Text:
    """How many cells are where, and how long the rest may take."""
    states = [state["state"] for _, state in found]
    counts = ", ".join(f"{states.count(name)} {name}" for name in dict.fromkeys(states))
    return Text(f"{len(found)} cells: {counts}{_left(found)}")


def _left(found: Sequence[tuple[Job, dict]]) -> str:
    """Those that are done, adapters and bases apart, say how long the others take; as many at once as there are now."""
    left, going = 0.0, 0
    for trained in (True, False):
        kind = [state for job, state in found if bool(job.cell.rank) == trained]
        took = [state["seconds"] for state in kind if state["state"] == DONE and state.get("seconds")]
        rest = [state for state in kind if state["state"] not in (DONE, FAILED)]
        if rest and not took:
            return ""
        left += sum(max(fmean(took) - (state.get("seconds") or 0), 0) for state in rest)
        going += sum(state["state"] in (TRAINING, SCORING) for state in rest)
    if not left:
        return ""
    seconds = left / max(going, 1)
    return f"; about {seconds / 3600:.1f} h left" if seconds > 5400 else f"; about {seconds / 60:.0f} min left"


def _done(state: dict) -> str:
    """What a cell is at, and how far."""
    name = state["state"]
    done, of = {TRAINING: ("step", "of"), SCORING: ("scored", "to_score")}.get(name, ("", ""))
    return f"{name} {100 * (state.get(done) or 0) // state[of]:.0f} %" if state.get(of) else name


def _cut(name: str, room: int) -> str:
    """Without a part of its middle: rank, bits and seed are at its end, the model at its beginning."""
    room = max(room, 2 * DIGITS)
    end = 2 * room // 3
    return name if len(name) <= room else f"{name[: room - end - 1]}…{name[-end:]}"
