"""What training gave to each language and kind of language: differences to the base in the same bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from statistics import fmean

from maple.languages import fact, language_of
from maple.reporting import style
from maple.reporting.figure import Figure
from maple.reporting.marks import dots, legend
from maple.reporting.scores import GROUPS, Estimate, Scores
from maple.reporting.study import Pair
from maple.reporting.table import Table

GAIN = "percentage points over the base"
NAMED = 40  # points of a panel that can bear their names
SCRIPTS = {  # ISO 15924
    "Arab": "Arabic", "Armn": "Armenian", "Beng": "Bengali", "Cyrl": "Cyrillic", "Deva": "Devanagari",
    "Ethi": "Ethiopic", "Geor": "Georgian", "Grek": "Greek", "Gujr": "Gujarati", "Guru": "Gurmukhi", "Hang": "Hangul",
    "Hans": "Simplified Chinese", "Hant": "Traditional Chinese", "Hebr": "Hebrew", "Jpan": "Japanese",
    "Khmr": "Khmer", "Knda": "Kannada", "Laoo": "Lao", "Latn": "Latin", "Mlym": "Malayalam", "Mymr": "Myanmar",
    "Orya": "Odia", "Sinh": "Sinhala", "Taml": "Tamil", "Telu": "Telugu", "Thai": "Thai", "Tibt": "Tibetan",
}  # fmt: skip
KINDS = {"high": "high resources", "mid": "middle resources", "low": "low resources", None: "resources not known"}


def figures(scores: Scores) -> Iterator[Figure | str]:
    """Each figure, or a sentence that says what it lacks."""
    yield by_language(scores)
    yield by_group(scores)
    yield by_family(scores)
    yield by_script(scores)
    yield by_tokens(scores)


def by_language(scores: Scores) -> Figure | str:
    """A row a language."""
    rows = {style.language(code): code for code in scores.rows_of_languages}
    title = "Difference to the base model by language"
    return _gains(
        scores, "gain_language", title, rows, lambda code, _: scores.of_languages(lambda one: language_of(one) == code)
    )


def by_group(scores: Scores) -> Figure | str:
    """Trained against untrained, and by resources."""
    rows = {KINDS.get(group, group): group for group in GROUPS}
    title = "Difference to the base model by kind of language"

    def pairs(group: str, trained: frozenset[str]) -> set[Pair]:
        return scores.of_group(group, trained) if trained or group in KINDS else set()

    return _gains(scores, "gain_group", title, rows, pairs)


def by_family(scores: Scores) -> Figure | str:
    """A row a family."""
    return _by_kind(scores, "family", "Difference to the base model by language family", lambda code: fact(code).family)


def by_script(scores: Scores) -> Figure | str:
    """A row a script, by its first where a language has two."""
    title = "Difference to the base model by script"
    return _by_kind(scores, "script", title, lambda code: SCRIPTS[fact(code).scripts[0]])


def _by_kind(scores: Scores, name: str, title: str, kind: Callable[[str], str]) -> Figure | str:
    members = defaultdict(list)
    for code in scores.rows_of_languages:
        members[kind(code)].append(code)
    order = sorted(members, key=lambda one: (-len(members[one]), one))
    rows = {f"{one} ({_list(members[one])})": one for one in order}
    return _gains(scores, f"gain_{name}", title, rows, lambda one, _: scores.of_languages(lambda c: kind(c) == one))


def _list(codes: list[str], most: int = 4) -> str:
    return " ".join(sorted(codes)) if len(codes) <= most else f"{len(codes)} languages"


def _gains(
    scores: Scores, name: str, title: str, rows: Mapping[str, str], pairs: Callable[[str, frozenset[str]], set[Pair]]
) -> Figure | str:
    """Rows of differences, a panel a model, a mark a data set."""
    short = style.names(scores.models) | style.names(scores.data)
    panels, table = {}, []
    series = [(model, *one) for model in scores.models for one in scores.series_of(model, short)]
    for model, name_of, data, cells in series:
        points = len({(cell.rank, cell.bits) for cell in cells})
        for label, row in rows.items():
            if gain := scores.gain(cells, pairs(row, scores.trained(data))):
                panels.setdefault(short[model], {}).setdefault(name_of, {})[label] = gain
                table.append([model, data, points, row, *gain.row])
    if not table:
        return f"{title}: no cell of the grid and its base have the same scores."
    caption = (
        "The mean over tasks, less that of the same model in the same bits before training; over the ranks, bits and "
        f"seeds that were run. Right of zero is a gain. {scores.about_intervals}"
    )
    drawn = [label for label in rows if any(label in series for panel in panels.values() for series in panel.values())]
    with style.styled():
        drawing = dots(title, panels, drawn, GAIN, factor=100, zero=True)
    columns = ["model", "data", "points", name.removeprefix("gain_"), "difference", "low", "high"]
    return Figure(name, title, caption, drawing, Table(name, title, columns, table, caption))


def by_tokens(scores: Scores) -> Figure | str:
    """Each language's difference over how finely its text is cut."""
    title = "Difference to the base model by tokens per character"
    short = style.names(scores.models)
    panels: dict[str, dict[str, tuple[float, Estimate]]] = {}
    table = []
    for model in scores.models:
        whole = scores.whole_panels(model)
        cells = [cell for cell in scores.study.main if cell.model == model and cell.source in whole]
        for code in scores.rows_of_languages:
            pairs = scores.of_languages(lambda one, code=code: language_of(one) == code)
            gain, tokens = scores.gain(cells, pairs), _tokens(scores, model, pairs)
            if gain and tokens is not None:
                panels.setdefault(short[model], {})[code] = tokens, gain
                table.append([model, code, fact(code).resources, tokens, *gain.row])
    if not table:
        return f"{title}: no cell of the grid and its base have the same scores and counted their tokens."
    caption = (
        "Over how many tokens the model's tokenizer makes of a character of the prompts, the mean over tasks less that "
        "of the same model in the same bits before training; over all data, ranks, bits and seeds. "
        f"{scores.about_intervals}"
    )
    with style.styled():
        drawing = _scatter(title, panels)
    columns = ["model", "language", "resources", "tokens per character", "difference", "low", "high"]
    return Figure("gain_tokens", title, caption, drawing, Table("gain_tokens", title, columns, table, caption))


def _tokens(scores: Scores, model: str, pairs: set[Pair]) -> float | None:
    """The mean over tasks and cells, which differ only in prompts that were cut."""
    found = [
        cell.counted[pair]["tokens_per_character"]
        for cell in scores.study.cells
        for pair in sorted(pairs)
        if cell.model == model and "tokens_per_character" in cell.counted.get(pair, {})
    ]
    return fmean(found) if found else None


def _scatter(title: str, panels: Mapping[str, Mapping[str, tuple[float, Estimate]]]):
    drawing = style.sheet(title, style.WIDE if len(panels) > 1 else 9.0, 6.2)
    axes = drawing.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    looks = style.looks(KINDS.values())
    for axis, (model, points) in zip(axes, panels.items(), strict=True):
        for resources, kind in KINDS.items():
            some = [(x, gain) for code, (x, gain) in points.items() if fact(code).resources == resources]
            for x, gain in some:
                if gain.low is not None:
                    ends = [100 * gain.low, 100 * gain.high]
                    axis.plot([x, x], ends, color=looks[kind]["color"], alpha=0.35, linewidth=1.5)
            if some:
                look = {"linestyle": "", "markersize": 7, **style.of(looks[kind], "color", "marker")}
                axis.plot([x for x, _ in some], [100 * gain.value for _, gain in some], label=kind, **look)
        ends = sorted(points, key=lambda code: points[code][1].value)
        for code in ends if len(ends) <= NAMED else ends[: NAMED // 8] + ends[-NAMED // 8 :]:
            x, gain = points[code]
            axis.annotate(code, (x, 100 * gain.value), (5, 4), textcoords="offset points", fontsize=10)
        axis.axhline(0, color="black", linewidth=1.2, zorder=1)
        axis.grid()
        axis.set_xlabel("tokens per character")
        if len(panels) > 1:
            axis.set_title(model, loc="left")
    axes[0].set_ylabel(GAIN)
    legend(drawing, axes, list(KINDS.values()))
    return drawing
