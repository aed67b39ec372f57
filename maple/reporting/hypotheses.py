"""What the paper claims (`facts/protocol.md`, 1.6), as things that are computed from a study.

Each function says what has to hold, as Parts that must all be shown (an intersection-union test, which needs no
correction for their number), or raises Untestable with what the study lacks.

Two claims are that something does not matter. That nothing was found does not show them: a study of one example finds
nothing. They ask that a difference be shown to be smaller than MARGIN, and that the study can find one at all: its
adapters must differ from their bases by more than that (assay sensitivity, ICH E10, 1.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations, permutations, product
from statistics import fmean

from maple.languages import fact
from maple.reporting.bootstrap import Mean
from maple.reporting.contrasts import Contrasts, Line, Part, line, matched, minus, scaled
from maple.reporting.published import TABLE_1
from maple.reporting.reading import Cell

# What does not matter, in score. Averages of the paper's Table 1 that it calls alike (.52 and .53, .38 and .39) differ
# by this much at most before they were rounded.
MARGIN = 0.02
EQUAL_SIZE = 0.1  # of training tokens; ours: the paper says "comparable dataset sizes" and no number
ROUNDED = 0.005  # a published number may be so much higher than it is printed


class Untestable(Exception):
    """What a study lacks, in words."""


@dataclass(frozen=True)
class Finding:
    """What a study says to a claim."""

    parts: list[Part]  # all must be shown; one whose opposite is shown contradicts
    figure: list[Line]
    conditions: list[Part] = field(default_factory=list)  # must be shown too, two-sided, and contradict nothing
    looks: int = 1  # directions among which the data chose that which is tested
    bounds: tuple[float, ...] = (0.0,)  # where the figure has its lines
    note: str = ""


def data_hardly_matters(of: Contrasts) -> Finding:
    """1: every two data sets, within each base model, differ by less than the margin."""
    differences = _between_data(of)
    sensitive = _sensitive(of)
    parts = [Part(label, mean, sign * MARGIN, -sign) for label, mean in differences.items() for sign in (1, -1)]
    figure = [line(label, mean) for label, mean in differences.items()]
    figure.append(line(sensitive.label, sensitive.mean))
    return Finding(parts, figure, [sensitive], bounds=(-MARGIN, MARGIN))


def languages_do_not_help(of: Contrasts) -> Finding:
    """2: a data set adds less than the margin to another of the same size whose languages are among its own."""
    nested, parts = [], []
    for model, (fewer, more) in _each(of, "model", "source", permutations):
        smaller, larger = matched([_of(of, model=model, source=name) for name in (fewer, more)], "source")
        if not smaller or not all(a.trained and a.trained < b.trained for a, b in product(smaller, larger)):
            continue
        sizes = [_tokens(side) for side in (smaller, larger)]
        nested.append(f"{more} has {sizes[1]:,.0f} training tokens and {fewer} {sizes[0]:,.0f}")
        difference = of.difference(larger, smaller, "source")
        if difference and abs(sizes[1] - sizes[0]) <= EQUAL_SIZE * max(sizes):
            parts.append(Part(f"{model}: {more} minus {fewer}", difference, MARGIN, -1))
    if not nested:
        raise Untestable("two data sets of which one has the other's languages and more, at the same rank and bits")
    if not parts:
        raise Untestable(f"two such data sets of the same size; here {'; '.join(nested)}")
    sensitive = _sensitive(of)
    figure = [line(part.label, part.mean) for part in [*parts, sensitive]]
    return Finding(parts, figure, [sensitive], bounds=(MARGIN,))


def base_matters_more(of: Contrasts) -> Finding:
    """3: the best base model is ahead of the worst by more than any data set is of any other."""
    models = _values(of, "model")
    if len(models) < 2:
        raise Untestable("adapters of two base models")
    data = _between_data(of)
    between = {}
    for ours, theirs in permutations(models, 2):
        difference = of.difference(_of(of, model=ours), _of(of, model=theirs), "model")
        if difference:
            between[f"{ours} minus {theirs}"] = difference
    if not between:
        raise Untestable("two base models with the same data, rank and bits")
    name = max(between, key=lambda label: between[label].value)
    parts = []
    for label, mean in data.items():
        for sign in (1, -1):
            parts.append(Part(f"{name}, less {label}", minus(between[name], scaled(mean, sign))))
    figure = [line(name, between[name]), *(line(label, mean) for label, mean in data.items())]
    return Finding(parts, figure, looks=len(between))


def rank_keeps_english(of: Contrasts) -> Finding:
    """4: the English score rises with the rank."""
    return _english(of, "rank")


def bits_keep_english(of: Contrasts) -> Finding:
    """5: the English score rises with the bits; whether the base alone does it is told by the gain beside it."""
    return _english(of, "bits")


def low_resources_gain(of: Contrasts) -> Finding:
    """6: low-resource languages gain over the base, and more than high-resource ones; in tasks that have both."""
    by_group = {
        name: [pair for pair in of.replicates.pairs() if fact(pair[1]).resources == name] for name in ("low", "high")
    }
    tasks = set.intersection(*({task for task, _ in pairs} for pairs in by_group.values()))
    if not tasks:
        raise Untestable("a task that was scored in languages with low and with high resources")
    gains = {}
    for name, pairs in by_group.items():
        gains[name] = of.gain([pair for pair in pairs if pair[0] in tasks])
        if gains[name] is None:
            raise Untestable("scores of an adapter and of its base in those languages")
    low, high = gains["low"], gains["high"]
    parts = [Part("low resources, gain", low), Part("low minus high resources, gain", minus(low, high))]
    figure = [line(parts[0].label, low), line("high resources, gain", high), line(parts[1].label, parts[1].mean)]
    languages = {name: sorted({language for task, language in by_group[name] if task in tasks}) for name in by_group}
    words = "; ".join(f"{name}: {', '.join(codes)}" for name, codes in languages.items())
    return Finding(parts, figure, note=f"Resources by Joshi et al., grouped by us. {words}.")


def mistral_beats_gpt_4(of: Contrasts) -> Finding:
    """7: the mean of all Mistral adapters is above what the paper has for GPT-4."""
    cells = [cell for cell in of.adapters if "mistral" in cell.model.lower()]
    if not cells:
        raise Untestable("adapters of a model that is called Mistral")
    (gpt_4,) = (row.scores for row in TABLE_1 if row.model == "GPT-4")
    parts = []
    for task in ("mlqa", "xquad"):
        pairs = of.replicates.shared(cells, of.replicates.pairs([task]))
        if not pairs:
            raise Untestable(f"scores of {task}")
        if any(cell.rows[pair]["settings"].get("setting") == "tiny" for cell in cells for pair in pairs):
            raise Untestable(f"{task} itself, which GPT-4 was asked; here it is the embedded world's")
        found = of.level(cells, pairs)
        less = Mean(found.value - gpt_4[task], found.replicates - gpt_4[task])
        parts.append(Part(f"{task}: Mistral minus GPT-4's {gpt_4[task]}", less, ROUNDED))
    note = "GPT-4's numbers are the paper's, of other prompts; ours are the mean of all adapters, not of the best."
    return Finding(parts, [line(part.label, part.mean) for part in parts], note=note)


def _english(of: Contrasts, factor: str) -> Finding:
    levels = _values(of, factor)
    if len(levels) < 2:
        raise Untestable(f"two or more {'ranks' if factor == 'rank' else 'widths in bits'}")
    columns = of.replicates.pairs(languages=["en"])
    judged = of.replicates.pairs(of.replicates.judged, ["en"])
    if not columns and not judged:
        raise Untestable("scores in English")
    parts, beside = [], []
    for name, pairs, unit in (("English columns", columns, 1.0), ("AlpacaEval", judged, 0.01)):
        slope = of.slope(of.adapters, factor, pairs) if pairs else None
        if slope:
            parts.append(Part(f"{name}, per doubling of the {factor}", scaled(slope, unit)))
        if slope and factor == "bits" and (gain := of.slope(of.adapters, factor, pairs, over_base=True)):
            beside.append(line(f"{name}, over the base, per doubling of the bits", scaled(gain, unit)))
    if not parts:
        raise Untestable(f"cells that differ in their {factor} alone")
    note = "" if len(parts) == 2 else "Of the mean over tasks and AlpacaEval, the other was not scored in English."
    return Finding(parts, [*(line(part.label, part.mean) for part in parts), *beside], note=note)


def _sensitive(of: Contrasts) -> Part:
    """That the adapters differ from their bases by more than the margin, in whichever direction they do."""
    gain = of.gain()
    if gain is None:
        raise Untestable("scores of a base, without which it is not known whether the study could find a difference")
    sign = 1 if gain.value >= 0 else -1
    return Part("all adapters minus their bases", gain, sign * MARGIN, sign)


def _between_data(of: Contrasts) -> dict[str, Mean]:
    """Within each model every data set minus every other."""
    found = {}
    for model, (ours, theirs) in _each(of, "model", "source", combinations):
        sides = [_of(of, model=model, source=name) for name in (ours, theirs)]
        difference = of.difference(*sides, "source")
        if difference:
            found[f"{model}: {ours} minus {theirs}"] = difference
    if not found:
        raise Untestable("two data sets on the same model, rank and bits")
    return found


def _each(of: Contrasts, outer: str, inner: str, choose: Callable):
    for value in _values(of, outer):
        within = [cell for cell in of.adapters if getattr(cell, outer) == value]
        for pair in choose(dict.fromkeys(getattr(cell, inner) for cell in within), 2):
            yield value, pair


def _tokens(cells: list[Cell]) -> float:
    """Trained on, in the mean; NaN where a run does not say it."""
    return fmean((cell.summary or {}).get("tokens") or math.nan for cell in cells)


def _values(of: Contrasts, name: str) -> list:
    return list(dict.fromkeys(getattr(cell, name) for cell in of.adapters))


def _of(of: Contrasts, **wanted) -> list[Cell]:
    return [cell for cell in of.adapters if all(getattr(cell, name) == value for name, value in wanted.items())]
