"""Only answers of the same base to the same examples can be compared: of what differs from most cells, nothing is kept.

A cell may have been scored before a file of the tasks was changed, or on a machine where a model's folder holds another
model. Its rows say of what they are: `data` ends in a hash of the file, `revision` or `fingerprint` are the base.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import replace

from maple.reporting.reading import Cell, Pair

OF_BASE = ("revision", "fingerprint")


def alike(cells: list[Cell], complain: Callable[[str], None]) -> list[Cell]:
    """The cells without what differs from most."""
    return _of_one_length(_of_one_data(_of_one_base(cells, complain), complain), complain)


def _of_one_base(cells: list[Cell], complain: Callable[[str], None]) -> list[Cell]:
    """Of each model and bits those of the base that most have; another has no scores."""
    bases = {cell: _most([_base(row) for row in cell.rows.values()]) for cell in cells if cell.rows}
    by_model = defaultdict(list)
    for cell, base in bases.items():
        by_model[cell.model, cell.bits].append(base)
    usual = {place: _most(some) for place, some in by_model.items()}
    result = []
    for cell in cells:
        if cell in bases and bases[cell] != usual[cell.model, cell.bits]:
            complain(
                f"{cell.name} was scored on another {cell.model} than most (by its revision or fingerprint): left out."
            )
            cell = replace(cell, rows={}, counted={}, items={})
        result.append(cell)
    return result


def _of_one_data(cells: list[Cell], complain: Callable[[str], None]) -> list[Cell]:
    """Without the scores of other data than that of most."""
    by_pair = defaultdict(list)
    for cell in cells:
        for pair, row in cell.rows.items():
            by_pair[pair].append(_data(row))
    usual = {pair: _most(some) for pair, some in by_pair.items()}
    result = []
    for cell in cells:
        odd = [pair for pair, row in cell.rows.items() if _data(row) != usual[pair]]
        if odd:
            named = ", ".join(" in ".join(pair) for pair in odd)
            complain(f"{cell.name} was scored on other data of {named} than most: left out.")
        result.append(_without(cell, odd, rows=True))
    return result


def _of_one_length(cells: list[Cell], complain: Callable[[str], None]) -> list[Cell]:
    """Without items of which there are fewer or more than in most."""
    by_pair = defaultdict(list)
    for cell in cells:
        for pair, items in cell.items.items():
            by_pair[pair].append(len(items))
    usual = {pair: _most(some) for pair, some in by_pair.items()}
    result = []
    for cell in cells:
        odd = [pair for pair, items in cell.items.items() if len(items) != usual[pair]]
        for task, language in odd:
            complain(
                f"{cell.name} has {len(cell.items[task, language])} examples of {task} in {language}, others have "
                f"{usual[task, language]}: they are not compared."
            )
        result.append(_without(cell, odd))
    return result


def _without(cell: Cell, odd: list[Pair], rows: bool = False) -> Cell:
    if not odd:
        return cell
    kept = {name: {pair: x for pair, x in getattr(cell, name).items() if pair not in odd} for name in ("items", "rows")}
    return replace(cell, **kept if rows else {"items": kept["items"]})


def _most(values: list[Hashable]) -> Hashable:
    return Counter(values).most_common(1)[0][0]


def _base(row: dict) -> tuple:
    return tuple(row["settings"].get(name) for name in OF_BASE)


def _data(row: dict) -> str | None:
    """The hash where there is one: the same file may lie elsewhere on another machine."""
    data = row["settings"].get("data")
    return data and data.rpartition(" sha256:")[2]
