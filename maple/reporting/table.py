"""A table of a report: what a CSV file, a part of the page and the data of a figure are made of."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from maple.durable import replace_file

Value = str | int | float | None  # None: not measured, which stays empty; "NA": the paper says NA
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a text that begins so, and a model may be named so


@dataclass(frozen=True)
class Table:
    """Rows of values under named columns; numbers are whole here, whoever shows them rounds them."""

    name: str  # of its file
    title: str
    columns: list[str]
    rows: list[list[Value]]
    note: str = ""  # sentences that belong under it

    def csv(self) -> str:
        """All digits of every number; a text that a spreadsheet would compute has an apostrophe before it."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_neutral(value) for value in row] for row in self.rows)
        return file.getvalue().encode("utf-8", "backslashreplace").decode()  # JSON may hold half a character

    def save(self, folder: Path) -> Path:
        """Write folder/NAME.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{self.name}.csv", self.csv())
        return folder / f"{self.name}.csv"


def shown(value: Value) -> str:
    """A value as a person reads it: three digits that matter, thousands apart, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}"


def _neutral(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
