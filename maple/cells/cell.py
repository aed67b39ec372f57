"""One cell of a study: the flags it is made of, the folder that they name, and where it stands.

    cells/tiny.tiny.r8.4bit.s0-1f2e3d4c/
        cell.json      its flags, and fingerprints of the model and the data that it was made with
        state.json     where it stands
        fit/           what `maple.fit` leaves; a base, which is not trained, has none
        scores-<hash>/ what `maple.evaluate` leaves; the hash is that of all flags that scores depend on

The name is a function of the flags alone, so that a study that is started again, or that has one rank more, finds what
is there. Folders given as --model or --data count by their last name: the cell is the same on another machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maple.durable import replace_file
from maple.errors import InputError
from maple.hub import looks_like_folder
from maple.jsonfile import read_object

STUDY, CELLS = "study.yaml", "cells"
CELL, STATE, FIT = "cell.json", "state.json", "fit"
PLANNED, TRAINING, SCORING, DONE, FAILED = STATES = "planned", "training", "scoring", "done", "failed"
TEXTS = ("error", "where")  # of a state, and its numbers
NUMBERS = ("attempts", "seconds", "step", "of", "loss", "tokens_per_second", "scored", "to_score")
SLUG = 24  # characters of a model's or a data set's name in that of a folder
HASH = 8  # hexadecimal digits: among 120 cells two are alike once in 600,000 studies
BASE_FLAGS = ("model", "revision", "bits", "block_size", "double_quant", "template", "device", "precision")
# of the evaluation: which of its scores there are, how fast they come, and who judges answers that are there
NOT_SCORES = ("tasks", "languages", "batch_size", "device", "devices", "judge", "judge_model", "judge_style")


@dataclass(frozen=True)
class Cell:
    """A model in some bits with an adapter to train, or a base (rank 0) that is only scored."""

    fit: dict[str, Any]  # flags of maple.fit, resolved; of a base those of BASE_FLAGS

    @property
    def rank(self) -> int:
        """Of the adapter; 0 is a base."""
        return self.fit["rank"]

    @property
    def name(self) -> str:
        """What its folder is called."""
        parts = [slug(self.fit["model"])]
        parts += [slug(self.fit["data"]), f"r{self.rank}"] if self.rank else ["base"]
        parts += [f"{self.fit['bits']}bit"] + ([f"s{self.fit['seed']}"] if self.rank else [])
        return f"{'.'.join(parts)}-{_hash(self.fit)}"

    @property
    def loads(self) -> tuple:
        """What its base depends on: cells that share it are done one after the other, and load it once."""
        names = ("model", "revision", "bits", "block_size", "double_quant", "device", "precision")
        return tuple(self.fit[name] for name in names)

    def folder(self, study: Path) -> Path:
        """Where it lies."""
        return study / CELLS / self.name


def slug(name: str) -> str:
    """The last part of a hub id or path, in letters that every file system takes."""
    last = re.sub(r"[^A-Za-z0-9._-]+", "_", os.path.basename(name.rstrip("/")))
    return last.lstrip(".-")[:SLUG] or "_"


def scores_folder(evaluate: dict[str, Any]) -> str:
    """The folder of the scores that these flags of maple.evaluate make; tasks and languages are added to it."""
    return f"scores-{_hash({name: value for name, value in evaluate.items() if name not in NOT_SCORES})}"


def known_as(flag: str, value: Any) -> Any:
    """What a flag counts as in a cell's name: a path, unlike a hub id, as its last part."""
    if flag in ("data", "data_dir") or (flag == "model" and looks_like_folder(value)):
        return os.path.basename(value.rstrip("/"))
    return value


def _hash(flags: dict[str, Any]) -> str:
    """Of all that is set."""
    kept = {name: known_as(name, value) for name, value in flags.items() if value is not None}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:HASH]


class State:
    """state.json of a cell; each change is on the disk at once."""

    def __init__(self, folder: Path):
        self.folder, self.now = folder, read_state(folder)
        self.before, self.started = self.now.get("seconds") or 0.0, time.monotonic()

    def begin(self, state: str) -> None:
        """Note another attempt, whose clock runs already."""
        self.change(state=state, attempts=(self.now.get("attempts") or 0) + 1, error=None)

    def change(self, **changes: Any) -> None:
        """Note it, how long the cell has taken so far, and who is at work on it."""
        self.changed = time.monotonic()
        self.now |= {**changes, "seconds": round(self.before + self.changed - self.started, 1)}
        self.now["where"] = f"process {os.getpid()} on {platform.node()}"
        write_state(self.folder, self.now)

    def is_due(self, seconds: float) -> bool:
        """Whether the last change is so long ago."""
        return time.monotonic() - self.changed >= seconds


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace state.json."""
    replace_file(folder / STATE, json.dumps(state, indent=1, ensure_ascii=False) + "\n")


def read_state(folder: Path) -> dict[str, Any]:
    """What state.json says; empty of a cell that nobody has begun, or whose file is damaged: its fit says the rest."""
    try:
        found = read_object(folder / STATE) if (folder / STATE).is_file() else {}
    except InputError:
        return {}
    texts, numbers = (tuple(found.get(name) for name in names) for names in (TEXTS, NUMBERS))
    sound = found.get("state") in STATES and all(isinstance(text, str | None) for text in texts)
    return found if sound and all(number is None or _is_sound(number) for number in numbers) else {}


def _is_sound(number: object) -> bool:
    """Whether it can be shown and reckoned with; neither NaN nor a truth value."""
    return type(number) in (int, float) and 0 <= number < 2**53


def is_gone(state: dict[str, Any]) -> bool:
    """Whether the process that was at work on a cell is no longer there; of another machine's nothing is known."""
    found = re.fullmatch(r"process (\d{1,9}) on (.*)", state.get("where") or "")
    if state.get("state") not in (TRAINING, SCORING) or not found or found[2] != platform.node():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's, so it is there
        pass
    return False
