"""How every figure looks: letters, colours, marks, names.

Colours are those of Okabe and Ito, and viridis and PuOr for heat: told apart by the colour-blind. Whatever a colour
tells, a mark or a number tells too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

from matplotlib import font_manager, rc_context
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Drawing
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

from maple.errors import one_line
from maple.languages import fact, known

# Each has scripts that those before it lack. DejaVu comes with matplotlib, the others are looked for on the machine.
FAMILIES = (
    "DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC",
    "Noto Sans JP", "Noto Sans KR", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai",
    "Noto Sans Tamil", "Noto Sans Bengali", "Noto Sans Gujarati", "Noto Sans Gurmukhi", "Noto Sans Kannada",
    "Noto Sans Malayalam", "Noto Sans Telugu", "Noto Sans Oriya", "Noto Sans Sinhala", "Noto Sans Khmer",
    "Noto Sans Lao", "Noto Sans Myanmar", "Noto Sans Ethiopic", "Noto Sans Armenian", "Noto Sans Georgian",
    "Noto Serif Tibetan",
)  # fmt: skip
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#A6761D")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
DASHES = ("-", "--", "-.", ":")
BASE = "base"  # the series of what is not trained, the last and grey
GREY = "#767676"  # 4.5 : 1 on white
WIDE = 11.0  # inches: at 100 dots each as wide as a page, and its letters as large as those of a slide
DOTS = 100
LONGEST = 34  # characters of a name in a figure; its table has all of it


def styled():
    """A context in which every figure is made and written."""
    return rc_context(
        {
            "font.family": FAMILIES[0],  # the others follow where a figure needs them
            "font.size": 12,
            "axes.titlesize": 12.5,
            "axes.titleweight": "bold",
            "axes.labelsize": 12,
            "xtick.labelsize": 11.5,
            "ytick.labelsize": 11.5,
            "legend.fontsize": 11,
            "figure.titlesize": 15,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": "#dddddd",
            "hatch.linewidth": 0.8,
            "figure.dpi": DOTS,
            "savefig.dpi": DOTS,
            "svg.fonttype": "none",  # text stays text: a browser shapes it, and it can be searched
            "text.parse_math": False,  # a name may hold a $
            "axes.formatter.use_mathtext": False,
        }
    )


def sheet(title: str, width: float, height: float) -> Drawing:
    """An empty figure under its title, so many inches large."""
    drawing = Drawing(figsize=(width, height), layout="constrained")
    per_line = int(width * 7.7)  # letters of 15 points
    drawing.suptitle(textwrap.fill(title, per_line), x=0.01, ha="left", weight="bold")
    return drawing


def names(values: Iterable[str]) -> dict[str, str]:
    """What a model or a data set is called in figures: the end of its path where that is enough to tell it apart."""
    values = list(dict.fromkeys(values))  # a legend leaves out what begins with an underscore
    ends = {value: value.rstrip("/").rpartition("/")[2] or value for value in values}
    if len({cut(end) for end in ends.values()}) < len(values):
        ends = {value: value for value in values}
    found = {value: cut(end) for value, end in ends.items()}
    if len(set(found.values())) < len(values):
        found = {value: f"{cut(value, LONGEST - 4)} ({number})" for number, value in enumerate(values, start=1)}
    return found


def cut(text: str, longest: int = LONGEST) -> str:
    """On one line, without its middle where it is long."""
    text = one_line(text)
    text = f" {text}" if text.startswith("_") else text
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-(longest // 2) + 1 :]}"


def looks(series: Iterable[str]) -> dict[str, dict[str, str]]:
    """A colour, a mark, a hatch and a dash for each series, the base behind the others."""
    order = sorted(dict.fromkeys(series), key=lambda name: name == BASE)
    kinds = {"color": COLOURS, "marker": MARKS, "hatch": HATCHES, "linestyle": DASHES}
    found = {
        name: {kind: values[number % len(values)] for kind, values in kinds.items()}
        for number, name in enumerate(order)
    }
    return found | ({BASE: {"color": GREY, "marker": "x", "hatch": "", "linestyle": ":"}} if BASE in found else {})


def of(look: Mapping[str, str], *kinds: str) -> dict[str, str]:
    """A part of a look."""
    return {kind: look[kind] for kind in kinds}


def language(code: str) -> str:
    """A label: the code, and what the language calls itself, else its English name (the code tells the script)."""
    return f"{code} {fact(code).own or fact(code).name.partition(' (')[0]}"


def drawable(label: str) -> str:
    """The label of a language as this machine's fonts can draw it: with its English name where they lack a letter."""
    return _undrawable().get(label, label)


@cache
def _undrawable() -> dict[str, str]:
    return {
        language(code): f"{code} {one.name.partition(' (')[0]}"
        for code, one in known().items()
        if one.own and not any(_has(family, one.own) for family in families())
    }


def relabel(drawing: Drawing, change: Callable[[str], str]) -> Callable[[], None]:
    """Change every text and every tick's label; what is returned changes them back."""
    texts = {text: text.get_text() for text in drawing.findobj(Text)}
    ticks = {formatter: formatter.seq for formatter in _formatters(drawing)}

    def put(changed: Callable[[str], str]) -> None:
        for text, words in texts.items():
            text.set_text(changed(words))
        for formatter, labels in ticks.items():
            formatter.seq = [changed(label) for label in labels]

    put(change)
    return lambda: put(str)


def choose_fonts(drawing: Drawing) -> list[str]:
    """Give all text the fonts that its letters need, and no more: matplotlib looks each of them up for every word."""
    texts = drawing.findobj(Text)
    letters = {letter for text in texts for letter in text.get_text()}
    letters |= {letter for formatter in _formatters(drawing) for label in formatter.seq for letter in label}
    used = {next((family for family in families() if _has(family, letter)), FAMILIES[0]) for letter in letters}
    chosen = [family for family in families() if family in {FAMILIES[0], *used}]
    for text in texts:
        text.set_fontfamily(chosen)
    return chosen


def _formatters(drawing: Drawing) -> list[FixedFormatter]:
    found = [axis.get_major_formatter() for axes in drawing.axes for axis in (axes.xaxis, axes.yaxis)]
    return [one for one in found if isinstance(one, FixedFormatter)]


def ticks(axis: Axis, labels: Sequence[str], offset: float = 0.0) -> None:
    """A label for each of 0, 1, 2 ...; `relabel` finds these."""
    axis.set_ticks([place + offset for place in range(len(labels))])
    axis.set_major_formatter(FixedFormatter(list(labels)))


@cache
def families() -> tuple[str, ...]:
    """The fonts to look through for a letter, of those that are installed."""
    listed = {font.fname for font in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - listed):  # matplotlib remembers those of its first start
        try:
            font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError):
            continue  # no font of a kind that it can read
    installed = {font.name for font in font_manager.fontManager.ttflist}
    found = [family for family in FAMILIES if family in installed]
    for own in sorted({one.own for one in known().values() if one.own}):
        if not any(_has(family, own) for family in found):
            found += [family for family in sorted(installed) if _has(family, own)][:1]
    return tuple(found)


@cache
def _has(family: str, text: str) -> bool:
    """Whether a font has all letters; half a word in another font would not join."""
    if family.startswith("Last Resort"):  # it has a box for each letter
        return False
    path = font_manager.findfont(font_manager.FontProperties(family=family), fallback_to_default=False)
    font = font_manager.get_font(path)
    return all(character.isspace() or font.get_char_index(ord(character)) for character in text)
