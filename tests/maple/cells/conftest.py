"""A study of two languages and four steps, finished once and copied by whoever harms it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from maple import cli
from maple.cells.grid import plan, read_study
from maple.cells.job import Job
from maple.study import study
from tests.tiny_data import write_tiny_data

FIT = {"max_steps": 4, "batch_tokens": 256, "max_length": 128, "recompute": "none", "device": "cpu"}
EVALUATE = {"tasks": "xnli,xquad", "languages": "en,it", "limit": 2}
GRID = {"rank": [1, 4]}


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


def write(folder: Path, data: str, name: str = "study.yaml", **sections) -> Path:
    """The YAML of a study; `sections` lie over those of the finished one, fit and evaluate flag by flag."""
    config = {"fit": {"data": data, **FIT}, "grid": GRID, "evaluate": EVALUATE}
    for section, value in sections.items():
        config[section] = config[section] | value if section in ("fit", "evaluate") else value
    path = folder / name
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def run(config: Path | None, out: Path, *flags: str) -> int:
    """Exit code of the command in this process."""
    try:
        cli.main(study, [*(["--config", str(config)] if config else []), "--out", str(out), *flags])
    except SystemExit as leaving:
        return leaving.code


def jobs_in(out: Path) -> list[Job]:
    """The jobs of a study, in their order."""
    settled = plan(read_study(out / "study.yaml"))
    return [Job(out, cell, settled.evaluate, settled.bookkeeping) for cell in settled.cells]


def job_of(out: Path, rank: int) -> Job:
    """The first of a rank; 0 is a base."""
    return next(job for job in jobs_in(out) if job.cell.rank == rank)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files of a folder, and when they were written."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
