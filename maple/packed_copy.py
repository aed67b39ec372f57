"""The packed linear layers of a checkpoint, kept on the disk: the next start reads 3.6 GB of a 7B model and not 13.5.

    ~/.cache/maple/packed/<key>/packed.safetensors    every packed weight, in the order of the model
    ~/.cache/maple/packed/<key>/SHA256SUMS            its hash

Embeddings, head, norms and biases are not in it, they are read from the checkpoint as ever. The key is a hash of all
that the bytes depend on, and the file's header follows from model and settings alone: it is compared, not believed. A
copy only saves time, so nothing that goes wrong with one stops a run; deleting it is safe.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import queue
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from kernels import Int8Weight, NF4Weight
from kernels.packed import without_memory
from maple.ahead import ahead, ready, receiver
from maple.caches import cache_folder
from maple.durable import discard, sweep, whole_folder, write_file
from maple.errors import InputError, InputWarning
from maple.lock import Busy, locked
from maple.shards import Shards
from maple.sums import NAME as SUMS
from maple.sums import read_sums, write_sums
from maple.tensorfile import bytes_of, header

FILE = "packed.safetensors"
FORMAT = 1  # goes up when the bytes of a packed weight or of the file change
WORTH = 256 << 20  # bytes of 16-bit linear weights; fewer are packed in about a second
SPARE = 2  # a copy must not take the last of a disk that a run will write to: there must be room for two
Packed = NF4Weight | Int8Weight


def is_worth(shapes: dict[str, tuple[int, int]], bits: int) -> bool:
    """Whether these linear layers are kept packed."""
    return bits < 16 and 2 * sum(map(math.prod, shapes.values())) > WORTH


def cache_root() -> Path:
    """Where the copies lie."""
    return cache_folder("packed")


class Damaged(Exception):
    """A copy is not what was written: one sentence that names the file."""


class PackedCopy:
    """The copy of one checkpoint at one setting, whether it is there or not.

    shapes     {path: (out, in)} of the linear layers, in the order in which the model is filled
    settings   bits, block_size and double_quant, as `kernels.quantize` takes them
    """

    def __init__(self, shards: Shards | None, revision: str | None, shapes: dict[str, tuple[int, int]], settings: dict):
        found = [shards.fingerprint(), shards.stamps()] if shards else None
        key = json.dumps([FORMAT, found, revision, settings]).encode()
        self.folder = cache_root() / hashlib.sha256(key).hexdigest()
        self.weights = {path: without_memory(shape, **settings) for path, shape in shapes.items()}
        parts = {f"{path}.{name}": tensor for path, weight in self.weights.items() for name, tensor in _parts(weight)}
        metadata = {"format": "pt", "key": self.folder.name}  # a copy that was put in the place of another is noticed
        self.header = header({name: (part.dtype, list(part.shape)) for name, part in parts.items()}, metadata)
        self.nbytes = len(self.header) + sum(part.nbytes for part in parts.values())

    @property
    def exists(self) -> bool:
        """Whether there is one, be it damaged or not."""
        return self.folder.is_dir()

    def lack(self, root: Path) -> str | None:
        """Why the disk of the folder `root` has too little room for it; None where it has enough."""
        free = shutil.disk_usage(root).free
        if free >= SPARE * self.nbytes:
            return None
        sizes = f"{free / 2**30:.2f} GiB free, {SPARE} times {self.nbytes / 2**30:.2f} GiB wanted"
        return f"{root}: {sizes} for a packed copy of the model"

    def discard(self) -> None:
        """Remove it; what cannot be removed stays."""
        with contextlib.suppress(OSError):
            discard(self.folder)

    # ------------------------------------------------------------------------------------------------- reading

    def read(self, device: torch.device) -> Iterator[tuple[str, Packed]]:
        """(path, packed weight) in their order. Raises Damaged, at the latest when it is asked for one more."""
        with contextlib.closing(ahead(self._read(device))) as weights:
            for path, weight, events in weights:
                for (_, tensor), event in zip(_parts(weight), events, strict=True):
                    ready(tensor, event)
                yield path, weight

    def _read(self, device: torch.device) -> Iterator[tuple[str, Packed, list]]:
        """Every byte is hashed as it comes. Values are looked at by nobody else: that they are whole is all we ask."""
        path, receive = self.folder / FILE, receiver(device)
        try:
            sums = read_sums(self.folder)
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size != self.nbytes:
                    raise Damaged(f"{path}: {size} bytes, {self.nbytes} were written")

                def fill(piece: torch.Tensor) -> None:
                    memory = piece.numpy().data
                    while memory:
                        count = file.readinto(memory)
                        if not count:
                            raise Damaged(f"{path}: it became shorter while it was being read")
                        digest.update(memory[:count])
                        memory = memory[count:]

                start = torch.empty(len(self.header), dtype=torch.uint8)
                fill(start)
                if bytes_of(start) != self.header:
                    raise Damaged(f"{path}: its header is not that of this model and these settings")
                for name, weight in self.weights.items():
                    parts, events = {}, []
                    for field, like in _parts(weight):
                        found, event = receive(like.nbytes, fill)
                        parts[field] = found.view(like.dtype).view(like.shape)
                        events.append(event)
                    yield name, type(weight)(**parts, **weight.settings()), events
        except OSError as error:
            raise Damaged(f"{error.filename or path}: cannot be read ({error.strerror})") from error
        if sums != {FILE: digest.hexdigest()}:
            raise Damaged(f"{path} is not what was written: its SHA-256 is not the one in {SUMS}")

    # ------------------------------------------------------------------------------------------------- writing

    @contextlib.contextmanager
    def written(self) -> Iterator[Callable[[Packed], None]]:
        """What is to be called with every packed weight, in their order: a thread writes them.

        Where that is not possible a warning says why, in one sentence, and the weights are only used. One process
        writes at a time: another one that would like to does without a copy this time.
        """
        with contextlib.ExitStack() as stack:
            try:
                reason = self._prepare(stack)
            except Busy:
                reason = ""
            except OSError as error:
                reason = f"{error.filename or self.folder.parent}: {error.strerror}"
            except InputError as error:  # no locks there
                reason = str(error)
            if reason is not None:
                if reason:
                    _warn(reason)
                yield lambda weight: None
                return
            with ThreadPoolExecutor(1) as thread:
                # One weight that waits and one that is being written: on a GPU they are copied from there.
                weights = queue.Queue(maxsize=1)
                writing = thread.submit(self._write, weights)
                try:
                    yield weights.put
                except BaseException:
                    weights.put(_Abandoned())
                    raise
                weights.put(None)
                try:
                    writing.result()
                except (OSError, InputError) as error:
                    _warn(str(error))

    def _prepare(self, stack: contextlib.ExitStack) -> str | None:
        """Take the lock; why nothing can be written, empty where nothing need be."""
        root = self.folder.parent
        root.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(root))
        if self.exists:  # another process was first
            return ""
        sweep(root)
        return self.lack(root)

    def _write(self, weights: queue.Queue) -> None:
        """The thread's work. It empties the queue whatever happens, or the one who fills it would wait for ever."""
        ended = False

        def pieces() -> Iterator[bytes | memoryview]:
            nonlocal ended
            yield self.header
            while not ended:
                weight = weights.get()
                ended = weight is None or isinstance(weight, _Abandoned)
                if isinstance(weight, _Abandoned):
                    raise weight
                for _, tensor in _parts(weight) if weight is not None else ():
                    yield bytes_of(tensor)

        try:
            with whole_folder(self.folder) as partial:
                write_sums(partial, {FILE: write_file(partial / FILE, pieces())})
        finally:
            while not ended:
                weight = weights.get()
                ended = weight is None or isinstance(weight, _Abandoned)


class _Abandoned(Exception):
    """Loading has failed: what was written of the copy is removed."""


def _parts(weight: Packed) -> list[tuple[str, torch.Tensor]]:
    return list(weight.tensors().items())


def _warn(reason: str) -> None:
    warnings.warn(f"{reason}; the next start will pack the weights again", InputWarning, stacklevel=3)
