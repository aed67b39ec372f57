"""Files and folders that are on the disk when it is said so: whole, under their name, or not at all.

A name in a folder, the folder's entry and the bytes of a file reach the disk in an order of the system's own choice. So
each file is synced before it is counted on, the folder that holds it after it, and only then one rename, which the file
system makes in one piece, gives the whole its name; the folder above is synced last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from maple.errors import InputError

PARTIAL, DISCARDED = "partial", "discarded"  # what a kill may leave: .NAME.1a2b3c4d.partial, .NAME.1a2b3c4d.discarded


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give every OSError of the block the name of the file: a write, a sync and a lock leave it away."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """Write a new file, on the disk when this returns; its SHA-256 in hexadecimal. Raises OSError with its name."""
    digest = hashlib.sha256()
    with naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for piece in pieces:
                digest.update(piece)
                rest = memoryview(piece)
                while rest:  # the system may take less than all of it
                    rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return digest.hexdigest()


def replace_file(path: Path, text: str) -> str:
    """A small text file in the place of any older one of that name; its SHA-256."""
    partial = _beside(path, PARTIAL)
    try:
        digest = write_file(partial, [text.encode()])
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return digest


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    with naming(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that becomes `out` at the end of the block, in the place of an older one of that name.

    Whatever stops the block, no half folder is there; only what cannot be caught (a kill) leaves a hidden one behind,
    beside `out` and named after it: `sweep` takes it away. Raises InputError where the disk refuses.
    """
    partial = _beside(out, PARTIAL)
    try:
        partial.mkdir(parents=True)
        yield partial
        for folder, _, _ in os.walk(partial, topdown=False):
            sync_folder(Path(folder))
        if out.exists():
            discard(out)
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and str(error.filename or partial).startswith(str(partial)):
            raise InputError(f"{out} could not be written ({error.strerror}); nothing is left of it") from error
        raise
    sync_folder(out.parent)


def discard(folder: Path) -> None:
    """Remove a folder so that no half of it is ever seen under its name."""
    discarded = _beside(folder, DISCARDED)
    folder.rename(discarded)
    shutil.rmtree(discarded, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove from `folder` what killed processes left of their writing. Only its owner may (`lock.py`)."""
    for kind in (PARTIAL, DISCARDED):
        for path in list(folder.rglob(f".*.*.{kind}")):
            # one inside another is gone with it
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
