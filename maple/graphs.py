"""Decoding steps as CUDA graphs: a step of a 7B model is hundreds of kernels, and Python launches them too slowly.

A graph has fixed shapes, so it serves a bucket of row counts and of lengths, and runs with more rows and slots than
there are texts and tokens. It repeats what was captured with the same memory: what changes must lie in tensors that
stay. Graphs are replayed one after the other on one stream, never beside products on another (kernels/tiles.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 2  # steps before the capture: kernels are compiled and libraries make their handles
SHORTEST = 64  # slots


class Graphs:
    """Steps for at most `rows` and `length`, captured for each bucket when it is first needed."""

    def __init__(self, rows: int, length: int):
        self.rows, self.length = rows, length
        self.captured: dict[tuple[int, int], tuple[Callable[[], None], Tensor]] = {}
        self.stream = self.pool = None

    def run(self, step: Callable[[int, int], Tensor], rows: int, length: int) -> Tensor:
        """What `step(rows, length)` returns, in memory that the next call of the same bucket overwrites.

        `step` must give the same however often it is called, and wait for nothing: no `.item()`, no shape from data.
        """
        bucket = min(power_of_two(rows), self.rows), min(length_bucket(length), self.length)
        if bucket not in self.captured:
            self.captured[bucket] = self.capture(step, *bucket)
        replay, result = self.captured[bucket]
        replay()
        return result

    def capture(self, step: Callable[[int, int], Tensor], rows: int, length: int) -> tuple[Callable[[], None], Tensor]:
        """(what replays a step, where its result then is)."""
        if self.stream is None:  # one memory for all graphs: nothing of one is needed after another has run
            self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                step(rows, length)
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            result = step(rows, length)
        return graph.replay, result


def power_of_two(number: int) -> int:
    """The next one from a number on."""
    return 1 << (number - 1).bit_length()


def length_bucket(length: int) -> int:
    """The next of 64, 80, 96, 112, 128, 160, ...: four to a doubling, so at most a fifth of what is read is unused."""
    step = max(SHORTEST, power_of_two(length)) // 8
    return max(SHORTEST, -(-length // step) * step)
