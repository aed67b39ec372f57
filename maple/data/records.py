"""Instruction records in JSON Lines: one {instruction, input, output} a line, one file a language."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from maple.errors import InputError

LONGEST_LINE = 2**24  # bytes; some four million tokens, of which no model takes a tenth


@dataclass(frozen=True, slots=True)
class Record:
    """One instruction with its answer; `input` is the text it is about, empty where there is none."""

    instruction: str
    input: str
    output: str
    where: str  # file and line, for messages


def read_records(path: Path) -> list[Record]:
    """All records of a file. Raises InputError naming file and line of the first that is none."""
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(lines(file, str(path)), start=1):
            if line.strip():
                where = f"{path}:{number}"
                records.append(to_record(parse(line, where), where))
    if not records:
        raise InputError(f"{path}: the file holds no record")
    return records


def lines(file: BinaryIO, path: str) -> Iterator[bytes]:
    """The lines of a file. Raises InputError before one that is too long is in memory."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise InputError(f"{path}:{number}: a line of more than {LONGEST_LINE} bytes; a record is one line")
        yield line


def parse(line: bytes, where: str) -> object:
    """What a line of JSON says. Raises InputError."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start} of the line)") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from error


def to_record(fields: object, where: str) -> Record:
    """A record of what JSON or a table gave. Raises InputError for what is none."""
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
    return Record(fields["instruction"], fields.get("input") or "", fields["output"], where)
