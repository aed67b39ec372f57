"""SHA256SUMS: the hashes of a folder's files, in the format that `sha256sum -c SHA256SUMS` checks too."""

from __future__ import annotations

import re
from pathlib import Path

from maple.durable import file_sha256, replace_file
from maple.errors import InputError, readable

NAME = "SHA256SUMS"
LARGEST = 2**20  # bytes; a line is a hundred


def write_sums(folder: Path, sums: dict[str, str]) -> str:
    """Write {file: SHA-256 in hexadecimal}; the SHA-256 of what was written."""
    return replace_file(folder / NAME, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def check_sums(folder: Path, files: tuple[str, ...]) -> None:
    """Raise InputError unless SHA256SUMS names exactly `files` and each of them has the hash that stands there.

    Only `files` are opened, never a name that the file brings.
    """
    with readable(folder / NAME):
        sums = read_sums(folder)
    if set(sums) != set(files):
        raise InputError(f"{folder / NAME}: it does not hold one hash for each of {', '.join(files)}; it is damaged")
    for name in files:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing; {NAME} beside it has its hash")
        if file_sha256(folder / name) != sums[name]:
            raise InputError(f"{folder / name} is not what was written: its SHA-256 is not the one in {NAME}")


def read_sums(folder: Path) -> dict[str, str]:
    """{file: SHA-256}; empty for a SHA256SUMS of which any line is none."""
    path = folder / NAME
    if path.stat().st_size > LARGEST:
        return {}
    text = path.read_bytes()
    lines = [re.fullmatch(rb"([0-9a-f]{64})  ([\w./-]+)\n", line) for line in text.splitlines(keepends=True)]
    found = {line[2].decode(): line[1].decode() for line in lines if line}
    return found if len(found) == len(lines) else {}
