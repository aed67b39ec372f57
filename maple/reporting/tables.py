"""Every table of a report, in the order of the page."""

from __future__ import annotations

from maple.reporting.table import Table

__all__ = ["Table", "tables"]


def tables(study) -> list[Table]:
    """Those of the paper, all cells, scores by language, the price."""
    return []
