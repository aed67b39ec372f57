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
    items = list(items)
    waiting, done, results, ended = SimpleQueue(), SimpleQueue(), {}, threading.Event()
    for item in items:
        waiting.put(item)
    workers = [
        threading.Thread(target=_worker, args=(work, waiting, done, ended), daemon=True)
        for _ in range(min(AT_ONCE, len(items)))
    ]
    for worker in workers:
        worker.start()
    try:
        for count in range(1, len(items) + 1):
            item, result, error = done.get()
            if error:
                raise error
            results[item] = result
            progress(count, len(items))
    finally:
        ended.set()
        end = time.monotonic() + GRACE
        for worker in workers:
            worker.join(max(0.0, end - time.monotonic()))
    return results


def _worker(work: Callable, waiting: SimpleQueue, done: SimpleQueue, ended: threading.Event) -> None:
    """One item after the other, until there is none, one fails, or nothing is wanted any more."""
    while not ended.is_set():
        try:
            item = waiting.get_nowait()
        except Empty:
            return
        try:
            done.put((item, work(item), None))
        except Exception as error:
            ended.set()  # before the others begin something that nobody will see
            done.put((item, None, error))
