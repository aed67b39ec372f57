"""Work that mostly waits, done by a few threads at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

AT_ONCE = 8  # questions under way; a server on one GPU batches them, and rate limits of a paid one allow more
GRACE = 5.0  # seconds for what is under way when the work ends early: it was paid for


def in_threads(work: Callable, items: Iterable, progress: Callable[[int, int], None]) -> dict:
    """{item: work(item)}, several at a time; the first error ends it, and is raised.

    The threads are daemons: after Ctrl-C the process does not wait for a server that does not answer.
    """
    waiting, done, results = SimpleQueue(), SimpleQueue(), {}
    items = list(items)
    for item in items:
        waiting.put(item)

    def worker() -> None:
        while True:
            try:
                item = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put((item, work(item), None))
            except Exception as error:
                done.put((item, None, error))

    threads = [threading.Thread(target=worker, daemon=True) for _ in range(min(AT_ONCE, len(items)))]
    for thread in threads:
        thread.start()
    try:
        for count in range(1, len(items) + 1):
            item, result, error = done.get()
            if error:
                raise error
            results[item] = result
            progress(count, len(items))
    finally:
        _let_end(threads, waiting)
    return results


def _let_end(threads: list[threading.Thread], waiting: SimpleQueue) -> None:
    """Give what is under way a moment, and let nothing else begin."""
    while not waiting.empty():
        try:
            waiting.get_nowait()
        except Empty:
            break
    end = time.monotonic() + GRACE
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
