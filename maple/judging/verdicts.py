"""The answers of judges that were paid for, so that none is paid for twice: one file of JSON lines, only added to.

    {"key": "9f2c...", "judge": "alpaca_eval_gpt4 at gpt-4-0613 (https://...)", "raw": "[{'model': ...", "seconds": 1.2}

A line is on the disk before its verdict counts. What a killed process left of one has no line end: the next line begins
with one, and the fragment is a line that nobody can read, which costs nothing. Several processes may use it at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from threading import Lock

from maple.caches import cache_folder
from maple.durable import sync_folder
from maple.errors import InputError


def verdicts_file() -> Path:
    """The file of this user."""
    return cache_folder("verdicts") / "verdicts.jsonl"


class Verdicts:
    """What judges answered, by the hash of what they were asked."""

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, tuple[str, float]] = {}
        self._read_to = 0  # byte, the beginning of a line
        self._lock = Lock()

    def get(self, key: str) -> tuple[str, float] | None:
        """The raw answer and the seconds it took, also where another process got it a moment ago."""
        with self._lock, self._one_sentence():
            if self.path.exists():
                self._read_on()
            return self._known.get(key)

    def put(self, key: str, judge: str, raw: str, seconds: float) -> None:
        """Keep an answer; on the disk when this returns."""
        line = json.dumps({"key": key, "judge": judge, "raw": raw, "seconds": seconds}).encode() + b"\n"
        with self._lock, self._one_sentence():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                with contextlib.suppress(OSError):  # a file system without locks: at worst two lines become a fragment
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line
                while line:  # the system may take less than all of it
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if not size:
                sync_folder(self.path.parent)
            self._known[key] = raw, seconds

    def _read_on(self) -> None:
        """Take the lines that were added since."""
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < self._read_to:  # somebody emptied it
                self._read_to = 0
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):  # of a process that is at it, or was killed
                    break
                self._read_to += len(line)
                self._take(line)

    def _take(self, line: bytes) -> None:
        # a fragment, or no line of ours
        with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            content = json.loads(line)
            if isinstance(content["key"], str) and isinstance(content["raw"], str):
                self._known[content["key"]] = content["raw"], float(content["seconds"])

    @contextlib.contextmanager
    def _one_sentence(self):
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.path}: the judge's answers cannot be kept there ({error.strerror}); make room, or name another "
                "folder by XDG_CACHE_HOME"
            ) from error
