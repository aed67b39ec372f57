"""A study as its folder holds it, finished or not.

study.yaml               what was asked for
cells/<name>/            a cell each (`reading.py`)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from maple.errors import InputError, readable, shown
from maple.evaluation.results import SCORES
from maple.reporting.reading import BY_RANK, Cell, Pair, read_cell

__all__ = ["BY_RANK", "TASKS", "Cell", "Pair", "Study", "read_study"]

CONFIG, CELLS = "study.yaml", "cells"
LARGEST = 64 * 2**10  # bytes of study.yaml; the paper's grid takes one
TASKS = ("xnli", "xcopa", "xquad", "belebele", "mlqa", "xlsum", "alpaca_eval")  # in the order of the paper's Table 1


@dataclass(frozen=True)
class Study:
    """All cells of a study, and what is missing of it."""

    folder: Path
    title: str
    config: dict  # study.yaml
    cells: list[Cell]  # the bases first, then in the order of the grid
    tasks: list[str]  # that some cell has scores of, in the paper's order, then others by name
    languages: list[str]  # of those scores, by code
    missing: list[str]  # sentences: what is planned, failed, unfinished or unreadable

    @property
    def bases(self) -> list[Cell]:
        """The cells in which nothing is trained."""
        return [cell for cell in self.cells if cell.is_base]

    @property
    def main(self) -> list[Cell]:
        """The adapters under alpha = rank, which the paper's figures and claims are about."""
        return [cell for cell in self.cells if cell.scaling == BY_RANK]

    def base_of(self, cell: Cell) -> Cell | None:
        """The base that an adapter was trained on: the same model in the same bits."""
        return next((base for base in self.bases if (base.model, base.bits) == (cell.model, cell.bits)), None)

    def under(self, scaling: str) -> list[Cell]:
        """The adapters under a scaling; of "alpha = 8" that of rank 8 is in the grid, where alpha is the rank too."""
        return [c for c in self.cells if c.scaling == scaling or (c in self.main and scaling == f"alpha = {c.rank}")]

    def groups(self, cells: Iterable[Cell] | None = None) -> list[list[Cell]]:
        """The scored cells (or of those given), those together that differ in their seed alone."""
        found = defaultdict(list)
        for cell in self.cells if cells is None else cells:
            if cell.rows:
                found[cell.setting].append(cell)
        return list(found.values())


def read_study(folder: Path) -> Study:
    """The study in a folder. Raises InputError where there is none."""
    folder = Path(folder)
    config = _config_of(folder)
    missing: list[str] = []
    cells = []
    for place in sorted(path for path in (folder / CELLS).glob("*") if path.is_dir()):
        cell = read_cell(place, scores_of(place, config), missing.append)
        cells += [] if cell is None else [cell]
    cells.sort(key=_order(config))
    cells = _alike(cells, missing)
    pairs = {pair for cell in cells for pair in cell.rows}
    found = {task for task, _ in pairs}
    return Study(
        folder=folder,
        title=str(config.get("title") or folder.resolve().name),
        config=config,
        cells=cells,
        tasks=[*(task for task in TASKS if task in found), *sorted(found - set(TASKS))],
        languages=sorted({language for _, language in pairs}),
        missing=[*_unfinished(cells), *_unscored(cells, pairs), *missing],
    )


def _config_of(folder: Path) -> dict:
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} holds no study: there is no {CONFIG} in it; python -m maple.study makes one")
    with readable(path):
        text = path.read_bytes()
    try:
        if len(text) > LARGEST:
            raise ValueError(f"it has {len(text)} bytes, and a study at most {LARGEST}")
        config = yaml.safe_load(text.decode("utf-8"))  # not libyaml's, which nesting can crash
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not the YAML of a study ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: not a study: {shown(config)}")
    return config


def scores_of(cell_folder: Path, config: dict) -> Path | None:
    """The scores of a cell that belong to the study as it stands; it may hold those of other tasks or limits too."""
    found = [path for path in cell_folder.glob("scores-*") if (path / SCORES).is_file()]
    return max(found, key=lambda path: ((path / SCORES).stat().st_mtime_ns, path.name), default=None)


def _order(config: dict):
    """Sorts cells as the study lists its models and data; what it does not list comes behind, by name."""
    models, data = list(_values(config, "model")), list(_values(config, "data"))

    def place(values: list, value: object) -> tuple:
        return (values.index(value) if value in values else len(values), str(value))

    def key(cell: Cell) -> tuple:
        kind = (cell.scaling != BY_RANK, cell.scaling)
        where = (place(models, cell.model), place(data, cell.data), kind, cell.rank, cell.bits, cell.seed or 0)
        return (not cell.is_base, *where, cell.name)

    return key


def _values(config: dict, flag: str) -> Iterator[object]:
    slices = config.get("slices")
    for part in [config.get("fit"), config.get("grid"), *(slices if isinstance(slices, list) else [])]:
        value = part.get(flag) if isinstance(part, dict) else None
        yield from value if isinstance(value, list) else [value]


def _alike(cells: list[Cell], missing: list[str]) -> list[Cell]:
    """The cells without items of which there are fewer or more than in most: only the same examples can be paired."""
    counts = defaultdict(Counter)
    for cell in cells:
        for pair, items in cell.items.items():
            counts[pair][len(items)] += 1
    usual = {pair: count.most_common(1)[0][0] for pair, count in counts.items()}
    result = []
    for cell in cells:
        odd = [pair for pair, items in cell.items.items() if len(items) != usual[pair]]
        for task, language in odd:
            missing.append(
                f"{cell.name} has {len(cell.items[task, language])} examples of {task} in {language}, others have "
                f"{usual[task, language]}: they are not compared."
            )
        result.append(replace(cell, items={pair: x for pair, x in cell.items.items() if pair not in odd}))
    return result


def _unfinished(cells: list[Cell]) -> Iterator[str]:
    planned = [cell.name for cell in cells if cell.state == "planned"]
    if planned:
        yield f"{_count(len(planned), 'cell')} planned and not begun: {_list(planned)}."
    for cell in cells:
        if cell.state == "failed":
            yield f"{cell.name} failed: {cell.error or 'it left no message'}"
        elif cell.state == "training":
            yield f"{cell.name} is in training" + (" (step {} of {}).".format(*cell.progress) if cell.progress else ".")
        elif cell.state == "scoring":
            yield f"{cell.name} is being scored."


def _unscored(cells: list[Cell], pairs: set[Pair]) -> Iterator[str]:
    """Of finished cells: what others have scores of; and answers that nobody judged."""
    for cell in cells:
        lacking = sorted(pairs - cell.rows.keys()) if cell.state == "done" else []
        if lacking:
            yield f"{cell.name} has no score of {_list(' in '.join(pair) for pair in lacking)}."
    silent = sorted({pair for cell in cells for pair in cell.counted} - pairs)
    if silent:
        yield f"There are answers and no scores, since no judge was asked: {_list(' in '.join(p) for p in silent)}."


def _count(count: int, noun: str) -> str:
    return f"1 {noun} is" if count == 1 else f"{count} {noun}s are"


def _list(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
