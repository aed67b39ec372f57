"""A study's folder, whole and broken."""

import json
import platform
import shutil
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from maple.errors import InputError
from maple.reporting.content import gather
from maple.reporting.contrasts import done
from maple.reporting.scores import Scores
from maple.reporting.study import read_study
from tests import planted
from tests.planted import imagine, plant, write

SMALL = {"ranks": (1, 8), "bits": (4,), "seeds": (0, 1), "n": 6}


@pytest.fixture
def folder(tmp_path):
    return plant(tmp_path / "study", **SMALL)


def cell_folder(folder, cell):
    return folder / "cells" / cell.name


def test_what_is_read_is_what_was_written(tmp_path):
    imagined = imagine(tmp_path / "s", models=("b", "a"), data=("z", "y-en"), alphas=(None, 8), rslora=(8,), **SMALL)
    found = read_study(write(imagined))
    assert found.missing == [] and found.title == imagined.title and found.config == imagined.config
    assert (found.tasks, found.languages) == (imagined.tasks, imagined.languages)
    assert sorted(cell.name for cell in found.cells) == sorted(cell.name for cell in imagined.cells)
    by_name = {cell.name: cell for cell in imagined.cells}
    for cell in found.cells:
        for field in fields(cell):
            ours, theirs = getattr(cell, field.name), getattr(by_name[cell.name], field.name)
            if field.name == "items":
                assert ours.keys() == theirs.keys() and all(np.array_equal(ours[p], theirs[p]) for p in ours)
            elif field.name == "scores":
                assert (ours / "scores.json").is_file()
            else:
                assert ours == theirs, field.name


def test_order_is_that_of_the_study(tmp_path):
    options = {**SMALL, "models": ("b", "a"), "data": ("z", "y-en"), "alphas": (None, 8), "rslora": (8,)}
    study = read_study(plant(tmp_path, **options))
    kinds = [(cell.is_base, cell.model, cell.data) for cell in study.cells]
    assert kinds[:2] == [(True, "b", None), (True, "a", None)]
    assert list(dict.fromkeys(kinds[2:])) == [(False, m, d) for m in "ba" for d in ("z", "y-en")]
    first = [(cell.scaling, cell.rank, cell.seed) for cell in study.cells if (cell.model, cell.data) == ("b", "z")]
    grid = [("alpha = rank", rank, seed) for rank in (1, 8) for seed in (0, 1)]
    fixed = [("alpha = 8", 1, seed) for seed in (0, 1)]  # at rank 8 it is in the grid
    stable = [("rsLoRA, alpha = 8", rank, seed) for rank in (1, 8) for seed in (0, 1)]
    assert first == grid + fixed + stable
    assert len(study.main) == 16
    assert {cell.rank for cell in study.under("alpha = 8")} == {1, 8}
    assert study.base_of(study.main[0]).model == "b"
    assert [len(group) for group in study.groups(study.main)] == [2] * 8


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no study"),
        ("- 1", "a study has the sections"),
        ("title: A study of nothing", "there is no cell"),
        ("grid: {rank: [8], bits: [3]}", "bits"),
        ("grid: [", "not YAML of a study"),
        ("[" * 5000, "not YAML of a study"),
        ("a: !!python/object:os.system {}", "not YAML of a study"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_refuses_what_is_no_study(tmp_path, content, words):
    if content is not None:
        (tmp_path / "study.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words):
        read_study(tmp_path)


def test_a_study_that_has_not_begun_is_one(tmp_path):
    (tmp_path / "study.yaml").write_text("title: Tomorrow\ngrid: {model: tiny, data: tiny, rank: [1, 8], bits: 4}\n")
    study = read_study(tmp_path)
    assert (study.title, study.tasks, study.languages) == ("Tomorrow", [], [])
    assert [(cell.rank, cell.state) for cell in study.cells] == [(0, "planned"), (1, "planned"), (8, "planned")]
    assert len(study.missing) == 1 and study.missing[0].startswith("3 cells are planned and not begun: tiny.base.4bit-")


def test_says_where_cells_stand(folder):
    cells = read_study(folder).main
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout
    gone = gone.strip()
    states = [
        {"state": "failed", "error": "no memory"},
        {"state": "training", "step": 10, "of": 120},
        {"state": "scoring", "where": f"process {gone} on {platform.node()}"},
        {"state": "planned"},
    ]
    for cell, state in zip(cells, states, strict=True):
        (cell_folder(folder, cell) / "state.json").write_text(json.dumps(state))
        shutil.rmtree(next(cell_folder(folder, cell).glob("scores-*")))
    (cell_folder(folder, cells[3]) / "state.json").unlink()
    study = read_study(folder)
    assert study.missing == [
        f"1 cell is planned and not begun: {cells[3].name}.",
        f"{cells[0].name} failed: no memory",
        f"{cells[1].name} is training at step 10 of 120.",
        f"{cells[2].name} was stopped while scoring.",
    ]
    assert [cell.rows for cell in study.main] == [{}] * 4


def test_says_which_scores_are_missing(folder):
    cell = read_study(folder).main[0]
    path = next(cell_folder(folder, cell).glob("scores-*")) / "scores.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row for row in rows if (row["task"], row["language"]) != ("xnli", "de")]))
    first, second = read_study(folder).missing
    assert first == f"{cell.name} has no score of xnli in de."
    assert second.startswith("Means are over what all scored cells have") and second.endswith(" have xnli in de.")


def test_answers_that_nobody_judged(folder):
    for path in folder.glob("cells/*/scores-*/scores.json"):
        rows = json.loads(path.read_text())
        path.write_text(json.dumps([row for row in rows if row["metric"] != "win_rate"]))
    study = read_study(folder)
    assert study.missing == ["There are answers and no scores, since no judge was asked: alpaca_eval in en."]
    assert "alpaca_eval" not in study.tasks


BROKEN = {
    "half a state": ("state.json", '{"state": "trai', "not JSON"),
    "an unknown state": ("state.json", '{"state": "dancing"}', "dancing"),
    "half a summary": ("fit/summary.json", '{"model":', "not JSON"),
    "no summary": ("fit/summary.json", None, "is missing, and so what the cell cost"),
    "tokens that are no number": ("fit/summary.json", '{"tokens": "x", "seconds": 1}', "tokens is no number: 'x'"),
    "a process that is none": ("state.json", '{"state": "scoring", "where": 5}', "is scoring."),
    "half the scores": ("scores-*/scores.json", '[{"task": "xnli",', "not JSON"),
    "scores of something else": ("scores-*/scores.json", '[{"task": 1}]', "not the scores"),
    "an unknown language": (
        "scores-*/scores.json",
        '[{"task": "../x", "language": "qq", "metric": "acc", "value": 1, "stderr": 0, "n": 1, "settings": {}}]',
        "no task and language",
    ),
    "half a prediction": ("scores-*/predictions/xnli.de.jsonl", '{"number": 0, "score": {"acc"', "not JSON"),
    "too few predictions": ("scores-*/predictions/xnli.de.jsonl", '{"score": {"acc": 1}}\n', "not the examples"),
    "predictions without a score": ("scores-*/predictions/xnli.de.jsonl", '{"number": 0}\n', "it has no 'score'"),
    "predictions of another metric": ("scores-*/predictions/xnli.de.jsonl", '{"score": {"f1": 1}}\n', "no number for"),
    "a score that is none": ("scores-*/predictions/xnli.de.jsonl", '{"score": {"acc": NaN}}\n', "no number for"),
    "no predictions": ("scores-*/predictions/xnli.de.jsonl", None, "is missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_a_sentence(folder, name):
    pattern, content, words = BROKEN[name]
    cell = read_study(folder).main[0]
    path = next(cell_folder(folder, cell).glob(pattern))
    path.unlink() if content is None else path.write_text(content)
    study = read_study(folder)
    assert any(words in sentence for sentence in study.missing), study.missing
    assert len(study.cells) == 5
    assert not any("Traceback" in sentence or "\n" in sentence for sentence in study.missing)


def test_a_fixed_alpha_is_the_grids_where_it_is_the_rank():
    study = imagine(**SMALL, alphas=(None, 8))
    of_one_seed = replace(study, cells=[c for c in study.cells if c.scaling != "alpha = 8" or c.seed == 0])
    assert [(cell.rank, cell.seed) for cell in of_one_seed.under("alpha = 8")] == [(1, 0), (8, 0)]
    assert of_one_seed.under("alpha = rank") == of_one_seed.main


def test_cells_of_another_grid_are_left_out(folder):
    config = (folder / "study.yaml").read_text()
    (folder / "study.yaml").write_text(config.replace("  rank:\n  - 1\n", "  rank:\n"))
    study = read_study(folder)
    assert {cell.rank for cell in study.cells} == {0, 8}
    (sentence,) = study.missing
    assert sentence.startswith("In cells/ and no cells of the study as it is now: tiny.tiny.r1.4bit.s0-")


def test_a_model_may_lie_elsewhere_now(tmp_path, monkeypatch):
    """Its cells were named by the last part of its path, which is no folder here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    plant(tmp_path / "study", **SMALL, models=("models/mine",))
    planted._settled.cache_clear()  # the folder is gone in the next line
    (tmp_path / "models" / "mine").rmdir()
    study = read_study(tmp_path / "study")
    assert study.missing == [] and all(cell.rows for cell in study.cells) and len(study.cells) == 5


def test_scores_without_a_state_were_brought_along(folder):
    for path in folder.glob("cells/*/state.json"):
        path.unlink()
    assert {cell.state for cell in read_study(folder).cells} == {"done"}


def test_scores_of_other_settings_are_not_of_this_study(folder):
    config = (folder / "study.yaml").read_text()
    (folder / "study.yaml").write_text(config.replace("limit: 6", "limit: 7"))
    study = read_study(folder)
    assert study.tasks == [] and not any(cell.rows for cell in study.cells)


def test_numbers_that_are_none_are_left_empty(folder):
    cell = read_study(folder).main[0]
    (cell_folder(folder, cell) / "state.json").write_text('{"state": "done", "seconds": NaN}')
    path = next(cell_folder(folder, cell).glob("scores-*")) / "scores.json"
    rows = json.loads(path.read_text())
    rows[0]["value"] = None
    path.write_text(json.dumps(rows))
    found = read_study(folder).main[0]
    assert found.seconds is None
    assert (rows[0]["task"], rows[0]["language"]) not in found.rows


def test_other_examples_are_not_compared(folder):
    odd = read_study(folder).main[0]
    for path in cell_folder(folder, odd).glob("scores-*/predictions/xnli.de.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
        rows = json.loads((path.parents[1] / "scores.json").read_text())
        row = next(row for row in rows if (row["task"], row["language"], row["metric"]) == ("xnli", "de", "acc"))
        row.update(n=5, value=float(odd.items["xnli", "de"][:5].mean()))
        (path.parents[1] / "scores.json").write_text(json.dumps(rows))
    study = read_study(folder)
    assert study.missing == [f"{odd.name} has 5 examples of xnli in de, others have 6: they are not compared."]
    assert ("xnli", "de") not in study.main[0].items and ("xnli", "de") in study.main[0].rows


def test_a_verdict_that_is_missing_keeps_its_place(folder):
    cell = read_study(folder).main[0]
    scores = next(cell_folder(folder, cell).glob("scores-*"))
    path = scores / "predictions" / "alpaca_eval.en.jsonl"
    lines = path.read_text().splitlines()
    left = np.delete(cell.items["alpaca_eval", "en"], 2)
    path.write_text("\n".join([*lines[:2], '{"score": {}}', *lines[3:]]) + "\n")
    rows = json.loads((scores / "scores.json").read_text())
    next(row for row in rows if row["metric"] == "win_rate").update(value=left.mean(), n=5)
    (scores / "scores.json").write_text(json.dumps(rows))
    items = next(c for c in read_study(folder).cells if c.name == cell.name).items["alpaca_eval", "en"]
    assert np.isnan(items[2]) and np.array_equal(np.delete(items, 2), left)


def test_another_flag_makes_no_seeds(tmp_path):
    """Cells with another learning rate are no seeds of those with the study's, and are said to be apart."""
    study = imagine(tmp_path / "study", **SMALL)
    config = study.config | {"slices": [{"rank": [1, 8], "bits": 4, "lr": 0.0001, "seed": 0}]}
    write(study)
    (tmp_path / "study" / "study.yaml").write_text(json.dumps(config))
    found = read_study(tmp_path / "study")
    assert [cell.scaling for cell in found.cells if cell not in found.main and cell.rank] == [
        "alpha = rank, lr 0.0001"
    ] * 2
    assert [cell.name for cell in found.main] == [cell.name for cell in study.main]
    assert found.apart[0].startswith("2 adapters differ from most in lr: ")
    assert read_study(write(study)).apart == []


def test_more_than_is_asked_for_now_is_left_out(folder):
    config = json.loads(json.dumps(read_study(folder).config))
    config["evaluate"] |= {"tasks": "xnli,alpaca_eval", "languages": "en,de"}
    (folder / "study.yaml").write_text(json.dumps(config))
    study = read_study(folder)
    assert (study.tasks, study.languages, study.missing) == (["xnli", "alpaca_eval"], ["de", "en"], [])


def test_a_language_more_does_not_empty_the_means(folder):
    """The study was given Chinese; one cell of five has it, the others are planned again and still have the rest."""
    first, *others = read_study(folder).cells
    scores = next(cell_folder(folder, first).glob("scores-*"))
    rows = json.loads((scores / "scores.json").read_text())
    more = [row | {"language": "zh"} for row in rows if (row["task"], row["language"]) == ("xnli", "de")]
    (scores / "scores.json").write_text(json.dumps(rows + more))
    shutil.copy(scores / "predictions/xnli.de.jsonl", scores / "predictions/xnli.zh.jsonl")
    for cell in others:
        (cell_folder(folder, cell) / "state.json").write_text('{"state": "planned"}')
    study = read_study(folder)
    assert len(study.missing) == 2 and study.missing[0].endswith(" have no score of xnli in zh.")
    scores = Scores(study)
    assert ("xnli", "zh") in scores.pairs and ("xnli", "zh") not in scores.in_mean
    assert all(scores.mean([cell], scores.in_mean) for cell in study.cells)
    assert done(study.main) == study.main


def edit(folder, cell, change):
    """Change the settings of a cell's rows."""
    path = next(cell_folder(folder, cell).glob("scores-*")) / "scores.json"
    rows = json.loads(path.read_text())
    for row in rows:
        change(row)
    path.write_text(json.dumps(rows))


def test_settings_that_somebody_edited_are_a_sentence(folder):
    edit(folder, read_study(folder).main[0], lambda row: row["settings"].update(judge=["a", {}], data=5))
    study = read_study(folder)
    assert sum("judge is no text: ['a', {}]" in sentence for sentence in study.missing) == 1
    assert all(cell.rows for cell in study.cells)
    (folder / "cells" / study.main[0].name / "fit" / "summary.json").write_text('{"tokens": "x", "adapter_bytes": []}')
    content = gather(read_study(folder))
    assert len(content.claims) == 7 and any("adapter_bytes is no number" in text for text in content.study.missing)


def test_other_data_of_the_same_length_is_left_out(folder):
    cells = read_study(folder).cells
    for place, cell in enumerate(cells):
        digest = "1" if cell is cells[1] else "0"

        def change(row, place=place, digest=digest):
            row["settings"]["data"] = f"/{place}/xnli sha256:{digest if row['language'] == 'de' else 0}"

        edit(folder, cell, change)
    study = read_study(folder)
    (left,) = [sentence for sentence in study.missing if "other data" in sentence]
    assert left == f"{cells[1].name} was scored on other data of xnli in de, xquad in de than most: left out."
    assert ("xnli", "de") not in study.cells[1].rows and ("xnli", "de") not in study.cells[1].items
    assert ("xnli", "de") in study.cells[0].items


def test_another_base_of_the_same_name_is_left_out(folder):
    cells = read_study(folder).cells
    for cell in cells:
        print_of = "old" if cell is cells[2] else "new"
        edit(folder, cell, lambda row, print_of=print_of: row["settings"].update(fingerprint=print_of))
    study = read_study(folder)
    assert [bool(cell.rows) for cell in study.cells] == [True, True, False, True, True]
    assert any(f"{cells[2].name} was scored on another tiny than most" in sentence for sentence in study.missing)
