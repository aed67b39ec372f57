"""scores.json: what an evaluation leaves for whoever compares, a row for each task, language and metric."""

from __future__ import annotations

from pathlib import Path

from maple.errors import InputError
from maple.jsonfile import read_array

SCORES, PREDICTIONS = "scores.json", "predictions"
KINDS = {  # of what stands in a row of scores.json
    **dict.fromkeys(("task", "language", "metric"), str),
    **dict.fromkeys(("value", "stderr"), int | float | None),
    "n": int,
    "settings": dict,
}
PRIMARY = ("acc", "f1", "rougeL", "win_rate")  # the one number of a task, as in the paper's table
COUNTED = ("prompts_cut", "shots_kept", "tokens_per_character")  # of the prompts, not of the answers


def read_rows(path: Path) -> list[dict]:
    """The rows of a scores.json, none where it is not there. Raises InputError for a file that is something else."""
    if not path.is_file():
        return []
    try:
        rows = read_array(path)
        for number, row in enumerate(rows, start=1):
            for name, kind in KINDS.items():
                if not isinstance(row, dict) or not isinstance(row.get(name, ...), kind):
                    raise InputError(f"{path}: not the scores of an evaluation ({name!r} of row {number})")
    except InputError as error:
        raise InputError(f"{error}; delete it to score again") from error
    return rows
