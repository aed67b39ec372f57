"""Every figure of a report, in the order of the page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from maple.reporting.bootstrap import Replicates
from maple.reporting.claims import Claim
from maple.reporting.figure import Figure, save
from maple.reporting.scores import Scores
from maple.reporting.study import Study

__all__ = ["Figure", "draw", "save"]


def draw(
    study: Study, replicates: Replicates | None = None, verdicts: Sequence[Claim] = ()
) -> tuple[list[Figure], list[str]]:
    """The figures that can be drawn of what there is; of each other one a sentence that says what it lacks."""
    if find_spec("matplotlib") is None:
        return [], ["There are no figures: matplotlib is not installed; pip install -e '.[plots]'."]
    from maple.reporting import (
        claim_figure,
        heat_figures,
        language_figures,
        paper_figures,
        price_figures,
        scaling_figure,
    )

    scores = Scores(study, replicates)
    if not any(cell.rows for cell in study.main):
        made = [price_figures.price(scores), "All other figures need scores, and no cell of the grid has any yet."]
        return _sorted(made)
    groups = (paper_figures, heat_figures, language_figures, price_figures)
    made = [one for group in groups for one in group.figures(scores)]
    made += [scaling_figure.slices(scores), claim_figure.forest(verdicts, scores)]
    return _sorted(made)


def _sorted(made: list[Figure | str]) -> tuple[list[Figure], list[str]]:
    return [one for one in made if isinstance(one, Figure)], [one for one in made if isinstance(one, str)]
