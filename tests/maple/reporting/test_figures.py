"""The figures of a report: which there are, the same bytes twice, hostile names, studies of nearly nothing."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from maple.languages import known
from maple.reporting import style
from maple.reporting.bootstrap import Replicates
from maple.reporting.claims import judge
from maple.reporting.figures import draw, save
from maple.reporting.language_figures import SCRIPTS, by_language
from maple.reporting.paper_figures import figure_1, figure_2, figure_4
from maple.reporting.price_figures import Point, front, trainable
from maple.reporting.scores import Estimate, Scores
from maple.tasks import find
from tests.planted import imagine

TASKS = ("xnli", "xcopa", "xquad", "belebele", "mlqa", "xlsum", "alpaca_eval")
ALL = {
    "figure_1_mean", "figure_1_belebele", "figure_2", "figure_3", "figure_4", "heat_xnli", "heat_xcopa", "heat_xquad",
    "heat_mlqa", "heat_xlsum", "heat_alpaca_eval", "heat_trained", "heat_untrained", "heat_high", "heat_mid",
    "heat_low", "english", "gain_language", "gain_group", "gain_family", "gain_script", "gain_tokens", "trainable",
    "price_by_rank", "pareto_memory", "pareto_time", "slices", "claims_forest",
}  # fmt: skip
LANGUAGES = ("ar", "de", "en", "sw", "th")
SVG = "{http://www.w3.org/2000/svg}"


def whole(**options):
    """A study with something for every figure."""
    trained = {"tiny": ("de", "en"), "tiny-en": ("en",)}
    options = {"tasks": TASKS, "languages": LANGUAGES, "trained": trained, "n": 8, "seeds": (0, 1)} | options
    return imagine(ranks=(1, 8), bits=(4, 16), alphas=(None, 8), rslora=(8,), **options)


def drawn(study):
    replicates = Replicates(study, 200)
    return draw(study, replicates, judge(study, replicates))


@pytest.fixture(scope="module")
def figures():
    made, lacking = drawn(whole(data=("tiny", "tiny-en")))
    assert lacking == []
    return {figure.name: figure for figure in made}


def test_every_figure_is_there_in_words_and_numbers_too(figures):
    assert figures.keys() == ALL
    for figure in figures.values():
        assert "`" not in figure.caption
        assert figure.title and figure.caption.endswith(".") and figure.table.name == figure.name
        assert figure.table.rows and all(len(row) == len(figure.table.columns) for row in figure.table.rows)


def test_both_files_hold_the_drawing(figures, tmp_path):
    svg = ElementTree.fromstring(save(figures["gain_language"], tmp_path))
    assert (tmp_path / "gain_language.png").read_bytes().startswith(b"\x89PNG")
    words = {text.text for text in svg.iter(f"{SVG}text")}
    assert {"ar العربية", "th ไทย", "de Deutsch", "sw Kiswahili"} <= words  # text, not outlines
    assert {text.get("style", "").count("'") for text in svg.iter(f"{SVG}text")} <= {
        0,
        2,
    }  # one font, not this machine's


def test_the_numbers_drawn_are_those_of_the_table(figures):
    table = figures["figure_1_mean"].table
    written = {text.get_text() for axis in figures["figure_1_mean"].figure.axes for text in axis.texts}
    assert {f"{row[5]:.3f}".removeprefix("0") for row in table.rows} <= written
    assert len(table.rows) == 2 * 2 * 2


def digests(folder: Path) -> list[str]:
    """Of a figure of each kind with all that is written of it."""
    lines = []
    for figure in drawn(whole(n=4, seeds=(0,)))[0]:
        if figure.name in ("figure_2", "figure_4", "english", "gain_tokens", "slices"):
            svg = save(figure, folder)
            content = svg.encode() + (folder / f"{figure.name}.png").read_bytes() + figure.table.csv().encode()
            lines.append(f"{figure.name} {hashlib.sha256(content).hexdigest()}")
    return lines


def test_another_process_draws_the_same_bytes(tmp_path):
    program = "import sys, pathlib; from tests.maple.reporting.test_figures import digests\n"
    program += "print(*digests(pathlib.Path(sys.argv[1])), sep='\\n')"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", program, str(tmp_path / "theirs")]
    theirs = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert theirs.returncode == 0, theirs.stderr
    ours = digests(tmp_path / "ours")
    assert len(ours) == 5 and theirs.stdout.splitlines() == ours


HOSTILE = [
    "<script>alert(1)</script>",
    "$\\frac{1}{0}$ & $x^2$",
    "_hidden",
    "a\x00b\x1b[31m\u202ec\nd",
    "\ud800 half",
    "x" * 300,
    "org/<img src=x onerror=alert(1)>",
]


def test_a_hostile_name_is_text(tmp_path):
    study = imagine(models=HOSTILE, data=("_hidden", "$d$"), ranks=(1,), bits=(4,), seeds=(0,), n=3, languages=("de",))
    scores = Scores(study)
    for make in (figure_2, by_language, trainable, figure_1):
        figure = make(scores)
        figure.table.save(tmp_path)
        svg = ElementTree.fromstring(save(figure, tmp_path))  # whole XML
        assert {element.tag.removeprefix(SVG) for element in svg.iter() if element.tag.startswith(SVG)} <= DRAWS
        assert not any(key.startswith("on") for element in svg.iter() for key in element.attrib)
        if make in (figure_2, trainable):  # the others fold names into several lines
            words = " ".join(text.text or "" for text in svg.iter(f"{SVG}text"))
            assert "1b[31m" in words and "$\\frac{1}{0}$" in words and "\x1b" not in words
    (legend,) = by_language(scores).figure.legends
    assert [text.get_text() for text in legend.texts] == [" _hidden", "$d$"]  # and not left out


DRAWS = {
    "svg", "g", "defs", "path", "use", "text", "style", "metadata", "clipPath", "rect", "pattern", "image",
}  # fmt: skip


def test_names_are_short_and_apart():
    assert style.names(["meta-llama/Llama-2-7b-hf", "tiny"]) == {
        "meta-llama/Llama-2-7b-hf": "Llama-2-7b-hf",
        "tiny": "tiny",
    }
    assert style.names(["a/m", "b/m"]) == {"a/m": "a/m", "b/m": "b/m"}
    long = ["x" * 99 + middle + "y" * 99 for middle in "12"]
    assert len(set(style.names(long).values())) == 2
    assert all(len(name) <= style.LONGEST for name in style.names(long).values())


def test_a_name_that_no_font_has_is_the_english_one(monkeypatch):
    monkeypatch.setattr(style, "families", lambda: ("DejaVu Sans",))
    style._undrawable.cache_clear()
    try:
        assert style.drawable("zh 中文") == "zh Chinese" and style.drawable("ru русский") == "ru русский"
        assert style.drawable("bn-Latn Bengali") == "bn-Latn Bengali" and style.drawable("no language") == "no language"
    finally:
        style._undrawable.cache_clear()


def test_every_script_has_a_name():
    assert {one.scripts[0] for one in known().values()} == SCRIPTS.keys()


def test_fonts_are_only_those_that_are_needed():
    with style.styled():
        plain, chinese = style.sheet("Title", 4, 2), style.sheet("Title", 4, 2)
        chinese.text(0, 0, "zh 中文")
    assert style.choose_fonts(plain) == ["DejaVu Sans"]
    assert style.choose_fonts(chinese)[0] == "DejaVu Sans" and len(style.choose_fonts(chinese)) <= 2


@pytest.mark.parametrize("tasks", [("xquad",), ("alpaca_eval",), ("tydi",)])
def test_studies_of_nearly_nothing(tasks, tmp_path):
    study = imagine(ranks=(8,), bits=(4,), seeds=(0,), tasks=tasks, languages=("de",), n=2)
    made, lacking = drawn(replace(study, cells=study.main))  # without their base
    assert made and all(sentence.endswith(".") for sentence in lacking)
    made, lacking = drawn(study)
    for figure in made if tasks == ("xquad",) else []:
        save(figure, tmp_path)


def test_without_scores_there_is_the_price_and_a_sentence():
    study = imagine(ranks=(8,), bits=(4,), seeds=(0,), n=2)
    unscored = [replace(cell, rows={}, items={}, counted={}, state="scoring") for cell in study.cells]
    made, lacking = drawn(replace(study, cells=unscored))
    assert [figure.name for figure in made] == ["price_by_rank"] and len(lacking) == 1
    for cells in ([], study.bases, [replace(cell, summary=None) for cell in unscored]):
        made, lacking = drawn(replace(study, cells=cells))
        assert made == [] and len(lacking) == 2


def test_all_languages_of_belebele_are_drawn(tmp_path):
    languages = sorted(find("belebele").languages)
    study = imagine(ranks=(8,), bits=(4,), seeds=(0,), tasks=("belebele",), languages=languages, n=2)
    svg = save(by_language(Scores(study)), tmp_path)
    words = {text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")}
    assert {style.language(code) for code in languages} <= words


def test_a_data_set_at_fewer_points_is_compared_at_those():
    study = imagine(data=("tiny", "tiny-en"), ranks=(1, 8), bits=(4, 16), seeds=(0,), n=4)
    cells = [cell for cell in study.cells if cell.data != "tiny-en" or (cell.rank, cell.bits) == (8, 4)]
    series = Scores(replace(study, cells=cells)).series_of("tiny", {"tiny": "tiny", "tiny-en": "tiny-en"})
    assert [(label, len(some)) for label, _, some in series] == [
        ("tiny", 4),
        ("tiny (rank 8, 4 bits)", 1),
        ("tiny-en (rank 8, 4 bits)", 1),
    ]
    assert Scores(replace(study, cells=cells)).whole_panels("tiny") == ["tiny"]


def test_the_front_is_what_nothing_cheaper_beats():
    costs, means = [3.0, 1.0, 2.0, 2.0, 4.0], [0.5, 0.3, 0.2, 0.4, 0.5]
    points = [Point("m", "d", i, 4, Estimate(m), {"s": c}) for i, (c, m) in enumerate(zip(costs, means, strict=True))]
    assert [point.rank for point in front(points, "s")] == [1, 3, 0]


def test_a_fixed_alpha_goes_through_the_rank_that_equals_it(figures):
    rows = figures["slices"].table.rows
    ranks = {rule: {row[4] for row in rows if row[3] == rule} for rule in {row[3] for row in rows}}
    assert ranks == {"alpha = rank": {1, 8}, "alpha = 8": {1, 8}, "rsLoRA, alpha = 8": {1, 8}}


def test_published_baselines_stand_beside_the_same_questions_only():
    study = imagine(ranks=(8,), bits=(4,), seeds=(0,), n=3, tasks=("xnli", "xquad"))
    sources = {row[1] for row in figure_2(Scores(study)).table.rows}
    assert sources == {"paper", "this study"}
    for cell in study.cells:
        for row in cell.rows.values():
            row["settings"] = {"setting": "tiny"}
    sources = {row[1] for row in figure_2(Scores(study)).table.rows}
    assert sources == {"this study"}


def test_figure_4_has_the_base_in_the_bits_of_the_adapter():
    study = imagine(
        ranks=(8,), bits=(4, 16), seeds=(0,), tasks=("xquad",), effect=lambda c, *_: 0.1 + 0.05 * c.bits, n=40
    )
    table = figure_4(Scores(study)).table
    by_rank = {row[2]: row for row in table.rows if row[4] == "de"}
    assert by_rank[0][3] == by_rank[8][3] == 16
    base = next(cell for cell in study.bases if cell.bits == 16)
    assert by_rank[0][5] == base.rows["xquad", "de"]["value"]
