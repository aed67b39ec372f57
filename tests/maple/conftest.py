"""A study, finished once and copied by whoever harms it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.studies import run, write
from tests.tiny_data import write_tiny_data


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> str:
    """A folder of records in two languages. Not to be changed."""
    return str(write_tiny_data(tmp_path_factory.mktemp("of-cells") / "data", ("en", "de"), 40))


@pytest.fixture(scope="session")
def finished(tmp_path_factory, data) -> Path:
    """The folder of a finished study: a base and two adapters. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    assert run(write(folder, data), folder / "study") == 0
    return folder / "study"


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "study"))


@pytest.fixture
def at(tmp_path, data, monkeypatch) -> SimpleNamespace:
    """An empty folder to be in, where a study goes, and its data."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return SimpleNamespace(here=tmp_path / "here", out=tmp_path / "study", data=data)
