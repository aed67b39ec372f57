"""One file a task. Whoever adds one adds a file with a `TASK`; it is found by the file's name."""

from __future__ import annotations

import importlib
import pkgutil

from maple.errors import InputError, nearest
from maple.evaluation.task import Task


def names() -> list[str]:
    """Of all tasks, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Task:
    """The task of a name. Raises InputError with the nearest names for one that is not there."""
    if name not in names():
        raise InputError(f"--tasks: there is no task {name!r}{nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}").TASK
