"""One cell of a study, as its folder holds it: what it is, where it stands, what it cost, what it scored.

What cannot be read is a sentence among the complaints, and the rest is read: a report on a study that still runs, or
that lost a file, shows what there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from maple.cells.cell import FIT, STATE, is_gone
from maple.data.records import lines, parse
from maple.errors import InputError, readable, shown
from maple.evaluation.scores import COUNTED, PREDICTIONS, PRIMARY, SCORES, read_rows
from maple.jsonfile import read_object
from maple.judging.annotations import share
from maple.languages import known, language_of
from maple.outputs import SUMMARY

STATES = ("planned", "training", "scoring", "done", "failed")
BY_RANK = "alpha = rank"
HUGE = 1e300  # no measurement, and whole numbers beyond it fit into no float
TEXTS = (
    "judge",
    "data",
    "revision",
    "fingerprint",
    "setting",
    "precision",
)  # of a row's settings what the report looks at
# of a summary, likewise
NUMBERS = ("tokens", "seconds", "trainable_percent", "adapter_bytes", "peak_memory_bytes", "tokens_per_second")
ROUNDING = 1e-6  # relative; a mean that was summed in another order, or over processes, differs from ours by 1e-12

Pair = tuple[str, str]  # (task, language)


@dataclass(frozen=True, eq=False)
class Cell:
    """One adapter, or one base (rank 0), and its scores; equal to itself alone, and so fit to be a key."""

    name: str
    model: str  # as the study names it
    data: str | None  # None: a base
    rank: int  # 0: a base
    bits: int
    scaling: str  # "alpha = rank", "alpha = 8", "rsLoRA, alpha = 8"; "" of a base
    seed: int | None  # None: a base
    state: str  # one of STATES
    error: str | None
    seconds: float | None  # of the whole cell
    summary: dict | None  # fit/summary.json
    trained: frozenset[str]  # languages of its training records; of a base none
    rows: dict[Pair, dict]  # the row of scores.json of the primary metric
    counted: dict[Pair, dict[str, float]]  # what was counted of the prompts: tokens_per_character, prompts_cut
    items: dict[Pair, np.ndarray]  # the primary metric of each example, in the row's unit; NaN: no verdict on it
    fit: dict = field(default_factory=dict, repr=False)  # flags of maple.fit, all that its results depend on
    progress: tuple[int, int] | None = None  # (step, of) while it trains
    is_stopped: bool = False  # whether it says that it is at work, and its process is gone
    scores: Path | None = None  # the folder of its evaluation, which need not be there; None: not begun

    @property
    def is_base(self) -> bool:
        """Whether nothing was trained."""
        return self.rank == 0

    @cached_property
    def setting(self) -> tuple:
        """All flags but the seed: cells that share it are runs of the same thing."""
        return tuple((name, repr(value)) for name, value in self.fit.items() if name != "seed")

    @property
    def source(self) -> str | None:
        """The data, and its languages where it is not all of them: two data sets of one name are two."""
        languages = self.fit.get("languages")
        return f"{self.data} ({languages})" if self.data and languages else self.data


def planned(name: str, fit: dict) -> Cell:
    """A cell that nobody has begun."""
    return Cell(
        name=name,
        model=fit["model"],
        data=fit["data"] if fit["rank"] else None,
        rank=fit["rank"],
        bits=fit["bits"],
        scaling=scaling(fit),
        seed=fit["seed"] if fit["rank"] else None,
        state="planned",
        error=None,
        seconds=None,
        summary=None,
        trained=frozenset(),
        rows={},
        counted={},
        items={},
        fit=fit,
    )


def read_cell(cell: Cell, folder: Path, scores: Path, complain: Callable[[str], None]) -> Cell:
    """A planned cell with what its folder holds; whatever cannot be read is a complaint.

    scores   the folder of its evaluation, which need not be there
    """
    state = _object(folder / STATE, complain) or {}
    if state and state.get("state") not in STATES:
        complain(f"{folder / STATE}: no state of a cell: {shown(state.get('state'))}")
        state = {}
    where = state.get("where")
    summary = _summary(folder / FIT / SUMMARY, complain)
    if cell.rank and state.get("state") == "done" and not (folder / FIT / SUMMARY).is_file():
        complain(f"{folder / FIT / SUMMARY} is missing, and so what the cell cost.")
    rows, counted, items = read_scores(scores, complain)
    step, of = _number(state.get("step")), _number(state.get("of"))
    return replace(
        cell,
        state=state.get("state", "done" if rows else "planned"),  # scores without it were brought from another study
        error=str(state["error"]) if state.get("error") is not None else None,
        seconds=_number(state.get("seconds")),
        summary=summary,
        trained=_trained(summary),
        rows=rows,
        counted=counted,
        items=items,
        progress=None if step is None or of is None else (int(step), int(of)),
        is_stopped=isinstance(where, str) and is_gone(state),
        scores=scores,
    )


def scaling(fit: dict) -> str:
    """The rule behind the adapter's scale, in words; "" of a base."""
    if not fit["rank"]:
        return ""
    if fit.get("rslora"):
        return f"rsLoRA, alpha = {fit['alpha']:g}"
    return BY_RANK if fit["alpha"] == fit["rank"] else f"alpha = {fit['alpha']:g}"


def _object(path: Path, complain: Callable[[str], None]) -> dict | None:
    if not path.exists():
        return None
    try:
        return read_object(path)
    except InputError as error:
        complain(str(error))
        return None


def _summary(path: Path, complain: Callable[[str], None]) -> dict | None:
    """Without what is no number where one belongs: somebody may have edited it."""
    found = _object(path, complain)
    wrong = [name for name in NUMBERS if found and found.get(name) is not None and _number(found[name]) is None]
    for name in wrong:
        complain(f"{path}: {name} is no number: {shown(found[name])}")
    return found and {name: value for name, value in found.items() if name not in wrong}


def _number(value: object) -> float | None:
    """A finite number, or None: JSON's reader lets NaN pass."""
    return value if isinstance(value, int | float) and -HUGE < value < HUGE else None


def _trained(summary: dict | None) -> frozenset[str]:
    records = (summary or {}).get("training_records")
    return frozenset(code for code, count in records.items() if count) if isinstance(records, dict) else frozenset()


def read_scores(folder: Path, complain: Callable[[str], None]) -> tuple[dict, dict, dict]:
    """(rows, counted, items) of an evaluation, each by task and language; see Cell."""
    try:
        found = read_rows(folder / SCORES)
    except InputError as error:
        complain(str(error))
        return {}, {}, {}
    rows, counted, wrong = {}, {}, {}
    for row in found:
        pair = row["task"], row["language"]
        for name in (name for name in TEXTS if not isinstance(row["settings"].get(name), str | None)):
            wrong[name] = row["settings"].pop(name)
        if not pair[0].isidentifier() or language_of(pair[1]) not in known():
            complain(f"{folder / SCORES}: no task and language: {shown(pair)}")
        elif _number(row["value"]) is None:
            pass  # the mean of nothing
        elif row["metric"] in COUNTED:
            counted.setdefault(pair, {})[row["metric"]] = row["value"]
        elif row["metric"] in PRIMARY and (pair not in rows or _precedes(row, rows[pair])):
            rows[pair] = row
    for name, value in wrong.items():
        complain(f"{folder / SCORES}: {name} is no text: {shown(value)}")
    items = {}
    for pair, row in rows.items():
        try:
            items[pair] = read_items(folder / PREDICTIONS / f"{pair[0]}.{pair[1]}.jsonl", row)
        except InputError as error:
            complain(str(error))
    return rows, counted, items


def _precedes(row: dict, other: dict) -> bool:
    return PRIMARY.index(row["metric"]) < PRIMARY.index(other["metric"])


def read_items(path: Path, row: dict) -> np.ndarray:
    """The scores of the examples that a row of scores.json is the mean of. Raises InputError where they are not."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    values = []
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(lines(file, str(path)), start=1):
            values.append(_score(parse(line, f"{path}:{number}"), row["metric"], f"{path}:{number}"))
    items = np.array(values, dtype=np.float64)
    counted = items[~np.isnan(items)]
    if len(counted) != row["n"] or abs(counted.mean() - row["value"]) > ROUNDING * max(1.0, abs(row["value"])):
        raise InputError(f"{path}: not the examples of {SCORES}, which has {row['n']} with a mean of {row['value']:g}")
    return items


def _score(line: object, metric: str, where: str) -> float:
    score = line.get("score") if isinstance(line, dict) else None
    if not isinstance(score, dict):
        raise InputError(f"{where}: no prediction: it has no 'score'")
    if metric == "win_rate":  # in percent, as its row; a verdict that could not be read is none
        preference = _number(score.get("preference"))
        return math.nan if preference is None else 100 * share(preference)
    value = _number(score.get(metric))
    if value is None:
        raise InputError(f"{where}: no number for {metric!r}")
    return float(value)
