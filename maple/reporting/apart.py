"""Cells that differ from most of their study in a flag that no figure has an axis for.

A grid may vary any flag of maple.fit. Settings know the model, the data, rank, bits, scaling and seed; cells that
differ in something else, as the learning rate, would be taken for seeds of one setting. The value that most adapters of
a model have is the study's; a cell with another is named by it in its scaling, and so is beside the grid.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from maple.reporting.reading import Cell

AXES = ("model", "data", "languages", "rank", "bits", "alpha", "rslora", "seed")  # that settings know
OF_NF4 = ("block_size", "double_quant")  # nothing in other bits


def told_apart(cells: Iterable[Cell]) -> list[Cell]:
    """The cells; those with an unusual flag have it in their scaling, as "alpha = rank, lr 0.0001"."""
    cells = list(cells)
    usual = _usual(cells)
    result = []
    for cell in cells:
        odd = [f"{flag} {_text(cell.fit[flag])}" for flag in _odd(cell, usual)] if not cell.is_base else []
        result.append(replace(cell, scaling=", ".join([cell.scaling, *odd])) if odd else cell)
    return result


def about(cells: Iterable[Cell]) -> list[str]:
    """A sentence of the flags in which cells are apart; none where there are none."""
    cells = list(cells)
    usual = _usual(cells)
    apart = [list(_odd(cell, usual)) for cell in cells if not cell.is_base]
    flags = dict.fromkeys(flag for odd in apart for flag in odd)
    if not flags:
        return []
    return [
        f"{sum(map(bool, apart))} adapters differ from most in {', '.join(flags)}: they are in the table of cells and "
        "beside other scalings, and in no grid, mean or claim."
    ]


def _usual(cells: Iterable[Cell]) -> dict[tuple[str, str], str]:
    """Of each model and flag the value that most adapters have; of equally many the first in the grid's order."""
    counts: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for cell in cells:
        for flag in _flags(cell):
            counts[cell.model, flag][repr(cell.fit[flag])] += 1
    return {place: count.most_common(1)[0][0] for place, count in counts.items()}


def _odd(cell: Cell, usual: dict[tuple[str, str], str]) -> Iterable[str]:
    return (flag for flag in _flags(cell) if repr(cell.fit[flag]) != usual[cell.model, flag])


def _flags(cell: Cell) -> Iterable[str]:
    left = AXES if cell.bits == 4 else (*AXES, *OF_NF4)
    return (flag for flag in cell.fit if flag not in left) if not cell.is_base else ()


def _text(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
