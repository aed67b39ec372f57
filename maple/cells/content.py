"""What local files a cell was made of: it is not run again, so somebody must see when they have changed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path

from maple import tiny
from maple.cells.cell import CELL
from maple.cells.job import Job
from maple.data.published import PUBLISHED
from maple.data.sources import check_data, find_files
from maple.durable import file_sha256, replace_file
from maple.errors import InputError
from maple.evaluation.data import find_file
from maple.hub import looks_like_folder
from maple.jsonfile import read_object
from maple.tiny import records

Files = dict[str, str]  # hashes by name
PAGE, PAGES = 4096, 256  # bytes; of each file of weights, a MiB of which is read in no time from any disk


def content(job: Job) -> dict[str, Files]:
    """Of the flags that name a folder what lies there; a hub id has a revision."""
    found = {"model": _of_model(job.cell.fit["model"]), "data_dir": _of_tasks(job)}
    if job.cell.rank:
        found["data"] = _of_data(job.cell.fit["data"], job.cell.fit["languages"])
    return {flag: files for flag, files in found.items() if files}


def _of_model(model: str) -> Files:
    """Hashes of config.json and of some of the weights: all of them move when a model is trained."""
    if model == tiny.NAME or not looks_like_folder(model):
        return {}
    folder = Path(os.path.expanduser(model))
    return {path.name: _hash(path, PAGES) for path in (folder / "config.json", *sorted(folder.glob("*.safetensors")))}


def _of_data(data: str, languages: str | None) -> Files:
    """Hashes of the files of the languages that are used."""
    if data.partition("@")[0] in PUBLISHED or data in records.SETS:
        return {}
    files = find_files(data)
    return {path.name: _hash(path) for language in check_data(data, languages) for path in files[language].values()}


def _of_tasks(job: Job) -> Files:
    """Hashes of the files of the tasks and languages that are scored."""
    plan = job.plan()
    if plan.data_dir in (None, tiny.NAME):
        return {}
    splits = [(part, split) for part in plan.parts for split in (part.task.split, part.task.shots_split) if split]
    asked = [(part.task, code, split) for part, split in splits for code in part.languages]
    found = {(task.name, code, split): find_file(task, code, split, plan.data_dir) for task, code, split in asked}
    return {f"{task}/{code}.{split}": _hash(path) for (task, code, split), path in found.items() if path}


def _hash(path: Path, pages: int | None = None) -> str:
    """Of the whole file, or of so many pages of it, and its size."""
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns, pages)


@functools.cache  # many cells have the same files
def _hash_of(path: Path, size: int, modified: int, pages: int | None) -> str:
    if pages is None:
        return file_sha256(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb", buffering=PAGE) as file:
        for place in range(0, size, max(size // pages, PAGE)):
            file.seek(place)
            digest.update(file.read(PAGE))
    return digest.hexdigest()


def note(job: Job) -> None:
    """Write cell.json."""
    job.folder.mkdir(parents=True, exist_ok=True)
    record = {"fit": job.cell.fit, "evaluate": job.evaluate, "content": content(job)}
    replace_file(job.folder / CELL, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def changed(jobs: list[Job]) -> list[str]:
    """What is no longer as it was when cells were made, a sentence for each flag and file."""
    sentences, cells = [], {}
    for job in jobs:
        try:
            for what in _changes(job):
                cells.setdefault(what, []).append(job.cell.name)
        except InputError as error:
            sentences.append(f"{error}; if nothing has changed since then, delete it; else {job.folder}")
    for what, names in cells.items():
        first = f"{names[0]}{f' and {len(names) - 1} more were' if len(names) > 1 else ' was'}"
        sentences.append(f"{first} made with another {what} changed since); bring it back, or give another --out")
    return sentences


def _changes(job: Job) -> list[str]:
    """Raises InputError for a cell.json that is damaged."""
    path = job.folder / CELL
    if not path.is_file():
        return []
    before, now, found = read_object(path).get("content"), content(job), []
    if not isinstance(before, dict) or not all(isinstance(files, dict) for files in before.values()):
        raise InputError(f"{path}: it does not say what the cell was made of")
    scored = {"/".join(pair) for pair in job.scored()}
    for flag, value in (job.evaluate | job.cell.fit).items():
        files, earlier = now.get(flag, {}), before.get(flag, {})
        names = {*files, *earlier}
        if flag == "data_dir":  # what nothing was scored on yet may be mended, and more languages may be added
            names = {name for name in names if name.rpartition(".")[0] in scored}
        elif not (job.fit.exists() if flag == "data" else job.fit.exists() or scored):  # nothing was made of it yet
            continue
        if other := sorted(name for name in names if files.get(name) != earlier.get(name)):
            found.append(f"--{flag.replace('_', '-')} {value} ({', '.join(other[:5])}")
    return found
