"""A study as its folder holds it, finished or not.

study.yaml               what was asked for, and so which cells there are (`maple/cells/grid.py`)
cells/<name>/            a cell each (`reading.py`)
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from maple.cells import grid
from maple.cells.cell import BASE_FLAGS, CELL, CELLS, STUDY, scores_folder
from maple.errors import InputError
from maple.jsonfile import read_object
from maple.reporting.alike import alike
from maple.reporting.apart import about, told_apart
from maple.reporting.reading import BY_RANK, Cell, Pair, planned, read_cell

__all__ = ["BY_RANK", "TASKS", "Cell", "Pair", "Study", "read_study"]

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
    apart: list[str] = field(default_factory=list)  # sentences: which cells are beside the grid

    @property
    def bases(self) -> list[Cell]:
        """The cells in which nothing is trained."""
        return [cell for cell in self.cells if cell.is_base]

    @property
    def main(self) -> list[Cell]:
        """The adapters under alpha = rank, which the paper's figures and claims are about."""
        return [cell for cell in self.cells if cell.scaling == BY_RANK]

    def base_of(self, cell: Cell) -> Cell | None:
        """The base that an adapter was trained on, scored in the adapter's template."""

        def key(cell: Cell) -> list:
            return [cell.fit.get(name) for name in BASE_FLAGS]

        return next((base for base in self.bases if key(base) == key(cell)), None)

    def under(self, scaling: str) -> list[Cell]:
        """The adapters under a scaling; of "alpha = 8" that of rank 8 is in the grid, where alpha is the rank too.

        Of the grid's seeds those that the others have.
        """
        own = [cell for cell in self.cells if cell.scaling == scaling]
        seeds = {cell.seed for cell in own}
        in_grid = [cell for cell in self.main if scaling == f"alpha = {cell.rank}" and cell.seed in seeds]
        return own if scaling == BY_RANK else [*own, *in_grid]

    def common(self, cells: Iterable[Cell]) -> set[Pair]:
        """What all scored cells have scores of. One with less than half of what another has is not counted as scored.

        A study that is given another language goes on to be compared in those it had, until all cells have the new one.
        """
        scored = [cell.rows.keys() for cell in cells if cell.rows]
        most = max(map(len, scored), default=0)
        whole = [set(pairs) for pairs in scored if 2 * len(pairs) >= most]
        return set.intersection(*whole) if whole else set()

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
    if not (folder / STUDY).is_file():
        raise InputError(f"{folder} holds no study: there is no {STUDY} in it; python -m maple.study makes one")
    config = grid.read_study(folder / STUDY)
    settled = grid.plan(config, look=False)
    missing: list[str] = []
    places = _places(folder, settled.cells, missing)
    scores = scores_folder(settled.evaluate)
    cells = []
    for cell in told_apart(planned(cell.name, cell.fit) for cell in settled.cells):
        place = places.get(cell.name)
        cells.append(read_cell(cell, place, place / scores, missing.append) if place else cell)
    cells = [_as_asked(cell, settled.evaluate) for cell in sorted(cells, key=in_order(config))]
    cells = alike(cells, missing.append)
    pairs = {pair for cell in cells for pair in cell.rows}
    found = {task for task, _ in pairs}
    return Study(
        folder=folder,
        title=config.get("title") or folder.resolve().name,
        config=config,
        cells=cells,
        tasks=[*(task for task in TASKS if task in found), *sorted(found - set(TASKS))],
        languages=sorted({language for _, language in pairs}),
        missing=[*_unfinished(cells), *_unscored(cells, pairs), *missing],
        apart=about(cells),
    )


def _as_asked(cell: Cell, evaluate: dict[str, Any]) -> Cell:
    """With the scores that the study asks for now: before, it may have had another task or language."""
    asked = {
        name: None if evaluate[name] is None else {one.strip() for one in evaluate[name].split(",")}
        for name in ("tasks", "languages")
    }

    def kept(found: dict[Pair, Any]) -> dict[Pair, Any]:
        return {
            (task, language): value
            for (task, language), value in found.items()
            if (asked["tasks"] is None or task in asked["tasks"])
            and (asked["languages"] is None or language in asked["languages"])
        }

    return replace(cell, rows=kept(cell.rows), counted=kept(cell.counted), items=kept(cell.items))


def _places(folder: Path, cells: list[grid.Cell], missing: list[str]) -> dict[str, Path]:
    """The folder of each cell by its name.

    A model that was a folder where the study ran, and is none here, has another name here: then cell.json tells.
    """
    there = {path.name: path for path in sorted((folder / CELLS).glob("*")) if path.is_dir()}
    places = {cell.name: there.pop(cell.name) for cell in cells if cell.name in there}
    lacking = {repr(_moved(cell.fit)): cell.name for cell in cells if cell.name not in places}
    others = []
    for name, path in there.items():
        try:
            fit = read_object(path / CELL).get("fit")
        except InputError:
            fit = None
        cell = lacking.pop(repr(_moved(fit)), None) if isinstance(fit, dict) else None
        if cell is None:
            others.append(name)
        else:
            places[cell] = path
    if others:
        missing.append(f"In {CELLS}/ and no cells of the study as it is now: {_list(others)}.")
    return places


def _moved(fit: dict[str, Any]) -> list[tuple[str, Any]]:
    last = {name: os.path.basename(str(fit.get(name)).rstrip("/")) for name in ("model", "data")}
    return sorted((name, last.get(name, value)) for name, value in fit.items())


def in_order(config: dict) -> Callable[[Cell], tuple]:
    """A key that sorts cells as the study lists its models and data; what it does not list comes behind, by name."""
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


def _unfinished(cells: list[Cell]) -> Iterator[str]:
    planned = [cell.name for cell in cells if cell.state == "planned" and not cell.rows]
    if planned:
        yield f"{_count(len(planned), 'cell')} planned and not begun: {_list(planned)}."
    for cell in cells:
        if cell.state == "failed":
            yield f"{cell.name} failed: {cell.error or 'it left no message'}"
        elif cell.state in ("training", "scoring"):
            step = f" at step {cell.progress[0]} of {cell.progress[1]}" if cell.progress else ""
            yield f"{cell.name} {'was stopped while' if cell.is_stopped else 'is'} {cell.state}{step}."


def _unscored(cells: list[Cell], pairs: set[Pair]) -> Iterator[str]:
    """Of scored cells: what others have scores of; and answers that nobody judged."""
    lacking = defaultdict(list)
    for cell in cells:
        if cell.rows or cell.state == "done":
            lacking[tuple(sorted(pairs - cell.rows.keys()))].append(cell.name)
    for some, names in lacking.items():
        if some:
            verb = "has" if len(names) == 1 else "have"
            yield f"{_list(names)} {verb} no score of {_list(' in '.join(pair) for pair in some)}."
    without = sorted(set(chain.from_iterable(lacking))) if any(cell.rows for cell in cells) else []
    if without:
        yield (
            "Means are over what all scored cells have (one with less than half of what another has is not counted); "
            f"not all have {_list(' in '.join(pair) for pair in without)}."
        )
    silent = sorted({pair for cell in cells for pair in cell.counted} - pairs)
    if silent:
        yield f"There are answers and no scores, since no judge was asked: {_list(' in '.join(p) for p in silent)}."


def _count(count: int, noun: str) -> str:
    return f"1 {noun} is" if count == 1 else f"{count} {noun}s are"


def _list(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
