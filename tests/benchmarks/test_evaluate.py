"""The benchmark of likelihood scoring asks both the same, and writes what it measures."""

import csv

import pytest

from benchmarks import evaluate, ledger
from maple.evaluation.data import read_examples
from maple.tasks import find


@pytest.fixture
def small(monkeypatch):
    """One round of the small model on two examples a task."""
    monkeypatch.setattr(evaluate, "COUNTS", {"stories260k": (2, 2, 2)})
    monkeypatch.setattr(evaluate, "ROUNDS", 1)
    monkeypatch.setattr(evaluate, "BATCHES", (2, 4))


def test_every_choice_is_a_request_of_the_harness(real):
    examples, _ = read_examples(find("xcopa"), "it", "test", str(real / "tasks"), 3)
    requests = evaluate.of_harness(find("xcopa"), examples)
    assert [request.idx for request in requests] == [0, 1] * 3
    assert requests[1].args == ("L'oggetto era incartato nella plastica bollata perché", " era piccolo.")


def test_a_run_leaves_a_table_and_rows_of_the_ledger(real, small, tmp_path, monkeypatch, capsys):
    path, append = tmp_path / "ledger.csv", ledger.append
    monkeypatch.setattr(ledger, "append", lambda *row: append(*row, path=path))
    evaluate.main(["--data-dir", str(real / "tasks"), "--model", str(real / "models" / "stories260k")])
    printed = capsys.readouterr().out
    assert all(task in printed for task in evaluate.CASES)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["provider"] for row in rows] == ["maple", evaluate.PEER] * 3
    assert all(float(row["median"]) > 0 for row in rows)


def test_a_dry_run_writes_nothing(real, small, monkeypatch):
    monkeypatch.setattr(ledger, "append", None)
    evaluate.main(["--dry", "--data-dir", str(real / "tasks"), "--model", str(real / "models" / "stories260k")])
