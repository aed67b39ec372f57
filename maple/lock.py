"""One process at a time in a folder, by a lock that the system takes back when its owner ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from maple.errors import InputError

NAME = ".lock"  # holds the owner's process and machine, for the message; the lock itself is on the open file


class Busy(InputError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` for the block. Raises Busy where another process holds it."""
    path = folder / NAME
    descriptor = _acquire(path)
    try:
        with contextlib.suppress(OSError):  # no room for the note; the lock holds without it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise Busy(f"--out {path.parent}: {owner} is at work in it; wait for it, or stop it") from None
        except OSError as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise InputError(
                f"--out {path.parent}: its file system has no locks ({error.strerror}), so two runs could write over "
                "each other; give a folder on another"
            ) from error
        # An owner that ended between our two calls took the name away: whoever comes next would lock another file.
        if _is_named(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_named(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
