"""Where a run writes: a fresh numbered folder, or one that the user names and that must be empty."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import yaml

from maple.durable import replace_file, sweep
from maple.errors import InputError
from maple.lock import NAME as LOCK
from maple.lock import locked

RUNS = Path("runs")
# in the folder of a run, in the order in which they come
CONFIG, METRICS, CHECKPOINTS, SUMMARY = "config.yaml", "metrics.csv", "checkpoints", "summary.json"


def check_out(out: str | None, resume: bool = False) -> None:
    """Raise InputError where --out cannot be written to or holds something already. Writes nothing.

    A run to resume is the other way round: there must be something in it.
    """
    folder = RUNS if out is None else Path(os.path.expanduser(out))
    if resume:
        check_resumable(out, folder)
    elif out is not None and folder.exists():
        if not folder.is_dir():
            raise InputError(f"--out {out} is a file; give a folder")
        if any(path.name != LOCK for path in folder.iterdir()):
            resumable = ", or --resume to go on with the run in it" if (folder / CONFIG).is_file() else ""
            raise InputError(f"--out {out} is not empty; give a new folder{resumable}")
    nearest = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"--out {folder}: nothing can be written in {nearest}; give another folder")


def check_resumable(out: str | None, folder: Path) -> None:
    """Raise InputError where there is no run to go on with."""
    if out is None:
        raise InputError("--resume needs --out, the folder of the run to go on with")
    if (folder / SUMMARY).is_file():
        raise InputError(f"--resume: the run in {out} is finished, so there is nothing to resume; its adapter is there")
    if not (folder / CONFIG).is_file() and not any((folder / CHECKPOINTS).glob("step-*")):
        raise InputError(f"--resume: {out} holds no run, so there is nothing to resume; start one without --resume")


def create_out(out: str | None) -> Path:
    """The folder of the run, made now: `out`, or the next number under runs/, which two runs never share."""
    if out is not None:
        folder = Path(os.path.expanduser(out))
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    RUNS.mkdir(exist_ok=True)
    number = max((int(p.name) for p in RUNS.iterdir() if p.name.isdigit()), default=0) + 1
    while True:
        try:
            (RUNS / f"{number:04d}").mkdir()
            return RUNS / f"{number:04d}"
        except FileExistsError:
            number += 1


@contextlib.contextmanager
def claim(out: str | None, resume: bool = False) -> Iterator[Path]:
    """The folder of a run, made now and locked for the block; taken away again if nothing was written into it.

    Raises InputError where another process is at work in it, and for what `check_out` refuses.
    """
    wanted = RUNS if out is None else Path(os.path.expanduser(out))
    made = [folder for folder in (wanted, *wanted.parents) if not folder.exists()]
    folder = create_out(out)
    try:
        with locked(folder):
            check_out(str(folder), resume)  # once more: another run may have begun and ended since
            sweep(folder)
            yield folder
    finally:
        for empty in dict.fromkeys([*([folder] if out is None else []), *made]):
            with contextlib.suppress(OSError):  # it holds the run
                empty.rmdir()


@contextlib.contextmanager
def chosen(out: str | None) -> Iterator[Path]:
    """The folder that the processes of a run will claim, settled before they start; a numbered one is made now."""
    made = [] if out is not None or RUNS.exists() else [RUNS]
    folder = Path(os.path.expanduser(out)) if out is not None else create_out(None)
    try:
        yield folder
    finally:
        for empty in [folder, *made] if out is None else []:
            with contextlib.suppress(OSError):  # it holds the run
                empty.rmdir()


def how_to_resume(out: Path, verb: str) -> str:
    """What to do with a run that ended before its end."""
    found = sorted(path.name for path in out.glob(CONFIG if verb == "maple.evaluate" else f"{CHECKPOINTS}/step-*"))
    if not found:
        return "nothing of it is kept: start it again"
    return f"{found[-1]} is kept; to go on: python -m {verb} --out {shlex.quote(str(out))} --resume"


def own_flags(arguments: dict) -> str | None:
    """The file of the flags that a run to resume began with: they lie under those that are typed."""
    config = Path(os.path.expanduser(arguments["out"] or "")) / CONFIG
    return str(config) if arguments["resume"] and arguments["out"] and config.is_file() else None


def write_config(path: Path, arguments: dict) -> None:
    """The resolved flags as YAML that re-runs as --config; without `out`, since that folder is taken now."""
    settings = {name: value for name, value in arguments.items() if name not in ("out", "resume")}
    replace_file(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
