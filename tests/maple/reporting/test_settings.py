"""What a study ran with, and whose choice each setting is."""

from dataclasses import replace

from maple.reporting.settings import settings_tables
from tests.planted import imagine

SETTINGS = {
    "setting": "tiny",
    "limit": 20,
    "ours": ["setting"],
    "prompts_sha256": "0a",
    "versions": {"torch": "2.13.0"},
}


def study(**settings):
    found = imagine(n=5, ranks=(1, 8), bits=(4,), seeds=(0,))
    cells = [
        replace(cell, rows={pair: row | {"settings": SETTINGS | settings} for pair, row in cell.rows.items()})
        for cell in found.cells
    ]
    return replace(found, cells=cells)


def tables(study):
    return {table.name: {row[0]: row[1:] for row in table.rows} for table in settings_tables(study)}


def test_flags_of_training_are_the_papers_grid_or_ours():
    found = tables(study())["settings_training"]
    assert found["rank"] == ["1, 8", "factor of the paper's grid"] and found["schedule"] == ["cosine", "ours"]
    assert found["alpha"] == ["1, 8", "ours"]
    assert found["languages"] == ["none", "ours"] and found["lr"] == ["0.005", "ours"]


def test_settings_of_tasks_stand_beside_each_other():
    found = tables(study())["settings_tasks"]
    assert found == {"setting": ["ours", "tiny", "tiny", "tiny"], "limit": ["", "20", "20", "20"]}


def test_versions_that_differ_are_both_named():
    one, other = study(), study(versions={"torch": "2.11.0"})
    cells = [one.cells[0], *other.cells[1:]]
    assert tables(replace(one, cells=cells))["versions"] == {"torch": ["2.13.0, 2.11.0"]}


def test_settings_of_another_kind_are_no_error():
    tables(study(versions=[1], ours=3, limit={"a": 1}, setting="x" * 1000))


def test_a_study_without_cells_has_no_settings():
    assert settings_tables(replace(study(), cells=[], tasks=[])) == []
