"""Languages with validation records of their own, and those that are measured only."""

import json

import pytest
from transformers import AutoTokenizer

from maple.data.instructions import Instructions
from maple.data.records import Record
from maple.data.sources import Source
from maple.data.tokens import Limits
from maple.errors import InputError
from maple.fit import fit


@pytest.fixture
def folder(stories, tmp_path, monkeypatch):
    """Spanish to train on, Spanish and Turkish to validate on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, count in (("es", 40), ("es.validation", 3), ("tr.validation", 5)):
        rows = [{"instruction": f"{name} {i}", "input": "", "output": f"{i}"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_language_without_training_records_is_measured(stories, folder, capsys):
    fit(model=str(stories), data=str(folder), rank=4, max_steps=2, batch_tokens=1024, out="run")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert set(summary["val_loss_by_language"]) == {"es", "tr"}
    words = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["es", "43", "3", "40"] in [row[:4] for row in words]  # records, held out, an epoch
    assert ["tr", "5", "5", "0"] in [row[:4] for row in words]


def test_all_of_the_training_file_is_trained_on_where_there_is_a_validation_file(stories, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    records = [Record(f"{n}", "", f"{n}", f"f:{n}") for n in range(9)]
    read = {"es": (records[:5], records[5:7]), "tr": ([], records[7:])}
    instructions = Instructions(
        Source("d", ["es", "tr"], read.__getitem__),
        AutoTokenizer.from_pretrained(stories),
        template="alpaca",
        limits=Limits(512, 512),
        batch_tokens=1024,
        seed=0,
        temperature=1.0,
        english_share=None,
        language_cap=None,
        epochs=1,
        micro_batches=None,
    )
    assert {la: list(indices) for la, indices in instructions.training.items()} == {"es": [0, 1, 2, 3, 4], "tr": []}
    assert {la: list(indices) for la, indices in instructions.validation.items()} == {"es": [5, 6], "tr": [0, 1]}
    assert instructions.batches.counts == {"es": 5, "tr": 0}


def test_languages_that_are_all_only_measured_are_refused(stories, folder):
    with pytest.raises(InputError, match="--data: tr: no record to train on"):
        fit(model=str(stories), data=str(folder), languages="tr", rank=4, max_steps=1, out="run")
