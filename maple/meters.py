"""What a run counts while it runs: tokens, speed and memory, a row in metrics.csv for each optimizer step."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import resource
import sys
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback

from maple.devices import gathered
from maple.durable import naming
from maple.errors import InputWarning
from maple.loss import Score


def memory_bytes(device: torch.device) -> int:
    """The peak so far: on a GPU what PyTorch allocated, on a CPU all of the process that was resident.

    The latter includes the libraries, and the pages of the checkpoint that were mapped while it was read.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def forget_peak() -> None:
    """Let `memory_bytes` begin anew, for the next of several runs in this process. Only Linux can, on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak resident size becomes the present one


class MetricsFile:
    """metrics.csv: one row an optimizer step, and one a validation; each is on disk when it is written."""

    COLUMNS = ("step", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes")

    def __init__(self, path: Path, languages: list[str], keep_bytes: int = 0):
        """Begin the file, or go on behind the first `keep_bytes` bytes of what a stopped run wrote."""
        self.path = path
        keep_bytes = _whole_rows(path, keep_bytes)
        self.file = path.open("ab", buffering=0)
        with naming(path):
            self.file.truncate(keep_bytes)
        measured = [f"{name}/{language}" for name in ("val_loss", "exact_match") for language in languages]
        self.columns = [*self.COLUMNS, *measured]
        if not keep_bytes:
            self.write({name: name for name in self.columns})

    def write(self, row: dict[str, float | str]) -> None:
        """Append a row; columns it lacks stay empty."""
        line = io.StringIO()
        csv.DictWriter(line, self.columns, lineterminator="\n").writerow(row)
        with naming(self.path):
            self.file.write(line.getvalue().encode())

    def sync(self) -> None:
        """Put all rows on the disk."""
        with naming(self.path):
            os.fsync(self.file.fileno())

    def size(self) -> int:
        """Bytes of all rows."""
        return os.fstat(self.file.fileno()).st_size

    def write_validation(self, step: int, scores: dict[str, Score]) -> None:
        """A row that holds the loss and the exact match of each language."""
        losses = {f"val_loss/{language}": score.mean_loss for language, score in scores.items()}
        matches = {f"exact_match/{language}": score.exact_match for language, score in scores.items()}
        self.write({"step": step} | losses | matches)


def _whole_rows(path: Path, keep_bytes: int) -> int:
    """`keep_bytes`, or where somebody cut the file to less, the bytes of the rows that are left."""
    rows = path.read_bytes()[:keep_bytes] if path.is_file() else b""
    if len(rows) < keep_bytes:
        warnings.warn(f"{path} has lost rows that were there when the run was stopped", InputWarning, stacklevel=3)
    return rows.rfind(b"\n") + 1


def rows_of_steps(path: Path) -> bool:
    """Whether a metrics.csv tells of any optimizer step."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return any(line[:1] in b"123456789" for line in lines[1:] if line)


class NoMetrics:
    """What the ranks behind the first have in the place of a MetricsFile."""

    def write(self, row: dict[str, float | str]) -> None:
        """Rank 0 does."""

    def write_validation(self, step: int, scores: dict[str, Score]) -> None:
        """Rank 0 does."""

    def sync(self) -> None:
        """There is nothing to sync."""

    def size(self) -> int:
        """Of no file."""
        return 0


class Meters(Callback):
    """Counts tokens, measures speed and memory, and writes a row of metrics.csv for each optimizer step.

    Of several devices the tokens are those of all, and the memory is that of the one that takes most.
    """

    KEPT = ("steps", "tokens", "first_loss", "last_loss", "peak_memory", "seconds")  # by a checkpoint

    def __init__(self, metrics: MetricsFile | NoMetrics):
        self.metrics = metrics
        self.steps = self.tokens = 0  # tokens of prompts and answers, without padding
        self.first_loss = self.last_loss = None
        self.peak_memory = 0
        self.seconds = 0.0  # of training, those before a resume included
        self.row: dict[str, float] = {}  # of the last step

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps of the counts."""
        return {name: getattr(self, name) for name in self.KEPT}

    def restore(self, state: dict[str, float]) -> None:
        """Go on counting from there."""
        for name in self.KEPT:
            setattr(self, name, state[name])

    def on_train_start(self, trainer, pl_module) -> None:
        """Start the clock."""
        self.step_started, self.step_tokens = time.perf_counter(), 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """After the last micro-batch of an optimizer step: its row of metrics."""
        self.step_tokens += batch["tokens"]
        if pl_module.step == self.steps:
            return
        now = time.perf_counter()
        self.seconds += now - self.step_started
        rows = gathered([self.step_tokens, memory_bytes(pl_module.device)])  # the memory while the model is there
        step_tokens = int(sum(tokens for tokens, _ in rows))
        self.steps, self.tokens = pl_module.step, self.tokens + step_tokens
        self.last_loss = pl_module.step_loss
        self.first_loss = self.last_loss if self.first_loss is None else self.first_loss
        self.peak_memory = int(max(memory for _, memory in rows))
        self.row = {
            "step": self.steps,
            "tokens": self.tokens,
            "loss": self.last_loss,
            "learning_rate": pl_module.step_lr,
            "grad_norm": pl_module.grad_norm,
            "tokens_per_second": step_tokens / (now - self.step_started),
            "memory_bytes": self.peak_memory,
        }
        self.step_started, self.step_tokens = now, 0
        self.metrics.write(self.row)
