"""Which tasks are to be asked how, in which languages: all that --tasks, --languages, --setting and the like amount to.

It is made before torch is imported, so that a wrong name is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from maple import tasks, tiny
from maple.errors import InputError, nearest
from maple.evaluation.data import check_data, check_files
from maple.evaluation.task import Setting, Task
from maple.judging.judges import Judge, choose_judge
from maple.tiny import tasks as tiny_tasks
from maple.tiny.judge import TruthJudge


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
    judge: Judge | None  # of the tasks that are judged


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
    if arguments["setting"] is not None and all(part.name != arguments["setting"] for part in parts):
        known = {name for part in parts for name in part.task.settings}
        raise InputError(f"--setting {arguments['setting']}: no task has it{nearest(arguments['setting'], known)}")
    for part in parts:
        if part.setting.shots and part.task.shots_split is not None:
            check_files(part.task, part.languages, part.task.shots_split, data_dir)
    parts.sort(key=lambda part: part.task.judged)  # at the end: of several devices the others wait for the judge
    return Plan(parts, data_dir, _judge(arguments, any(part.task.judged for part in parts), data_dir))


def _judge(arguments: dict, needed: bool, data_dir: str | None) -> Judge | None:
    """Raises InputError for a judge that is not there, or that has nothing to judge."""
    if arguments["judge"] is None:
        for name in ("judge_model", "judge_style"):
            if arguments[name]:
                flag = f"--{name.replace('_', '-')} {arguments[name]}"
                raise InputError(f"{flag} belongs to a --judge that is a URL")
        return TruthJudge() if data_dir == tiny.NAME else None
    if not needed:
        raise InputError(f"--judge {arguments['judge']}: none of the tasks is judged; alpaca_eval is")
    return choose_judge(arguments["judge"], arguments["judge_model"], arguments["judge_style"])


def _listed(flag: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise InputError(f"{flag} {text!r}: a name is missing; give them as one,two")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{flag} {text}: {twice} is there twice")
    return names


def _setting(task: Task, arguments: dict) -> tuple[str, Setting]:
    """(its name, it) with --shots and --max-tokens in it."""
    name = arguments["setting"]
    if name is None or len(task.settings) == 1:  # alpaca_eval is asked in one way only
        name = next(iter(task.settings))
    if name not in task.settings:
        raise InputError(f"--setting {name}: {task.name} has none of that name{nearest(name, task.settings)}")
    setting = task.settings[name]
    if arguments["shots"] is not None and not task.judged:  # its examples have no answer to show
        setting = replace(setting, shots=arguments["shots"])
    if arguments["max_tokens"] is not None and setting.generates:
        setting = replace(setting, max_new_tokens=arguments["max_tokens"])
    return name, setting
