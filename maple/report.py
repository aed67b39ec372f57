"""Show a study as one page that needs no network.

    python -m maple.report runs/study-tiny

Writes report.html, tables/*.csv and figures/*.png into the study's folder, each whole or not at all, in the place of an
earlier report. A study that is not finished is shown as far as it is, with what is missing of it. Nothing here needs a
model or torch: it may run beside the study, or on a laptop that the folder was copied to.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from maple import cli
from maple.durable import replace_file, whole_folder
from maple.errors import InputError, one_line
from maple.terminal import without_controls

PAGE, TABLES, FIGURES = "report.html", "tables", "figures"
TOLD = 5  # sentences on what is missing; all of them are on the page


def report(folder: str, /) -> None:
    """Show what a study found: report.html, tables/*.csv and figures/*.png in its folder.

    folder: of the study, finished or not
    """
    place = Path(folder).expanduser()
    check_packages()
    check_place(place)
    from maple.reporting.content import gather
    from maple.reporting.figures import save
    from maple.reporting.page import render
    from maple.reporting.study import read_study

    study = read_study(place)
    print(f"Reading {without_controls(folder)}: {len(study.cells)} cells, then drawing ...", flush=True)
    content = gather(study)
    tell_missing(study.missing)
    with whole_folder(place / TABLES) as partial:
        for table in content.all_tables():
            table.save(partial)
    with whole_folder(place / FIGURES) as partial:
        svg = {figure.name: save(figure, partial) for figure in content.all_figures()}
    replace_file(place / PAGE, render(content, svg))
    print(f"Report: {without_controls(str(place / PAGE))}")


def check_packages() -> None:
    """Raise InputError where what draws is not installed."""
    lacking = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if lacking:
        raise InputError(f"a report needs {' and '.join(lacking)}: pip install -e '.[plots]'")


def check_place(place: Path) -> None:
    """Raise InputError where there is no folder, or none that a report can be written into."""
    if not place.is_dir():
        raise InputError(f"{place}: there is no such folder; give the --out of a python -m maple.study")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{place}: nothing can be written in it, and the report would lie there; copy it elsewhere")
    for name, is_right in ((PAGE, Path.is_file), (TABLES, Path.is_dir), (FIGURES, Path.is_dir)):
        if (place / name).exists() and not is_right(place / name):
            raise InputError(f"{place / name} is in the way of the report, which has that name for its own; move it")


def tell_missing(sentences: list[str]) -> None:
    """The first of them on the terminal, each as short as the page has it."""
    from maple.reporting.names import brief

    for sentence in sentences[:TOLD]:
        print(one_line(brief(sentence)))
    if len(sentences) > TOLD:
        print(f"... and {len(sentences) - TOLD} more; the page has all of them.")


if __name__ == "__main__":
    cli.main(report)
