"""The tables of a report against means worked out by hand."""

import csv
import io
from dataclasses import replace
from statistics import fmean

import pytest

from maple.reporting.bootstrap import Replicates
from maple.reporting.claims import judge
from maple.reporting.scores import OF_MANY, Scores
from maple.reporting.study import Study
from maple.reporting.table import Table, shown
from maple.reporting.tables import tables
from tests.planted import imagine


def with_values(study, value):
    """The study with value(cell, task, language) in the place of each score; no items."""
    cells = [
        replace(cell, items={}, rows={pair: {**row, "value": value(cell, *pair)} for pair, row in cell.rows.items()})
        for cell in study.cells
    ]
    return replace(study, cells=cells)


def by_name(study: Study, *rest) -> dict[str, Table]:
    return {table.name: table for table in tables(study, *rest)}


def rows_of(table: Table) -> list[dict]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


@pytest.fixture(scope="module")
def paper() -> Study:
    """Two of the paper's models and one other, of which one task has two languages and the other one."""
    study = imagine(
        models=("meta-llama/Llama-2-7b-hf", "org/other"),
        data=("multialpaca", "alpaca"),
        ranks=(8, 16),
        bits=(4, 16),
        seeds=(0, 1),
        tasks=("xnli", "xquad", "alpaca_eval"),
        languages=("de", "sw"),
        languages_of={"xquad": ("de",)},
        n=4,
    )

    def value(cell, task, language):
        """Best at rank 16 in 4 bits; the second seed is .02 better; Swahili is worse by .2."""
        if task == "alpaca_eval":
            return 10.0 + cell.bits  # best in 16 bits
        best = 0.1 if (cell.rank, cell.bits) == (16, 4) else 0.0
        return (0.5 if task == "xnli" else 0.3) + best + 0.02 * (cell.seed or 0) - 0.2 * (language == "sw")

    return with_values(study, value)


def test_table_1_has_our_rows_under_those_of_the_paper_and_macro_means(paper):
    table = by_name(paper)["table_1"]
    rows = rows_of(table)
    assert len(rows) == 12 + 4 and [row["source"] for row in rows].count("this study") == 4
    place = next(i for i, row in enumerate(rows) if row["source"] == "this study")
    published, ours = rows[place - 1], rows[place]
    assert (published["model"], published["data"], published["mlqa"]) == ("Llama-2-7b", "MultiAlpaca", 0.41)
    assert (ours["model"], ours["data"]) == ("meta-llama/Llama-2-7b-hf", "multialpaca")
    assert (ours["rank"], ours["bits"], ours["seeds"]) == (16, 4, 2)
    assert ours["xnli"] == pytest.approx(0.6 + 0.01 - 0.1)  # two languages, two seeds
    assert ours["xquad"] == pytest.approx(0.4 + 0.01)
    assert ours["mean"] == pytest.approx((0.51 + 0.41) / 2)  # over the two tasks, not over the three scores
    assert ours["belebele"] is None and ours["scored cells"] == "8 of 8"
    assert [row["model"] for row in rows[-2:]] == ["org/other"] * 2  # what the paper has no row for comes last


def test_na_stays_na(paper):
    rows = rows_of(by_name(paper)["table_1"])
    instruct = next(row for row in rows if row["model"] == "Mistral-7B-Instruct")
    assert (instruct["data"], instruct["xlsum"], instruct["mean"], instruct["rank"]) == ("NA", "NA", 0.37, None)
    assert sum(row["data"] == "NA" for row in rows) == 4


def test_table_2_is_best_in_its_own_score(paper):
    table = by_name(paper)["table_2"]
    assert OF_MANY in table.note and OF_MANY in by_name(paper)["table_1"].note
    rows = rows_of(table)
    ours = [row for row in rows if row["source"] == "this study"]
    assert len(rows) == 12 + 4 and {(row["rank"], row["bits"], row["win rate"]) for row in ours} == {(8, 16, 26.0)}
    at = next(i for i, row in enumerate(rows) if row["source"] == "this study")
    assert (rows[at - 1]["data"], rows[at]["data"], rows[at - 1]["win rate"]) == ("alpaca", "alpaca", 13.28)


def test_a_score_that_one_cell_lacks_is_in_no_mean(paper):
    best = next(cell for cell in paper.main if (cell.rank, cell.bits, cell.seed) == (16, 4, 1))
    rest = {pair: row for pair, row in best.rows.items() if pair != ("xquad", "de")}
    cells = [replace(cell, rows=rest) if cell is best else cell for cell in paper.cells]
    found = by_name(replace(paper, cells=cells))
    ours = next(row for row in rows_of(found["table_1"]) if row["source"] == "this study")
    assert ours["mean"] == pytest.approx((0.5 + 0.52) / 2)  # of XNLI alone, and of both seeds
    row = next(row for row in rows_of(found["cells"]) if row["cell"] == best.name)
    assert row["xquad"] is None and row["mean"] == row["xnli"] == pytest.approx(0.52)


def test_what_was_run_is_marked(paper):
    kept = [c for c in paper.main if c.model == "org/other" and not (c.data == "alpaca" and c.rank == 8)]
    planned = [replace(c, rows={}, state="planned") if (c.rank, c.seed) == (16, 0) else c for c in kept]
    table = by_name(replace(paper, cells=[*paper.bases, *planned]))["grid"]
    assert table.rows == [
        ["org/other", "multialpaca", 8, "●", "●"],
        ["org/other", "multialpaca", 16, "1 of 2", "1 of 2"],
        ["org/other", "alpaca", 16, "1 of 2", "1 of 2"],
    ]


def test_cells_languages_and_price(paper):
    found = by_name(paper)
    cells = rows_of(found["cells"])
    assert len(cells) == len(paper.cells)
    base, first = cells[0], next(row for row in cells if row["rank"] == 8)
    assert (base["data"], base["scaling"], base["seed"], base["memory, GiB"]) == (None, "", None, None)
    summary = paper.main[0].summary
    assert first["memory, GiB"] == summary["peak_memory_bytes"] / 2**30
    assert (first["tokens/s"], first["adapter, bytes"]) == (summary["tokens_per_second"], summary["adapter_bytes"])
    swahili = [row for row in rows_of(found["languages"]) if row["language"] == "sw" and row["rank"] == 16]
    assert len(swahili) == 8 and swahili[0]["own name"] == "Kiswahili" and swahili[0]["resources"] == "low"
    best = next(row for row in swahili if (row["bits"], row["data"]) == (4, "alpaca"))
    assert best["mean"] == pytest.approx(0.41) and best["xquad"] is None and best["trained"] == "no"
    assert best["over the base"] == pytest.approx(0.11)
    bases = [row for row in rows_of(found["languages"]) if row["rank"] == 0]
    assert {(row["over the base"], row["trained"]) for row in bases} == {(None, None)}
    price = rows_of(found["price"])
    assert len(price) == 16 and price[0]["all, s"] == fmean(
        c.seconds for c in paper.main if c.rank == 8 and c.bits == 4
    )


def test_a_summary_that_somebody_changed_is_not_counted(paper):
    cells = [replace(c, summary={"seconds": "long", "peak_memory_bytes": None}) for c in paper.main]
    price = rows_of(by_name(replace(paper, cells=cells))["price"])
    assert {row["training, s"] for row in price} == {row["memory, GiB"] for row in price} == {None}


def test_intervals_and_claims_are_in_the_tables():
    study = imagine(ranks=(1, 8), bits=(4, 16), seeds=(0, 1), n=20)
    replicates = Replicates(study, 1000)
    found = by_name(study, replicates, judge(study, replicates))
    ours = next(row for row in rows_of(found["table_2"]) if row["source"] == "this study")
    assert ours["low"] < ours["win rate"] < ours["high"]
    assert [row["claim"] for row in rows_of(found["claims"])] == [claim.name for claim in judge(study, replicates)]


def test_the_mean_of_the_replicates_is_the_mean_that_is_shown():
    study = imagine(ranks=(1, 8), bits=(4,), seeds=(0, 1, 2), n=30)
    replicates = Replicates(study, 1000)
    scores = Scores(study, replicates)
    cells = scores.of_panel("tiny", "tiny")
    assert scores.mean(cells, scores.in_mean).value == pytest.approx(replicates.mean(cells).value)
    gain, base = scores.gain(cells, scores.in_mean), replicates.mean(study.bases)
    assert gain.value == pytest.approx(replicates.mean(cells).value - base.value)
    assert gain.low < gain.value < gain.high


@pytest.mark.parametrize("tasks", [("xnli",), ("alpaca_eval",), ("tydi",)])
def test_a_study_of_nothing_or_of_one_cell(tasks):
    study = imagine(ranks=(8,), bits=(4,), seeds=(0,), tasks=tasks, languages=("sw",), n=3)
    for part in (study, replace(study, cells=study.main), replace(study, cells=study.bases), replace(study, cells=[])):
        for table in tables(part, Replicates(part, 100), judge(part, Replicates(part, 100))):
            assert all(len(row) == len(table.columns) for row in table.rows)


HOSTILE = ['=cmd|"/c calc"!A0', "+1", "@x", "a,b", 'q"q', "zwei\nZeilen", "العربية", "\ud800", "<script>", "$x$"]


def test_csv_goes_there_and_back(tmp_path):
    numbers = [0.1 + 0.2, 1e-17, -3.5, 7, None]
    table = Table("t", "T", ["name", *"abcde"], [[name, *numbers] for name in HOSTILE])
    text = table.save(tmp_path / "tables").read_text(encoding="utf-8")
    header, *rows = csv.reader(io.StringIO(text))
    assert header == table.columns
    for name, row in zip(HOSTILE, rows, strict=True):
        assert row[0] in (name, f"'{name}", name.encode("utf-8", "backslashreplace").decode())
        assert not row[0].startswith(("=", "+", "@"))
        assert [float(x) for x in row[1:5]] == numbers[:4] and row[5] == ""  # a negative number stays one


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("NA", "NA"),
        (8, "8"),
        (319815680, "319,815,680"),
        (0.5321, "0.532"),
        (13.28, "13.3"),
        (4100.2, "4,100"),
    ],
)
def test_numbers_as_a_person_reads_them(value, text):
    assert shown(value) == text
