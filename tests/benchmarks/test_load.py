"""The benchmark of a start: with a model just large enough for a packed copy, the code that measures a large one."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ledger, load

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_leaves_rows_and_table_in_its_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(load, "COLD", (True,))
    monkeypatch.setitem(load.VOCABULARY, "small", 100)
    known = ledger.LEDGER.read_bytes()
    load.main(["--size", "small", "--repeats", "1", "--out", str(tmp_path / "out")])
    assert ledger.LEDGER.read_bytes() == known
    with (tmp_path / "out" / "ledger.csv").open(newline="") as file:
        rows = {(row["kernel"], row["metric"]): float(row["median"]) for row in csv.DictReader(file)}
    first, second, theirs = (f"load {name}, cold" for name in load.STARTS)
    assert all(rows[case, "time"] > 0 for case in (first, second, theirs))
    assert rows[second, "bytes read"] < rows[first, "bytes read"] / 3.5
    ours, packed = rows[first, "anonymous memory that stays"], rows[second, "anonymous memory that stays"]
    assert 60 < packed < 1.1 * ours < rows[theirs, "peak anonymous memory"]
    table = (tmp_path / "out" / "load.txt").read_text()
    assert table in capsys.readouterr().out and table.count("cold") >= 6


def test_without_bitsandbytes_ours_is_measured_alone(monkeypatch, capsys):
    monkeypatch.setattr(load, "why_no_peers", lambda _: "ModuleNotFoundError: No module named 'bitsandbytes'")
    monkeypatch.setattr(load, "write_checkpoint", lambda *_: None)
    result = {"seconds": 2.0, "peak": 3 << 20, "stays": 2 << 20, "gpu_peak": 0, "held": 2 << 20}
    monkeypatch.setattr(load, "start", lambda name, *_: result)
    monkeypatch.setattr(ledger, "append", None)
    load.main(["--size", "small", "--repeats", "2", "--dry"])
    said = capsys.readouterr().out
    assert "skipped: ModuleNotFoundError" in said and "1.50" in said and "transformers, " not in said


MEASURE = """
import json, torch
from benchmarks import loaders

def make():
    torch.ones(16 << 20)  # gone when it returns
    return torch.nn.Linear(1024, 4096)

print(json.dumps(loaders.measure(make, torch.device("cpu"))))
"""


def test_the_peak_and_what_stays_are_above_what_was_there():
    """In a process of its own: one that has freed memory before takes it from there."""
    command = [sys.executable, "-c", MEASURE]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    assert found["held"] == 4 * 4096 * 1025
    assert 0.9 * found["held"] < found["stays"] < found["peak"]


def test_a_start_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)maple, first start failed: .*no such folder"):
        load.start(load.FIRST, tmp_path, "cpu")
