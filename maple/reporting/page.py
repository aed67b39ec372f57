"""The page: a study as one HTML file that needs no network, runs one script of its own, and does nothing that data say.

The same study makes the same bytes. What comes from models, data and settings is escaped by the template and cleaned
here; the only markup that is taken as it is are the drawings (`svg.py`) and the three files beside this one.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from maple.languages import known, language_of
from maple.reporting.content import Content
from maple.reporting.names import brief
from maple.reporting.study import Study
from maple.reporting.svg import inline
from maple.reporting.table import Table, shown
from maple.terminal import without_controls

HERE = Path(__file__).parent
SECTIONS = {  # in the order of the page
    "answer": "The answer",
    "missing": "What is missing",
    "study": "What was run",
    "claims": "The paper's claims",
    "paper": "The paper's tables, ours beside them",
    "figures": "Figures",
    "price": "The price",
    "cells": "All cells and scores",
    "samples": "What the best cell answered",
    "settings": "Settings and versions",
}
MARKS = {"supported": "✓", "contradicted": "✗", "not shown": "–", "not testable here": "?"}


def render(content: Content, svg: dict[str, str]) -> str:
    """The page's HTML.

    svg   of each figure by its name
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        finalize=_clean,
        loader=FileSystemLoader(HERE),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"brief": brief, "figures": shown, "language": language_name, "tag": language_of}
    environment.filters |= {"numeric": _numeric, "parted": _parted}
    css, js = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    drawings = {
        name: [(one, inline(svg[one.name], one.name, brief(one.title))) for one in content.figures.get(name, [])]
        for name in SECTIONS
    }
    shown_in = {name: bool(drawings[name] or content.tables.get(name)) for name in SECTIONS}
    shown_in |= {"answer": True, "study": True, "missing": content.study.missing, "samples": content.samples}
    shown_in["figures"] |= bool(content.lacking)
    return environment.get_template("page.html").render(
        policy=_policy(css, js),
        css=Markup(css),
        js=Markup(js),
        lead=lead(content.study),
        about=about(content.study),
        sections=[(name, title) for name, title in SECTIONS.items() if shown_in[name]],
        drawings=drawings,
        marks=MARKS,
        **{name: getattr(content, name) for name in ("study", "findings", "claims", "lacking", "sampled", "samples")},
        tables={name: content.tables.get(name, []) for name in SECTIONS},
    )


def lead(study: Study) -> str:
    """What the study is, in a sentence."""
    adapters = [cell for cell in study.cells if not cell.is_base]
    factors = {
        "model": {cell.model for cell in study.cells},
        "training set": {cell.data for cell in adapters},
        "rank": {cell.rank for cell in adapters},
        "bit-width": {cell.bits for cell in study.cells},
        "seed": {cell.seed for cell in adapters},
    }
    grid = " × ".join(_count(len(values), name) for name, values in factors.items() if values)
    done = sum(cell.state == "done" for cell in study.cells)
    scored = f", scored on {_count(len(study.tasks), 'task')} in {_count(len(study.languages), 'language')}"
    return f"{_count(len(study.cells), 'cell')} of {grid}{scored if study.tasks else ''}; {done} of them done."


def about(study: Study) -> list[tuple[str, str]]:
    """What was run, fact by fact."""
    adapters = [cell for cell in study.cells if not cell.is_base]
    facts = {
        "Models": _each(cell.model for cell in study.cells),
        "Training data": _each(cell.data for cell in adapters),
        "Ranks": _each(cell.rank for cell in adapters),
        "Bits": _each(cell.bits for cell in study.cells),
        "Scaling": _each(cell.scaling for cell in adapters),
        "Beside the grid": " ".join(study.apart),
        "Seeds": _each(cell.seed for cell in adapters),
        "Tasks": _each(study.tasks),
        "Languages": _each(language_name(code) for code in study.languages),
    }
    return [(name, what) for name, what in facts.items() if what]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _each(values) -> str:
    return ", ".join(brief(str(value)) for value in dict.fromkeys(values))


def language_name(code: str) -> str:
    """The English name of a language, and its code."""
    return f"{known()[language_of(code)].name} ({code})"


def _clean(value: object) -> object:
    """What the template writes: of texts nothing that reorders others or that a file cannot hold; Markup is a str."""
    return without_controls(value) if type(value) is str else value


def _policy(css: str, js: str) -> str:
    """Content-Security-Policy: nothing is fetched, and of scripts and style sheets only these two are taken.

    Drawings have style attributes, which can do no more than draw.
    """
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js))
    style, script = (f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {script}; style-src-elem {style}; style-src-attr 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _parted(verdict: str) -> list[str]:
    """["not testable here", "there is no base"]; of any other verdict the second is empty."""
    return [*verdict.split(": ", 1), ""][:2]


def _numeric(table: Table) -> list[bool]:
    """Of each column whether it has numbers, which stand to the right."""
    columns = range(len(table.columns))
    return [any(isinstance(row[column], int | float) for row in table.rows) for column in columns]
