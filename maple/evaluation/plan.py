"""Which tasks are to be asked how, in which languages: all that --tasks, --languages, --setting and the like amount to.

It is made before torch is imported, so that a wrong name is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from maple import tasks, tiny
from maple.errors import InputError, nearest
from maple.evaluation.data import check_data
from maple.evaluation.task import Setting, Task
from maple.tiny import tasks as tiny_tasks


@dataclass(frozen=True)
class Part:
    """A task, how it is asked, and in which languages."""

    task: Task
    name: str  # of the setting
    setting: Setting  # with the flags' numbers in it
    languages: list[str]


@dataclass(frozen=True)
class Plan:
    """All that is to be scored, in order."""

    parts: list[Part]
    data_dir: str | None  # folder, or `tiny`; None: the hub


def make_plan(arguments: dict) -> Plan:
    """What the flags ask for. Raises InputError for a name that is not there and for data that is missing."""
    data_dir = arguments["data_dir"]
    if data_dir is None and arguments["model"] == tiny.NAME:
        data_dir = tiny.NAME
    find = tiny_tasks.find if data_dir == tiny.NAME else tasks.find
    named = arguments["tasks"] is not None
    chosen = [find(name) for name in (_listed("--tasks", arguments["tasks"]) if named else tasks.names())]
    asked = None if arguments["languages"] is None else _listed("--languages", arguments["languages"])
    languages = check_data(chosen, asked, data_dir, named)
    parts = [Part(task, *_setting(task, arguments), languages[task.name]) for task in chosen if languages[task.name]]
    return Plan(parts, data_dir)


def _listed(flag: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise InputError(f"{flag} {text!r}: a name is missing; give them as one,two")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{flag} {text}: {twice} is there twice")
    return names


def _setting(task: Task, arguments: dict) -> tuple[str, Setting]:
    """(its name, it) with --shots and --max-tokens in it."""
    name = arguments["setting"] or next(iter(task.settings))
    if name not in task.settings:
        raise InputError(f"--setting {name}: {task.name} has none of that name{nearest(name, task.settings)}")
    setting = task.settings[name]
    if arguments["shots"] is not None:
        setting = replace(setting, shots=arguments["shots"])
    if arguments["max_tokens"] is not None and setting.generates:
        setting = replace(setting, max_new_tokens=arguments["max_tokens"])
    return name, setting
