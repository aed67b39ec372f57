"""Runs a lesson as its reader does, but in this process, so that what it teaches can be broken on purpose."""

import runpy
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

LESSONS = Path(__file__).resolve().parents[3] / "maple" / "lessons"


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Runs a lesson, by its name without .py, in an empty folder; returns its picture."""
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")

    def run_one(name: str) -> Path:
        try:
            runpy.run_path(str(LESSONS / f"{name}.py"), run_name="__main__")
        finally:
            plt.close("all")
        return tmp_path / "runs" / "lessons" / f"{name}.png"

    return run_one
