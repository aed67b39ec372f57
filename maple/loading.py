"""What is shown while a model is loaded: a bar over its bytes, which goes with it; of a large one a line stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from maple.weights import Progress as Tell

LARGE = 256 << 20  # bytes; fewer are read and packed in about a second, and nobody asks what it waits for


@contextmanager
def loading(console: Console) -> Iterator[Tell]:
    """The `progress` of `load_model` for the block."""
    columns = TextColumn("loading"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    task, begun, read = bar.add_task("", total=None), time.perf_counter(), 0

    def tell(done: int, total: int) -> None:
        nonlocal read
        read = done
        bar.update(task, completed=done, total=total)

    with bar:
        yield tell
    if read >= LARGE:
        console.print(f"Loaded {read / 1e9:,.2f} GB of weights in {time.perf_counter() - begun:.1f} s.")
