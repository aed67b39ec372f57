"""Tensors of a checkpoint in the order in which a model is filled: the next is read while one is being worked on.

On a CPU a tensor is mapped from its file: a thread makes the pages of the next one resident, and those of one that was
used are given back. They would otherwise count as the process' own, all 13.5 GB of a 7B model. For a GPU the thread
copies the bytes through pinned memory, on a stream beside the one that computes.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from maple.shards import Shards

T = TypeVar("T")
END = object()
PIECE = 4 << 20  # bytes that are read, hashed or sent at once: what was just read is still in the L2 or L3 cache


def ahead(source: Iterator[T]) -> Iterator[T]:
    """The items of `source`, each made by a thread while the one before it is being worked on; errors come as well."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, source, END)
        while (item := coming.result()) is not END:
            coming = thread.submit(next, source, END)
            yield item
            del item  # or it would live until the next one is there


class Stream:
    """Tensors of `shards` in the order of `names`, on `device`."""

    def __init__(self, shards: Shards, names: list[str], device: torch.device, tell: Callable[[int], None]):
        self._read = ahead(_tensors(shards, names, receiver(device)))
        self.tell, self._used = tell, None

    def take(self, name: str) -> Tensor:
        """The next tensor, which is `name`. On a CPU it must not be used any more when the one behind it is taken."""
        if self._used is not None:
            give_back(self._used)
        found, tensor, done = next(self._read)
        assert found == name, f"{name} is asked for, {found} was read"
        ready(tensor, done)
        self._used = tensor if tensor.is_cpu else None
        self.tell(tensor.nbytes)
        return tensor

    def close(self) -> None:
        """End the thread and give back the last pages."""
        self._read.close()
        if self._used is not None:
            give_back(self._used)


def _tensors(shards: Shards, names: list[str], receive: Receiver) -> Iterator[tuple]:
    for name in names:
        tensor = shards.get(name)
        if receive.device.type == "cpu":
            make_resident(tensor)
            yield name, tensor, None
        else:
            _advise(tensor, mmap.MADV_WILLNEED)
            pieces = iter(tensor.view(-1).view(torch.uint8).split(PIECE))
            target, done = receive(tensor.nbytes, lambda buffer, pieces=pieces: buffer.copy_(next(pieces)))
            give_back(tensor)
            yield name, target.view(tensor.dtype).view(tensor.shape), done


def make_resident(tensor: Tensor) -> None:
    """Read all pages of a mapped tensor: asked for at once, which a disk answers faster, then touched one by one."""
    _advise(tensor, mmap.MADV_WILLNEED)
    tensor.view(-1).view(torch.uint8).numpy()[:: mmap.PAGESIZE].sum()  # numpy lets other threads run meanwhile


def give_back(tensor: Tensor) -> None:
    """Drop the pages of a mapped tensor from the process. The system's cache keeps them; the tensor is used up."""
    _advise(tensor, mmap.MADV_DONTNEED)


def _advise(tensor: Tensor, advice: int) -> None:
    """Only whole pages: what shares a page with a neighbour stays."""
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start:  # whatever it answers: an advice changes no result
        _LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)


_LIBC = ctypes.CDLL(None)  # mmap.madvise takes only mappings that Python made


# ------------------------------------------------------------------------------------------------------------------
# Bytes to a device
# ------------------------------------------------------------------------------------------------------------------


class Receiver:
    """Bytes become a tensor on a CPU: what fills its pieces writes straight into it."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(self, count: int, fill: Callable[[Tensor], object]) -> tuple[Tensor, torch.cuda.Event | None]:
        """A tensor of `count` bytes from `fill`, which gets one piece of memory after the other; when it is there."""
        target = torch.empty(count, dtype=torch.uint8)
        for piece in target.split(PIECE):
            fill(piece)
        return target, None


class PinnedReceiver(Receiver):
    """Bytes become a tensor on a GPU: while one of two pinned buffers is being filled the other one is being sent."""

    def __init__(self, device: torch.device):
        # a thread of its own has a current device of its own
        super().__init__(torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index))
        self.stream = torch.cuda.Stream(self.device)
        self.buffers = [(torch.empty(PIECE, dtype=torch.uint8, pin_memory=True), torch.cuda.Event()) for _ in range(2)]

    def __call__(self, count: int, fill: Callable[[Tensor], object]) -> tuple[Tensor, torch.cuda.Event | None]:
        """As on a CPU; the tensor may be used behind the event."""
        with torch.cuda.stream(self.stream):
            target = torch.empty(count, dtype=torch.uint8, device=self.device)
            for piece in target.split(PIECE):
                buffer, sent = self.buffers[0]
                self.buffers.reverse()
                sent.synchronize()
                fill(buffer[: len(piece)])
                piece.copy_(buffer[: len(piece)], non_blocking=True)
                sent.record()
            return target, self.stream.record_event()


def receiver(device: torch.device) -> Receiver:
    """How bytes get to a device."""
    return PinnedReceiver(device) if device.type == "cuda" else Receiver(device)


def ready(tensor: Tensor, done: torch.cuda.Event | None) -> None:
    """Let the current stream wait until a received tensor is there, and its memory stay until that stream is done."""
    if done is not None:
        stream = torch.cuda.current_stream(tensor.device)
        stream.wait_event(done)
        tensor.record_stream(stream)
