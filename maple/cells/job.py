"""What there is to do of a cell, and what is done already. Nothing here imports torch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maple.cells.cell import DONE, FAILED, FIT, PLANNED, Cell, read_state, scores_folder, write_state
from maple.durable import discard
from maple.errors import InputError
from maple.evaluation.plan import Plan, make_plan
from maple.evaluation.scores import PRIMARY, SCORES, read_rows
from maple.outputs import SUMMARY


@dataclass(frozen=True)
class Job:
    """All that a process on any machine needs to know to work on a cell."""

    study: Path  # absolute, and on several machines the same
    cell: Cell
    evaluate: dict[str, Any]
    bookkeeping: dict[str, Any] = field(default_factory=dict)  # flags of fit that no result depends on
    cores: int | None = None  # of the CPU; None: as PyTorch chooses
    recompute: str | None = None  # what its group was found to have room for, where its flags do not say

    @property
    def folder(self) -> Path:
        """Of the cell."""
        return self.cell.folder(self.study)

    @property
    def fit(self) -> Path:
        """Where it is trained."""
        return self.folder / FIT

    @property
    def scores(self) -> Path:
        """Where it is scored."""
        return self.folder / scores_folder(self.evaluate)

    @property
    def is_trained(self) -> bool:
        """Whether its adapter is finished: the summary is the last that fit writes. A base has nothing to train."""
        return not self.cell.rank or (self.fit / SUMMARY).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether it is trained, and scored on every task and language that is asked for by now."""
        return self.is_trained and not self.left()

    @property
    def has_failed(self) -> bool:
        """Whether the last that was tried went wrong."""
        return read_state(self.folder).get("state") == FAILED

    def left(self) -> list[tuple[str, str]]:
        """Tasks and languages without scores."""
        plan, metrics, left = self.plan(), self.scored(), []
        for part in plan.parts:
            needs = set(PRIMARY) if part.task.judged and plan.judge else set()
            for pair in ((part.task.name, code) for code in part.languages):
                if pair not in metrics or (needs and not needs & metrics[pair]):
                    left.append(pair)
        return left

    def scored(self) -> dict[tuple[str, str], set[str]]:
        """The metrics that there are of each task and language; of answers without a judge only what is counted."""
        found: dict[tuple[str, str], set[str]] = {}
        with contextlib.suppress(InputError):  # a damaged file, of which scoring says what to do
            for row in read_rows(self.scores / SCORES):
                found.setdefault((row["task"], row["language"]), set()).add(row["metric"])
        return found

    def plan(self) -> Plan:
        """What is asked for. Raises InputError where the data are not there."""
        return make_plan(self.evaluate | {"model": self.cell.fit["model"]})

    def correct_state(self, finished: bool) -> None:
        """Where a cell was killed behind its last score, or is asked for more since, state.json does not say so."""
        state = read_state(self.folder)
        correct = DONE if finished else PLANNED
        if state and state["state"] != correct and (finished or state["state"] == DONE):
            write_state(self.folder, state | {"state": correct})

    def note_failure(self, error: str) -> None:
        """In the place of a process that did not live to do so."""
        write_state(self.folder, read_state(self.folder) | {"state": FAILED, "error": error})

    def forget_failure(self) -> None:
        """Make a cell that failed ready to be tried again: an adapter that is not finished begins anew."""
        if self.fit.is_dir() and not self.is_trained:
            discard(self.fit)
