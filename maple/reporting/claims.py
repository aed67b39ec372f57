"""The paper's claims, judged by a study.

A claim is supported where all of its parts are shown at once, contradicted where the opposite of one is, and else not
shown. p is one-sided, by bootstrap (`bootstrap.py`). Holm's correction is over the claims that the study can test, for
support and for contradiction each: the chance that a study of nothing supports any of them is 5 % at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maple.reporting.bootstrap import Replicates, holm, interval
from maple.reporting.contrasts import Contrasts, Line, Part, done, line, matched, minus
from maple.reporting.hypotheses import (
    MARGIN,
    Finding,
    Untestable,
    base_matters_more,
    bits_keep_english,
    data_hardly_matters,
    languages_do_not_help,
    low_resources_gain,
    mistral_beats_gpt_4,
    rank_keeps_english,
)
from maple.reporting.study import BY_RANK, Study

LEVEL = 0.05
SUPPORTED, CONTRADICTED, NOT_SHOWN, UNTESTABLE = "supported", "contradicted", "not shown", "not testable here"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what the study says to it."""

    name: str
    text: str  # what is claimed
    test: str  # what is computed
    estimate: float | None  # of the part that is hardest to show
    low: float | None  # ends of its 95 % interval
    high: float | None
    p: float | None  # of the claim
    p_holm: float | None  # the same, corrected
    verdict: str  # SUPPORTED, CONTRADICTED, NOT_SHOWN, or UNTESTABLE with ": " and what is lacking
    figure: list[Line]
    bounds: tuple[float, ...] = (0.0,)  # where the figure has its lines
    part: str = ""  # which the estimate is of
    note: str = ""


PAPER: dict[str, tuple[Callable[[Contrasts], Finding], str, str]] = {
    "data": (
        data_hardly_matters,
        "The choice of instruction data hardly matters.",
        f"Every two data sets differ by less than {MARGIN} in the mean over tasks, within each base model; and the "
        f"adapters differ from their bases by more than that, so that a difference would have been found.",
    ),
    "languages": (
        languages_do_not_help,
        "More training languages do not help at equal size.",
        f"A data set with more languages is ahead of one with some of them by less than {MARGIN} in the mean over "
        "tasks, at the same number of training tokens (within 10 %); and the adapters differ from their bases by more.",
    ),
    "base model": (
        base_matters_more,
        "The base model matters much more than the instruction data.",
        "The difference between the base models, in the mean over tasks, is larger than that between any two data sets "
        "within either.",
    ),
    "rank": (
        rank_keeps_english,
        "A higher rank keeps English better.",
        "The slope of the English score on log2 of the rank is above 0, for the mean over tasks and for AlpacaEval.",
    ),
    "bits": (
        bits_keep_english,
        "More bits keep English better.",
        "The slope of the English score on log2 of the bits is above 0, for the mean over tasks and for AlpacaEval.",
    ),
    "resources": (
        low_resources_gain,
        "Languages with low resources gain by fine-tuning, those with high resources may lose.",
        "Against the base, languages with low resources gain, and gain more than those with high resources.",
    ),
    "GPT-4": (
        mistral_beats_gpt_4,
        "Mistral, fine-tuned, beats GPT-4 on MLQA and XQuAD.",
        "The mean of the Mistral adapters is above the published .67 of MLQA and .69 of XQuAD.",
    ),
}


def judge(study: Study, replicates: Replicates | None = None) -> list[Claim]:
    """Every claim of the paper, in its order."""
    contrasts = Contrasts(study, replicates or Replicates(study))
    findings: dict[str, Finding | str] = {}
    for name, (find, _, _) in PAPER.items():
        try:
            if not contrasts.adapters:
                raise Untestable("an adapter that is trained and scored")
            findings[name] = find(contrasts)
        except Untestable as lacking:
            findings[name] = f"{UNTESTABLE}: it needs {lacking}"
    tested = {name: found for name, found in findings.items() if isinstance(found, Finding)}
    ps = {name: _p(found) for name, found in tested.items()}
    against = {name: _p_against(found) for name, found in tested.items()}
    ps_holm = dict(zip(ps, holm(list(ps.values())), strict=True))
    against_holm = dict(zip(against, holm(list(against.values())), strict=True))
    claims = []
    for name, found in findings.items():
        words = (name, *PAPER[name][1:])
        if isinstance(found, str):
            claims.append(Claim(*words, None, None, None, None, None, found, []))
            continue
        hardest = _hardest(found.parts)
        claims.append(
            Claim(
                *words,
                hardest.mean.value,
                *interval(hardest.mean.replicates),
                ps[name],
                ps_holm[name],
                _verdict(ps_holm[name], against_holm[name]),
                found.figure,
                found.bounds,
                hardest.label,
                " ".join(filter(None, [found.note, _seeds(contrasts)])),
            )
        )
    return claims


def _p(found: Finding) -> float:
    """Of all parts at once: that of the least certain one."""
    conditions = [2 * part.p for part in found.conditions]  # their direction is whichever was found
    return min(1.0, max(found.looks * max(part.p for part in found.parts), *conditions, 0.0))


def _p_against(found: Finding) -> float:
    """That the opposite of one of the parts holds, whichever it is (Bonferroni)."""
    return min(1.0, len(found.parts) * min(part.p_against for part in found.parts))


def _verdict(p: float, against: float) -> str:
    return SUPPORTED if p <= LEVEL else CONTRADICTED if against <= LEVEL else NOT_SHOWN


def _hardest(parts: list[Part]) -> Part:
    return max(parts, key=lambda part: (part.p, -part.distance))


def _seeds(contrasts: Contrasts) -> str:
    seeds = contrasts.replicates.seeds_of(contrasts.adapters)
    if seeds == 1:
        return "Of some adapters there is one seed: the spread between seeds is not in this."
    return f"Examples and {seeds} seeds are drawn anew."


def rank_and_scaling(study: Study, replicates: Replicates) -> Claim | None:
    """Beside the claims, none of the paper's: what a doubling of the rank adds under each scaling; None of one alone.

    The rule alpha = rank keeps the adapter's scale the same along the ranks, a fixed alpha makes it smaller as the rank
    grows, and rsLoRA (arXiv 2312.03732) less so. Compared are the cells that both rules have.
    """
    contrasts = Contrasts(study, replicates)
    figure = []
    for scaling in dict.fromkeys(cell.scaling for cell in done(study.cells) if cell.scaling not in ("", BY_RANK)):
        ours, theirs = matched([contrasts.adapters, done(study.under(scaling))])
        for name, pairs in (("all languages", None), ("English", replicates.pairs(languages=["en"]))):
            slopes = contrasts.slope(ours, "rank", pairs), contrasts.slope(theirs, "rank", pairs)
            if None not in slopes:
                labels = f"{BY_RANK}, where {scaling} was run", scaling
                figure += [line(f"{label}: {name}", slope) for label, slope in zip(labels, slopes, strict=True)]
                figure.append(line(f"{BY_RANK} minus {scaling}: {name}", minus(*slopes)))
    if not figure:
        return None
    text = "Is it the rank, or the scale of the adapter that goes with it? (no claim of the paper)"
    test = "The slope of the mean over tasks on log2 of the rank, under alpha = rank and under other rules."
    return Claim("scaling", text, test, None, None, None, None, None, "", figure, note=_seeds(contrasts))
