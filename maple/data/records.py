"""Instruction records in JSON Lines: one {instruction, input, output} a line, one file a language."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from maple.errors import InputError

LANGUAGE = re.compile(r"[a-z]{2,3}")  # ISO 639-1, or 639-3 where there is no two-letter code
UNDETERMINED = "und"  # ISO 639 for a text whose language is not known


@dataclass(frozen=True)
class Record:
    """One instruction with its answer; `input` is the text it is about, empty where there is none."""

    instruction: str
    input: str
    output: str
    line: int


def find_files(data: str) -> dict[str, Path]:
    """The jsonl file of each language: of a folder of `<lang>.jsonl`, or of one file. Raises InputError."""
    path = Path(data).expanduser()
    if path.is_file():
        if path.suffix != ".jsonl":
            raise InputError(f"--data {data}: a data file ends in .jsonl, one record a line; this one does not")
        return {path.stem if LANGUAGE.fullmatch(path.stem) else UNDETERMINED: path}
    if not path.is_dir():
        raise InputError(
            f"--data {data}: there is no such file or folder; give a .jsonl file or a folder of <lang>.jsonl"
        )
    files = {file.stem: file for file in sorted(path.glob("*.jsonl"))}
    if not files:
        raise InputError(f"--data {data}: the folder has no <lang>.jsonl")
    for language, file in files.items():
        if not LANGUAGE.fullmatch(language):
            raise InputError(
                f"{file}: a file of a data folder is named by a language's two or three letters, as de.jsonl"
            )
        if not file.is_file():
            raise InputError(f"{file}: not a file that can be read")
    return files


def read_records(path: Path) -> list[Record]:
    """All records of a file. Raises InputError naming file and line of the first that is none."""
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                records.append(_record(line, number, f"{path}:{number}"))
    if not records:
        raise InputError(f"{path}: the file holds no record")
    return records


def _record(line: bytes, number: int, where: str) -> Record:
    try:
        fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start} of the line)") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InputError(f"{where}: not an object with instruction, input and output")
    for name in ("instruction", "output"):
        if not isinstance(fields.get(name), str):
            found = type(fields[name]).__name__ if name in fields else "nothing"
            raise InputError(f"{where}: {name!r} must be text, found {found}")
    if not isinstance(fields.get("input"), str | None):
        raise InputError(f"{where}: 'input' must be text, null or absent, found {type(fields['input']).__name__}")
    if not fields["instruction"].strip():
        raise InputError(f"{where}: 'instruction' is empty")
    for name in ("instruction", "input", "output"):
        try:
            (fields.get(name) or "").encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{where}: {name!r} holds half of a surrogate pair at character {error.start}") from error
    return Record(fields["instruction"], fields.get("input") or "", fields["output"], number)
