"""How many bytes of tensors are alive: what a step needs, whatever an allocator makes of it."""

from __future__ import annotations

import weakref
from collections import Counter

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import naive
from kernels.ops import COMPUTES


class LiveBytes(TorchDispatchMode):
    """Within it the storages that operators make are counted, each once, until they are freed; `peak` is the most.

    Views share a storage and count nothing. Every storage belongs to the `part` that was set when it was made. What
    PyTorch takes inside one of its own operators is not seen; our operators are looked into, since what they take on
    the way (dequantised pieces of a weight, dropout masks) is as large as what they return.
    """

    def __init__(self, part: str = ""):
        super().__init__()
        naive.forget_buffers()  # or what was kept from before would be missed
        self.part = part
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()  # the parts at the moment when their sum was largest
        self.now = self.highest = self._most = 0  # bytes: now, the most since someone reset it, the most ever
        self._storages: dict[int, tuple[weakref.ref, int, str]] = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        """Run one operator and count what it returns."""
        result = self.run(operator, args, kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.count(tensor)
        return result

    def run(self, operator, args, kwargs):
        """Compute; an operator of ours in Python, with everything in it seen by the counter."""
        if operator.namespace != "maple":
            return operator(*args, **kwargs)
        with self:
            return COMPUTES[operator._opname](*args, **kwargs)

    def count(self, tensor: Tensor, part: str | None = None) -> None:
        """Count a tensor that is not counted yet; with `part`, make it belong there."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            if part is not None:
                self._move(key, part)
            return
        size, part = storage.nbytes(), part or self.part
        self._storages[key] = weakref.ref(storage, lambda _: self._freed(key)), size, part
        self.live[part] += size
        self.now += size
        self.check()

    def check(self, extra: int = 0) -> None:
        """See whether this is a new peak, with `extra` bytes that are there for a moment."""
        self.highest = max(self.highest, self.now + extra)
        if self.now + extra > self._most:
            self._most, self.peak = self.now + extra, self.live.copy()
            self.peak[self.part] += extra

    def _move(self, key: int, part: str) -> None:
        reference, size, before = self._storages[key]
        self._storages[key] = reference, size, part
        self.live[before] -= size
        self.live[part] += size

    def _freed(self, key: int) -> None:
        _, size, part = self._storages.pop(key)
        self.live[part] -= size
        self.now -= size
