"""All that a report shows of a study: claims, tables, figures, samples, and the answer in words."""

from __future__ import annotations

from dataclasses import dataclass, field

from maple.reporting.figures import Figure, draw
from maple.reporting.samples import Sample, read_samples
from maple.reporting.settings import settings_tables
from maple.reporting.study import Study
from maple.reporting.table import Table
from maple.reporting.tables import tables


@dataclass(frozen=True)
class Content:
    """What a page is made of; what a study is too young for stays empty."""

    study: Study
    findings: list[str] = field(default_factory=list)  # sentences, the most important first
    claims: list = field(default_factory=list)
    tables: dict[str, list[Table]] = field(default_factory=dict)  # by the section of the page
    figures: list[Figure] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)  # sentences: what could not be drawn, and why
    sampled: str = ""  # the cell that the samples are of
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)

    def all_tables(self) -> list[Table]:
        """Those of the page, those of the figures included."""
        return [*(table for some in self.tables.values() for table in some), *(one.table for one in self.figures)]


def gather(study: Study) -> Content:
    """All of it, from the scores of a study."""
    figures, lacking = draw(study, None)
    return Content(
        study,
        tables={"cells": tables(study), "settings": settings_tables(study)},
        figures=figures,
        lacking=lacking,
    )
