"""Waiting that all requests to one server share: while it asks one of them for time, none is sent."""

from __future__ import annotations

from random import random
from threading import Lock
from time import monotonic, sleep

FIRST = 1.0  # second; doubled with each further try of one request: 1 2 4 ... 64, some two minutes in all
LONGEST = 600.0  # seconds; who is asked for more should come again later rather than hold a machine


class Pause:
    """Until when nothing is sent."""

    def __init__(self):
        self._until = 0.0
        self._lock = Lock()

    def extend(self, tried: int, wait: float) -> None:
        """After a request failed for the `tried`-th time: wait longer each time, and as long as the server asks."""
        seconds = max(wait, FIRST * 2 ** (tried - 1))
        with self._lock:
            self._until = max(self._until, monotonic() + seconds)

    def wait(self) -> None:
        """Return once nothing has to be waited for; not at the same moment for all, or they would meet again."""
        while (left := self._until - monotonic()) > 0:
            sleep(left + FIRST * random())
