"""All that a report shows of a study: claims, tables, figures, samples, and the answer in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

from maple.reporting.advice import cheapest
from maple.reporting.bootstrap import Replicates
from maple.reporting.claims import Claim, judge
from maple.reporting.figures import Figure, draw
from maple.reporting.names import with_short_names
from maple.reporting.samples import Sample, read_samples
from maple.reporting.settings import settings_tables
from maple.reporting.study import Cell, Study
from maple.reporting.table import Table
from maple.reporting.tables import tables


@dataclass(frozen=True)
class Content:
    """What a page is made of; what a study is too young for stays empty."""

    study: Study
    findings: list[str] = field(default_factory=list)  # sentences, the most important first
    claims: list[Claim] = field(default_factory=list)
    tables: dict[str, list[Table]] = field(default_factory=dict)  # by the section of the page
    figures: dict[str, list[Figure]] = field(default_factory=dict)  # likewise
    lacking: list[str] = field(default_factory=list)  # sentences: what could not be drawn, and why
    sampled: str = ""  # the cell that the samples are of
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)

    def all_tables(self) -> list[Table]:
        """Those of the page, those of the figures included."""
        return [*chain(*self.tables.values()), *(figure.table for figure in self.all_figures())]

    def all_figures(self) -> list[Figure]:
        """Those of the page."""
        return [*chain(*self.figures.values())]


SECTION = {  # of the page, that a table belongs to
    "claims": "claims",
    "table_1": "paper",
    "table_2": "paper",
    "grid": "study",
    "price": "price",
    "cells": "cells",
    "languages": "cells",
}
DRAWN_IN = {"claims": "claims", "pareto": "price", "price": "price"}  # of a figure by its first word; others: figures


def gather(study: Study) -> Content:
    """All of it, from the scores of a study."""
    study = with_short_names(study)
    replicates = Replicates(study)
    claims = judge(study, replicates)
    drawn, lacking = draw(study, replicates, claims)
    figures: dict[str, list[Figure]] = {}
    for figure in drawn:
        figures.setdefault(DRAWN_IN.get(figure.name.partition("_")[0], "figures"), []).append(figure)
    by_section: dict[str, list[Table]] = {"settings": settings_tables(study)}
    for table in tables(study, replicates, claims):
        by_section.setdefault(SECTION[table.name], []).append(table)
    sampled = best_cell(study, replicates)
    return Content(
        study,
        cheapest(study, replicates),
        claims,
        by_section,
        figures,
        lacking,
        sampled.name if sampled else "",
        read_samples(sampled) if sampled else {},
    )


def best_cell(study: Study, replicates: Replicates) -> Cell | None:
    """A seed of the point with the best mean over what every adapter has scores of; before that, any with scores."""
    adapters = [cell for cell in study.main if cell.items]
    pairs = replicates.shared(adapters)
    if adapters and pairs:
        return max(study.groups(adapters), key=lambda seeds: replicates.mean(seeds, pairs).value)[0]
    return next((cell for cell in [*adapters, *study.cells] if cell.items), None)
