"""From --data and --languages to the records of each language.

A name means a published set on the hub or one that comes with the project; a folder of that name is ./name. A folder
holds <lang>.jsonl, and beside it may hold <lang>.validation.jsonl: that is then what is validated on. A language with
only the latter is measured and not trained on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from maple.data.published import PUBLISHED, fetch, read
from maple.data.records import Record, read_records
from maple.errors import InputError, nearest
from maple.tiny import records as tiny

LANGUAGE = re.compile(r"[a-z]{2,3}")  # ISO 639-1, or 639-3 where there is no two-letter code
UNDETERMINED = "und"  # ISO 639 for a text whose language is not known

# (to train on, to validate on); None: some of the former are held out for it
Records = tuple[list[Record], list[Record] | None]
Files = dict[str, Path]  # "" and "validation" -> file


@dataclass(frozen=True)
class Source:
    """The languages of a data set. They are read one by one: those of Bactrian-X-22 fill gigabytes."""

    data: str  # the value of --data that gives the same records again
    languages: list[str]
    read: Callable[[str], Records]


def check_data(data: str, languages: str | None = None) -> list[str]:
    """The languages that a run will use, before anything is downloaded. Raises InputError for a wrong name or path."""
    name = data.partition("@")[0]
    if name in PUBLISHED:
        usual = list(PUBLISHED[name].languages)
        known = usual + list(PUBLISHED[name].more)
    else:
        usual = known = list(tiny.LANGUAGES if data in tiny.SETS else find_files(data))
    return usual if languages is None else _choose(languages, known, data)


def _choose(languages: str, known: list[str], data: str) -> list[str]:
    """In the order of the data, so that a run does not depend on the order in which they are typed."""
    codes = [code.strip() for code in languages.split(",")]
    if "" in codes:
        raise InputError(f"--languages {languages!r}: a code is missing; give them as de,sw")
    for code in codes:
        if code not in known:
            raise InputError(f"--languages {languages}: {data} has no {code!r}{nearest(code, known)}")
        if codes.count(code) > 1:
            raise InputError(f"--languages {languages}: {code} is there twice")
    return [code for code in known if code in codes]


def open_source(data: str, languages: str | None = None) -> Source:
    """The records of --data: all files downloaded, none read yet. Raises InputError."""
    codes = check_data(data, languages)
    name, _, revision = data.partition("@")
    if name in PUBLISHED:
        folder = fetch(name, revision, codes)
        pinned = folder.name == PUBLISHED[name].revision
        source = name if pinned else f"{name}@{folder.name}"
        return Source(source, codes, lambda language: (read(name, folder, language), None))
    if data in tiny.SETS:
        return Source(data, codes, lambda language: tiny.instructions(data, language))
    files = find_files(data)
    return Source(data, codes, lambda language: _read_files(files[language]))


def find_files(data: str) -> dict[str, Files]:
    """The jsonl files of each language: of a folder, or one file alone. Raises InputError."""
    path = Path(os.path.expanduser(data))
    if os.path.isfile(path):
        if path.suffix != ".jsonl":
            raise InputError(f"--data {data}: a data file ends in .jsonl, one record a line; this one does not")
        return {path.stem if LANGUAGE.fullmatch(path.stem) else UNDETERMINED: {"": path}}
    if not os.path.isdir(path):
        raise InputError(f"--data {data}: {_not_there(data)}")
    files: dict[str, Files] = {}
    for file in sorted(path.glob("*.jsonl")):
        language, _, role = file.stem.partition(".")
        if not LANGUAGE.fullmatch(language) or role not in ("", "validation"):
            raise InputError(
                f"{file}: a file of a data folder is named by a language's two or three letters, as de.jsonl or "
                "de.validation.jsonl"
            )
        if not file.is_file():
            raise InputError(f"{file}: not a file that can be read")
        files.setdefault(language, {})[role] = file
    if not files:
        raise InputError(f"--data {data}: the folder has no <lang>.jsonl")
    return files


def _not_there(data: str) -> str:
    if "/" in data or data.endswith(".jsonl") or data.startswith("~"):
        return "there is no such file or folder; give a .jsonl file or a folder of <lang>.jsonl"
    return f"there is no such file or folder, nor a data set of that name{nearest(data, [*tiny.SETS, *PUBLISHED])}"


def _read_files(files: Files) -> Records:
    training = read_records(files[""]) if "" in files else []
    return training, read_records(files["validation"]) if "validation" in files else None
