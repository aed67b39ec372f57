"""Names and messages at a length that a page can hold."""

from __future__ import annotations

from dataclasses import replace

from maple.reporting.study import Study

LONGEST = 400  # characters of a message
LONGEST_NAME = 120  # of a model or a data set; a hub id has 96 at most, the path of a folder seldom more


def brief(text: str, longest: int = LONGEST) -> str:
    """A text without its middle, where it is longer."""
    return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-(longest // 2) :]}"


def with_short_names(study: Study) -> Study:
    """The study with its models and data sets named at a length that a sentence can hold, each still by itself."""
    names = dict.fromkeys(name for cell in study.cells for name in (cell.model, cell.data) if name is not None)
    short: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        cut = brief(name, LONGEST_NAME)
        short[name] = f"{cut} ({number})" if cut in short.values() else cut
    cells = [
        replace(cell, model=short[cell.model], data=None if cell.data is None else short[cell.data])
        for cell in study.cells
    ]
    return replace(study, cells=cells)
