"""A study from its file to its last cell: look at everything, then have every unfinished cell worked on."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from maple.cells import content
from maple.cells.cell import STUDY, Cell
from maple.cells.engine import Engine, Needs
from maple.cells.grid import Plan
from maple.cells.job import Job
from maple.cells.view import Live
from maple.durable import replace_file
from maple.errors import InputWarning, LostError, refuse
from maple.lock import locked
from maple.screen import Screen, printable

if TYPE_CHECKING:  # it imports torch
    from maple.cells.checks import Found


class Driver:
    """One start of a study in its folder; any number of starts finish it once."""

    def __init__(self, config: dict[str, Any], plan: Plan, out: Path, cores: int | None, retry: bool):
        self.config, self.plan, self.cores, self.retry = config, plan, cores, retry
        self.name, self.out = shlex.quote(str(out)), out.absolute()
        self.console = Screen(highlight=False, soft_wrap=True)

    def go(self, engine: Engine) -> None:
        """Raises InputError before the first cell for whatever is wrong, LostError at the end where a cell failed."""
        with self.alone():
            given = self.plan.evaluate, self.plan.bookkeeping, self.cores
            jobs = [Job(self.out, cell, *given) for cell in self.plan.cells]
            refuse(content.changed(jobs))
            unfinished = [job for job in jobs if not job.is_finished]
            failed = [job for job in unfinished if job.has_failed]
            todo = unfinished if self.retry else [job for job in unfinished if job not in failed]
            found = self.look(engine, jobs, todo)
            replace_file(self.out / STUDY, yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
            for job in jobs:
                job.correct_state(job not in unfinished)
            for job in todo:
                content.note(job)
                if job in failed:
                    job.forget_failure()
            self.work(engine, jobs, todo, found)
            self.end(jobs)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """The folder, made now, and no other driver in it; taken away again where nothing was written."""
        made = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.out):
                for left in self.out.glob(f".{STUDY}.*"):  # by a driver that was killed as it wrote
                    left.unlink()
                yield
        finally:
            for folder in made:
                with contextlib.suppress(OSError):  # it holds the study
                    folder.rmdir()

    def look(self, engine: Engine, jobs: list[Job], todo: list[Job]) -> dict[tuple, Found]:
        """What was found of each group. Raises InputError with everything that would stop one of the cells."""
        if not todo:
            return {}
        self.console.print(f"{len(todo)} cells to do; looking for all that can go wrong in them ...")
        from maple.cells import checks
        from maple.room import size

        groups = checks.groups(todo) or checks.groups(jobs)  # where only bases are left
        keys, asked = list(groups), [(job, self.needs(job.cell)) for job in groups.values()]
        found = {}
        for number, one in engine.each(checks.look, asked):
            if isinstance(one, LostError):
                raise one
            found[keys[number]] = one
        adapters = sum(found[checks.group(job.cell)].per_rank * job.cell.rank for job in todo if not job.is_trained)
        free = shutil.disk_usage(self.out).free
        lack = (
            f"{self.out}: {size(free)} free, and the adapters of this study take {size(adapters)}; give another --out"
        )
        problems = dict.fromkeys(problem for one in found.values() for problem in one.problems)
        refuse([*problems, *([lack] if adapters > free else [])])
        for text in dict.fromkeys(text for one in found.values() for text in one.warnings):
            warnings.warn(text, InputWarning, stacklevel=2)
        return found

    def needs(self, cell: Cell, found: Found | None = None) -> Needs:
        """Before a look at it nobody knows whether a cell with --device auto has a GPU: it is looked at on one."""
        devices = cell.fit.get("devices") or 1
        if found is None and cell.fit["device"] == "auto":
            return Needs(self.cores, None)
        on_gpu = found.on_gpu if found else cell.fit["device"] == "cuda"
        return Needs(self.cores, devices if on_gpu else 0, 0 if on_gpu or not found else found.memory * devices)

    def work(self, engine: Engine, jobs: list[Job], todo: list[Job], found: dict[tuple, Found]) -> None:
        """Have the cells done, and show how it goes."""
        if not todo:
            return
        from maple.cells.checks import group
        from maple.cells.work import work_on

        most = max(found.values(), key=lambda one: (one.on_gpu, one.memory))  # for a base, which is only scored
        asked = []
        for job in todo:
            of_group = found.get(group(job.cell), most)
            asked.append((replace(job, recompute=of_group.recompute), self.needs(job.cell, of_group)))
        with Live(self.console, jobs) as live, self.how_to_go_on():
            for number, result in engine.each(work_on, asked):
                if isinstance(result, LostError):
                    todo[number].note_failure(str(result))
                live.ended(todo[number])

    @contextlib.contextmanager
    def how_to_go_on(self) -> Iterator[None]:
        """Say it where the block ends before its end: by a signal, a full disk, a cluster that is gone."""
        try:
            yield
        except BaseException:
            self.console.print(
                f"What is finished is kept; to go on: python -m maple.study --out {printable(self.name)}"
            )
            raise

    def end(self, jobs: list[Job]) -> None:
        """One line of how it stands. Raises LostError where something is missing."""
        left = [job for job in jobs if not job.is_finished]
        failed = [job for job in left if job.has_failed]
        finished = len(jobs) - len(left)
        self.console.print(
            f"{finished} of {len(jobs)} cells are finished. To see them: python -m maple.report {printable(self.name)}"
        )
        if failed:
            names = ", ".join(job.cell.name for job in failed[:5]) + (" ..." if len(failed) > 5 else "")
            raise LostError(
                f"{len(failed)} of {len(jobs)} cells failed: {names}; python -m maple.study --status {self.name} says "
                "why, and --retry tries them again"
            )
        if left:
            raise LostError(
                f"{len(left)} of {len(jobs)} cells are at work elsewhere; the same command goes on with them"
            )
