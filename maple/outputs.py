"""Where a run writes: a fresh numbered folder, or one that the user names and that must be empty."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml

from maple.errors import InputError

RUNS = Path("runs")


def check_out(out: str | None) -> None:
    """Raise InputError where --out cannot be written to or holds something already. Writes nothing."""
    folder = RUNS if out is None else Path(out).expanduser()
    if out is not None and folder.exists():
        if not folder.is_dir():
            raise InputError(f"--out {out} is a file; give a folder")
        if any(folder.iterdir()):
            raise InputError(f"--out {out} is not empty; give a new folder")
    nearest = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"--out {folder}: nothing can be written in {nearest}; give another folder")


def create_out(out: str | None) -> Path:
    """The folder of the run, made now: `out`, or the next number under runs/, which two runs never share."""
    if out is not None:
        folder = Path(out).expanduser()
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
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that is renamed to `out` at the end of the block: whatever stops it, no half folder is there.

    Only what cannot be caught (a kill) leaves a hidden folder behind, beside `out` and named after it. Raises
    InputError where the disk refuses.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and str(error.filename or partial).startswith(str(partial)):
            raise InputError(f"{out} could not be written ({error.strerror}); nothing is left of it") from error
        raise


def write_config(path: Path, arguments: dict) -> None:
    """The resolved flags as YAML that re-runs as --config; `out` is left away, since that folder is taken now."""
    settings = {name: value for name, value in arguments.items() if name != "out"}
    path.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
