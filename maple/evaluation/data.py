"""From --data-dir, or the hub, to the checked examples of a task in a language.

    folder   <data-dir>/<task>/<language>.<split>.jsonl, the language by the task's own code or by ours
    hub      the plain files of `Task.hub`: parquet, JSON Lines, or a JSON list

All rows of a file are checked before any is left out, so that a limit hides no damage.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from maple import tiny
from maple.data.records import lines, parse
from maple.errors import InputError, first_line, nearest, readable
from maple.evaluation.task import Example, Task
from maple.hub import snapshot_with
from maple.tiny.rows import rows as tiny_rows


def check_data(
    tasks: Sequence[Task], languages: Sequence[str] | None, data_dir: str | None, named: bool = True
) -> dict[str, list[str]]:
    """The languages that each task will be asked in, in its own order, before anything is loaded.

    languages   None: those that the folder has files for, or from the hub the task's usual ones; else a task takes
                those of them that it has, which may be none
    data_dir    folder; None: the hub; `tiny`: the embedded world, which has all languages of its tasks
    named       whether the user named the tasks: without a file in the folder, a task is refused, else left out

    Raises InputError for a language that no task has, and for a file that is not there.
    """
    if data_dir is not None and data_dir != tiny.NAME and not os.path.isdir(os.path.expanduser(data_dir)):
        raise InputError(f"--data-dir {data_dir}: there is no such folder")
    _check_known(tasks, languages)
    chosen = {task.name: _languages(task, languages, data_dir, named) for task in tasks}
    if not any(chosen.values()):
        raise InputError(f"--data-dir {data_dir}: {_no_file(tasks)}")
    return chosen


def _check_known(tasks: Sequence[Task], languages: Sequence[str] | None) -> None:
    known = {code: own for task in tasks for code, own in task.languages.items()}
    for code in languages or ():
        if code not in known:
            names = ", ".join(task.name for task in tasks)
            ours = next((f"; its code here is {ours!r}" for ours, own in known.items() if own == code), None)
            raise InputError(f"--languages: {names} has no {code!r}{ours or nearest(code, known)}")


def _languages(task: Task, asked: Sequence[str] | None, data_dir: str | None, named: bool) -> list[str]:
    wanted = [code for code in task.languages if asked is None or code in asked]
    if data_dir in (None, tiny.NAME):
        return [code for code in wanted if asked is not None or task.usual is None or code in task.usual]
    there = [code for code in wanted if find_file(task, code, task.split, data_dir)]
    if named and asked is None and not there:
        raise InputError(f"--data-dir {data_dir}: {_no_file([task])}")
    if named and asked is not None:
        check_files(task, wanted, task.split, data_dir)
    return there


def check_files(task: Task, languages: Sequence[str], split: str, data_dir: str | None) -> None:
    """Raise InputError where the folder lacks the file of a split in one of the languages."""
    if data_dir not in (None, tiny.NAME):
        for code in languages:
            if find_file(task, code, split, data_dir) is None:
                raise InputError(_not_there(task, code, split, data_dir))


def _no_file(tasks: Sequence[Task]) -> str:
    names = ", ".join(f"{task.name}/<language>.{task.split}.jsonl" for task in tasks)
    return f"the folder has no {names}; without --data-dir the hub's are read"


def read_examples(
    task: Task, language: str, split: str, data_dir: str | None, limit: int | None = None
) -> tuple[list[Example], str]:
    """(the first `limit` examples or all, what was read: file and SHA-256, or repository, commit and file).

    Raises InputError that names file and line of the first row that is none.
    """
    if data_dir == tiny.NAME:
        rows, origin = _from_world(task, language, split)
    elif data_dir is None:
        rows, origin = _from_hub(task, language, split)
    else:
        rows, origin = _from_folder(task, language, split, data_dir)
    examples = []
    for where, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{where}: not an object with the fields of {task.name}")
        task.check(row, where)
        examples.append(Example(row, language, where))
    if not examples:
        raise InputError(f"{origin.partition(' sha256:')[0]}: the file holds no example")
    return examples[:limit], origin


Rows = Iterator[tuple[str, object]]  # (file and line, what stands there)


def _from_world(task: Task, language: str, split: str) -> tuple[Rows, str]:
    rows = tiny_rows(task.name, language, split)
    return _numbered(rows, f"tiny {task.name} {language} {split}"), "the embedded world"


def _from_folder(task: Task, language: str, split: str, data_dir: str) -> tuple[Rows, str]:
    path = find_file(task, language, split, data_dir)
    if path is None:
        raise InputError(_not_there(task, language, split, data_dir))
    with readable(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _json_lines(path, str(path)), f"{path} sha256:{digest}"


def find_file(task: Task, language: str, split: str, data_dir: str) -> Path | None:
    """The file of a folder that has a split of a task in a language."""
    paths = _paths(task, language, split, data_dir)
    return next((path for path in paths if os.path.isfile(path)), None)


def _paths(task: Task, language: str, split: str, data_dir: str) -> list[Path]:
    folder = Path(os.path.expanduser(data_dir)) / task.name
    return [folder / f"{code}.{split}.jsonl" for code in dict.fromkeys((task.languages[language], language))]


def _not_there(task: Task, language: str, split: str, data_dir: str) -> str:
    names = " nor ".join(str(path) for path in _paths(task, language, split, data_dir))
    return f"--data-dir {data_dir}: there is no {names}; without --data-dir the hub's is read"


def _from_hub(task: Task, language: str, split: str) -> tuple[Rows, str]:
    hub = task.hub
    file = hub.path.format(language=task.languages[language], split=hub.splits.get(split, split))
    folder = snapshot_with(f"--tasks {task.name}", hub.repo, file, hub.revision, kind="dataset")
    path, where = folder / file, f"{hub.repo}/{file}"
    try:
        rows = list(READERS[path.suffix](path, where))
    except (InputError, OSError, ValueError, RecursionError) as error:  # pyarrow's errors are among these
        raise InputError(
            f"{where}: the copy in the cache is damaged ({first_line(error)}); delete {path.resolve()} and run again"
        ) from error
    return iter(rows), f"{hub.repo}@{folder.name}/{file}"


def _json_lines(path: Path, where: str) -> Rows:
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(lines(file, where), start=1):
            if line.strip():
                yield f"{where}:{number}", parse(line, f"{where}:{number}")


def _json_list(path: Path, where: str) -> Rows:
    rows = json.loads(path.read_bytes())
    if not isinstance(rows, list):
        raise ValueError("not a list")
    return _numbered(rows, where)


def _parquet(path: Path, where: str) -> Rows:
    from pyarrow import parquet

    return _numbered(parquet.read_table(path).to_pylist(), where)


def _numbered(rows: list, where: str) -> Rows:
    return ((f"{where}:{number}", row) for number, row in enumerate(rows, start=1))


READERS = {".parquet": _parquet, ".jsonl": _json_lines, ".json": _json_list}
