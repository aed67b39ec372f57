"""Records -> token ids with the position from which they are supervised, cached on disk.

A sample is BOS (where the tokenizer has one), prompt, answer, EOS. Supervised are the answer and EOS, by position:
never by comparing ids, since EOS may also be the padding token or stand in the text.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, load_from_disk

from maple.caches import cache_folder
from maple.data.prompts import render, template_text, writes_no_bos
from maple.data.records import Record
from maple.errors import InputError

TOKENIZE_AT_ONCE = 1000  # records a call of the tokenizer, which works on them in parallel


@dataclass(frozen=True)
class Limits:
    """How long a sample may be: `max_length` by the user's choice, `window` by the model's positions, in tokens."""

    max_length: int
    window: int


@dataclass
class Samples:
    """The tokenised records of one language, in their order."""

    language: str
    table: Dataset  # input_ids, length, largest_id, prompt_length, truncated
    digest: str  # SHA-256 of the records

    def __post_init__(self):
        # [:] reads a column at once; iterating over it would take a hundred times as long
        self.lengths: np.ndarray = self.table["length"][:]  # tokens of each sample

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """(token ids, number of them that are prompt)."""
        row = self.table[int(index)]
        return row["input_ids"], int(row["prompt_length"])

    @property
    def truncated_percent(self) -> float:
        """Share of samples that lost tokens."""
        return 100 * float(self.table["truncated"][:].mean())

    @property
    def supervised(self) -> int:
        """Supervised tokens of all samples."""
        return int(self.lengths.sum() - self.table["prompt_length"][:].sum())


def tokenize(language: str, records: list[Record], template: str, tokenizer, limits: Limits) -> Samples:
    """Tokenise a language's records, or read them from the cache of an earlier run.

    Raises InputError with file and line for a sample of which nothing would be supervised.
    """
    digest = _digest(records)
    folder = _cache_folder(digest, template, tokenizer, limits)
    table = _cached(folder)
    if table is None:
        columns = {"input_ids": [], "length": [], "largest_id": [], "prompt_length": [], "truncated": []}
        for sample in _samples(records, template, tokenizer, limits):
            for column, value in zip(columns.values(), sample, strict=True):
                column.append(value)
        table = Dataset.from_dict(columns)
        _store(table, folder)
    return Samples(language, table.with_format("numpy"), digest)


def _samples(
    records: list[Record], template: str, tokenizer, limits: Limits
) -> Iterator[tuple[np.ndarray, int, int, int, bool]]:
    special = writes_no_bos(template)
    for start in range(0, len(records), TOKENIZE_AT_ONCE):
        some = records[start : start + TOKENIZE_AT_ONCE]
        prompts, fulls = zip(*(render(template, record, tokenizer) for record in some), strict=True)
        prompt_ids = tokenizer(list(prompts), add_special_tokens=special)["input_ids"]
        full_ids = tokenizer(list(fulls), add_special_tokens=special)["input_ids"]
        for record, prompt, full, p, f in zip(some, prompt_ids, full_ids, prompts, fulls, strict=True):
            if full[: len(prompt)] == prompt:
                answer = full[len(prompt) :]
            else:  # a token would span prompt and answer; at inference the prompt is tokenised alone, so here too
                answer = tokenizer(f[len(p) :], add_special_tokens=False)["input_ids"]
            if template == "chat":
                answer = _first_turn(answer, tokenizer.eos_token_id)
            if answer[-1:] != [tokenizer.eos_token_id]:
                answer = [*answer, tokenizer.eos_token_id]
            ids, prompt_length = cut(prompt, answer, limits, tokenizer.bos_token_id, record.where)
            truncated = len(ids) < len(prompt) + len(answer)
            yield np.array(ids, dtype=np.int32), len(ids), max(ids), prompt_length, truncated


def _first_turn(answer: list[int], eos: int) -> list[int]:
    """What a chat template wrote up to its own EOS: a line break may stand behind it."""
    return answer[: len(answer) - answer[::-1].index(eos)] if eos in answer else answer


def cut(prompt: list[int], answer: list[int], limits: Limits, bos: int | None, where: str) -> tuple[list[int], int]:
    """(ids, prompt length) of at most max_length tokens, at least one of them supervised.

    A long sample loses the end of its answer. A prompt that fills --max-length stops the run, since a longer one would
    do; a prompt that fills even the model's window, where nothing would, keeps its end, which holds the template's cue
    to answer, and leaves at most half of the window to the answer.
    """
    if len(prompt) >= limits.max_length:
        if limits.max_length < limits.window:
            enough = min(len(prompt) + len(answer), limits.window)
            raise InputError(
                f"{where}: no supervised token is left, the prompt alone takes {len(prompt)} tokens; --max-length is "
                f"{limits.max_length}, and {enough} would do"
            )
        kept = limits.window - min(len(answer), limits.window // 2)
        head = prompt[:1] if prompt[0] == bos else []
        prompt = head + prompt[len(prompt) - kept + len(head) :]
    ids = (prompt + answer)[: limits.max_length]
    return ids, len(prompt)


def _digest(records: list[Record]) -> str:
    content = hashlib.sha256()
    for record in records:
        content.update(json.dumps([record.instruction, record.input, record.output]).encode())
    return content.hexdigest()


def _cache_folder(digest: str, template: str, tokenizer, limits: Limits) -> Path:
    """Named by a hash of everything the tokens depend on."""
    parts = [
        digest,
        template_text(template, tokenizer),
        tokenizer.backend_tokenizer.to_str(),
        [tokenizer.bos_token_id, tokenizer.eos_token_id, limits.max_length, limits.window],
        Path(__file__).read_text(encoding="utf-8"),  # these very rules
    ]
    return cache_folder("tokens") / hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _cached(folder: Path) -> Dataset | None:
    try:
        return load_from_disk(folder)
    except Exception:  # not there, or damaged in one of the many ways Arrow and JSON report: made again
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _store(table: Dataset, folder: Path) -> None:
    """Write under another name and rename, so that a killed run leaves no half of a cache."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        table.save_to_disk(partial)
        partial.rename(folder)
    except OSError:  # no room, no permission, or another run was first: the cache only saves time
        shutil.rmtree(partial, ignore_errors=True)
