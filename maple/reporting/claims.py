"""The paper's claims, judged by a study.

A claim is supported where all of its parts are shown at once, contradicted where the opposite of one is, and else not
shown. p is one-sided, by bootstrap (`bootstrap.py`). Holm's correction is over the claims that the study can test, for
support and for contradiction each: the chance that a study of nothing supports any of them is 5 % at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maple.reporting.bootstrap import Replicates, holm, interval
from maple.reporting.contrasts import FEWEST_BLOCKS, Contrasts, Line, balanced, done, line, matched, minus
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
    estimate: float | None  # of the part that decides
    low: float | None  # ends of its 95 % interval
    high: float | None
    p: float | None  # of the claim
    p_holm: float | None  # the same, corrected
    verdict: str  # SUPPORTED, CONTRADICTED, NOT_SHOWN, or UNTESTABLE with ": " and what is lacking
    figure: list[Line]
    bounds: tuple[float, ...] = (0.0,)  # where the figure has its lines
    part: str = ""  # which the estimate is of
    p_opposite: float | None = None  # corrected too
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
        "The slope of the English score on log2 of the bits is above 0, for the mean over tasks and for AlpacaEval. "
        "It is the level of the score: a base that its quantisation damages suffices, with training that keeps English "
        "alike. The slope of the gain over the base stands beside it and is no part of the claim.",
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
    findings, few = {}, set()
    for name, (find, _, _) in PAPER.items():
        contrasts.is_too_few = False
        findings[name] = _find(contrasts, find)
        if contrasts.is_too_few:
            few.add(name)
    tested = {name: found for name, found in findings.items() if isinstance(found, Finding) and name not in few}
    ps = [_p(found) for found in tested.values()]
    corrected = holm(ps), holm([_p_opposite(found) for found in tested.values()])
    of_name = dict(zip(tested, zip(ps, *corrected, strict=True), strict=True))
    return [
        Claim(name, text, test, None, None, None, None, None, findings[name], [])
        if isinstance(findings[name], str)
        else _judged(name, text, test, findings[name], *of_name.get(name, (None,) * 3), _seeds(contrasts, name in few))
        for name, (_, text, test) in PAPER.items()
    ]


def _find(contrasts: Contrasts, find: Callable[[Contrasts], Finding]) -> Finding | str:
    try:
        if not contrasts.adapters:
            raise Untestable("an adapter that is trained and scored")
        return find(contrasts)
    except Untestable as lacking:
        return f"{UNTESTABLE}: it needs {lacking}"


def _judged(
    name: str,
    text: str,
    test: str,
    found: Finding,
    p: float | None,
    p_holm: float | None,
    p_opposite: float | None,
    seeds: str,
) -> Claim:
    """The p are None where one seed leaves too little to test."""
    if p is None:
        verdict = NOT_SHOWN
    else:
        verdict = SUPPORTED if p_holm <= LEVEL else CONTRADICTED if p_opposite <= LEVEL else NOT_SHOWN
    # what decides: the part that is hardest to show, or the one whose opposite is the surest
    part = max(found.parts, key=lambda part: (-part.p_opposite if verdict == CONTRADICTED else part.p, -part.distance))
    return Claim(
        name,
        text,
        test,
        estimate=part.mean.value,
        **dict(zip(("low", "high"), interval(part.mean.replicates), strict=True)),
        p=p,
        p_holm=p_holm,
        verdict=verdict,
        figure=found.figure,
        bounds=found.bounds,
        part=part.label,
        p_opposite=p_opposite,
        note=" ".join(filter(None, [found.note, seeds])),
    )


def _p(found: Finding) -> float:
    """Of all parts at once: that of the least certain one."""
    conditions = [2 * part.p for part in found.conditions]  # their direction is whichever was found
    return min(1.0, max(found.looks * max(part.p for part in found.parts), *conditions, 0.0))


def _p_opposite(found: Finding) -> float:
    """That the opposite of one of the parts holds, whichever it is (Bonferroni)."""
    return min(1.0, len(found.parts) * min(part.p_opposite for part in found.parts))


def _seeds(contrasts: Contrasts, is_too_few: bool) -> str:
    seeds = contrasts.replicates.seeds_of(balanced(contrasts.adapters))
    if seeds > 1:
        return f"Examples and {seeds} seeds are drawn anew.{' Three seeds would say much more.' if seeds == 2 else ''}"
    if is_too_few:
        return (
            f"one seed: fewer than {FEWEST_BLOCKS} runs that differ in model, data or rank are left to compare, which "
            "do not say how far another seed would be from this one; nothing is tested."
        )
    return (
        "one seed: in the place of seeds what differs in model, data or rank is drawn anew, each the mean over its "
        "bits, which share their luck."
    )


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
    return Claim(
        "scaling", text, test, None, None, None, None, None, "", figure, note=_seeds(contrasts, contrasts.is_too_few)
    )
