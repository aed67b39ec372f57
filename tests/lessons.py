"""Runs a lesson as its reader does, in this process or in a copy, where what it teaches can be broken on purpose."""

import json
import os
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from kernels import naive

PROJECT = Path(__file__).resolve().parents[1]
LESSONS = PROJECT / "maple" / "lessons"

# In place of benchmarks/codegen.py, where a test is not about what is compiled.
COMPILED = {"registers": 118, "stack": 0, "shared": 24576, "wgmma": 8, "wgmma from registers": 8}
NO_COMPILER = f"print({json.dumps({'targets': {'sm_90': {'linear nf4 bf16 M=16': COMPILED}}})!r})\n"


@pytest.fixture
def changed(tmp_path):
    """Copies what the lesson teaches and changes a text in one of its files; gives the environment to run it in."""

    def change(file="", old="", new="", compiling=False):
        for name in ("kernels", "benchmarks"):
            shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
        if not compiling:
            (tmp_path / "benchmarks" / "codegen.py").write_text(NO_COMPILER)
        if file:
            text = (tmp_path / file).read_text()
            assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
            (tmp_path / file).write_text(text.replace(old, new))
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        return environment | {"PYTHONPATH": str(tmp_path), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}

    return change


def process(command, environment, folder, commands=""):
    """Run it, with these lines typed."""
    return subprocess.run(command, env=environment, cwd=folder, input=commands, capture_output=True, text=True)


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
            for cached in (naive._bins, naive._pairs):  # of a table that a test may have changed
                cached.cache_clear()
        return tmp_path / "runs" / "lessons" / f"{name}.png"

    return run_one
