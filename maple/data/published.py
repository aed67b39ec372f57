"""Published instruction data on the hub: where each language lies, at which commit, and how its file is read.

Plain files, never a data set's own script. Of MultiAlpaca no full commit hash was at hand, only that main was c75ee65
in 2024: it is pinned to main, and a run records the commit that main was (`sources.open_source`).
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from maple.data.records import Record, lines, to_record
from maple.errors import InputError, first_line
from maple.hub import snapshot_with


@dataclass(frozen=True)
class Published:
    """A data set on the hub, one file a language."""

    repo: str
    revision: str  # a commit where it is known
    file: str  # of {language}
    languages: tuple[str, ...]  # in the order in which they are mixed
    more: tuple[str, ...] = ()  # that --languages may name too


# The languages of MultiAlpaca (PolyLM, arXiv 2307.06018); no English among them. Bactrian-X-11 of the MAPLE paper is
# taken to be the same eleven, since the paper compares the two sets.
ELEVEN = ("ar", "de", "es", "fr", "id", "ja", "ko", "pt", "ru", "th", "vi")

# The paper does not publish which eleven Bactrian-X-22 adds. This list is OURS: the further languages of Bactrian-X in
# which XNLI, XCOPA, XQuAD or MLQA asks its questions, which are ten, and Bengali.
OURS = ("bn", "en", "et", "hi", "it", "ro", "sw", "ta", "tr", "ur", "zh")

# fmt: off
BACTRIAN_X = (  # all 52 (arXiv 2305.15011)
    "af", "ar", "az", "bn", "cs", "de", "en", "es", "et", "fa", "fi", "fr", "gl", "gu", "he", "hi", "hr", "id", "it",
    "ja", "ka", "kk", "km", "ko", "lt", "lv", "mk", "ml", "mn", "mr", "my", "ne", "nl", "pl", "ps", "pt", "ro", "ru",
    "si", "sl", "sv", "sw", "ta", "te", "th", "tl", "tr", "uk", "ur", "vi", "xh", "zh",
)
# fmt: on

ALPACA = "dce01c9b08f87459cf36a430d809084718273017"
BACTRIAN = "3698480a001cb3f62c61c314d4acb181eb31e983"  # "Restore instances with empty output", the last of its data

# Bytes once unpacked; a gigabyte can be packed into one megabyte. 32 KB for each of the 67,017 records of a language.
LARGEST_LIST = 2**31

PUBLISHED = {
    "alpaca": Published("tatsu-lab/alpaca", ALPACA, "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet", ("en",)),
    "multialpaca": Published("DAMO-NLP-MT/multialpaca", "main", "{language}.jsonl", ELEVEN),
    "bactrian-x-11": Published("MBZUAI/Bactrian-X", BACTRIAN, "data/{language}.json.gz", ELEVEN),
    "bactrian-x-22": Published(
        "MBZUAI/Bactrian-X",
        BACTRIAN,
        "data/{language}.json.gz",
        languages=tuple(sorted(ELEVEN + OURS)),
        more=tuple(language for language in BACTRIAN_X if language not in ELEVEN + OURS),
    ),
}


def fetch(name: str, revision: str | None, languages: list[str]) -> Path:
    """Download the file of each language; the folder of the snapshot, named by its commit. Raises InputError."""
    data = PUBLISHED[name]
    revision = revision or data.revision
    for language in languages:
        file = data.file.format(language=language)
        folder = snapshot_with(f"--data {name}", data.repo, file, revision, kind="dataset")
        revision = folder.name  # a branch that moves meanwhile does not give two languages of different commits
    return folder


def read(name: str, folder: Path, language: str) -> list[Record]:
    """The records of a language from a fetched snapshot. Raises InputError for a damaged file.

    A row without an instruction, or with null for an answer, is left out: whoever runs this cannot mend it.
    """
    data = PUBLISHED[name]
    file = data.file.format(language=language)
    path, where = folder / file, f"{data.repo}/{file}"
    try:
        rows = READERS[path.suffix](path)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise InputError(
            f"{where}: the copy in the cache is damaged ({first_line(error)}); delete {path.resolve()} and run again"
        ) from error
    return [to_record(row, f"{where}:{number}") for number, row in enumerate(rows, start=1) if not _is_empty(row)]


def _is_empty(row: object) -> bool:
    if not isinstance(row, dict):
        return False  # no record at all: `to_record` says so
    return row.get("instruction") is None or not str(row["instruction"]).strip() or row.get("output", "") is None


def _read_parquet(path: Path) -> list[dict]:
    from pyarrow import parquet

    return parquet.read_table(path, columns=["instruction", "input", "output"]).to_pylist()


def _read_json_lines(path: Path) -> list[dict]:
    with path.open("rb") as file:
        return [json.loads(line.decode("utf-8")) for line in lines(file, str(path)) if line.strip()]


def _read_json_list(path: Path) -> list[dict]:
    with gzip.open(path) as file:
        text = file.read(LARGEST_LIST + 1)
    if len(text) > LARGEST_LIST:
        raise ValueError(f"it unpacks to more than {LARGEST_LIST} bytes")
    return json.loads(text.decode("utf-8"))


READERS = {".parquet": _read_parquet, ".jsonl": _read_json_lines, ".gz": _read_json_list}
