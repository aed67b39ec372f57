"""The benchmark of a training step: on a CPU, with a small model, the code that a GPU runs with a large one."""

import csv
import weakref
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig

from benchmarks import ledger, train
from benchmarks.contestants import Contestant, ours, peers
from maple.lora import lora_layers

CPU = torch.device("cpu")
CONFIG = LlamaConfig(hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, vocab_size=500)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(train, "STEPS", 2)
    monkeypatch.setattr(train, "MATMUL_SECONDS", 0.01)


def test_a_run_leaves_rows_and_table_in_its_folder(quick, tmp_path, capsys):
    known = ledger.LEDGER.read_bytes()
    train.main(["--length", "64", "--rank", "4", "--out", str(tmp_path / "new" / "folder")])
    assert ledger.LEDGER.read_bytes() == known
    with (tmp_path / "new" / "folder" / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cases = {(row["kernel"], row["provider"].split()[0]) for row in rows if row["metric"] == "rate"}
    steps = {(f"train step {bits} bits, recompute {how}", "maple") for bits in (4, 8, 16) for how in ("none", "layer")}
    peft = {(f"train step 4 bits, recompute {how}", "peft") for how in ("none", "layer")}
    assert cases == {("matmul float32, one layer", "torch")} | steps | peft
    assert {row["shape"] for row in rows} == {"small r4 2x64"}
    assert all(float(row["median"]) > 0 for row in rows)
    assert not any("memory" in row["metric"] for row in rows)  # of a process with several models it says nothing
    table = (tmp_path / "new" / "folder" / "train.txt").read_text()
    assert table in capsys.readouterr().out and table.count("maple") >= 6


def test_a_dry_run_without_bitsandbytes_skips_the_peer_and_writes_nothing(quick, monkeypatch, capsys):
    monkeypatch.setattr(train, "BITS", (4,))
    monkeypatch.setattr(train, "why_no_peers", lambda device: "ModuleNotFoundError: No module named 'bitsandbytes'")
    monkeypatch.setattr(ledger, "append", None)
    train.main(["--length", "32", "--rank", "2", "--dry"])
    assert "skipped: ModuleNotFoundError" in capsys.readouterr().out


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_the_loss_before_training_is_that_of_random_weights_and_the_step_trains(bits):
    contestant = ours(CONFIG, bits, 4, CPU, torch.float32)
    batch = train.make_batch(CONFIG, 2, 64, CPU)
    assert len(lora_layers(contestant.model)) == 14
    assert (batch["labels"] >= 0).all() and batch["tokens"] == 128
    arguments = SimpleNamespace(dry=True, out=None)
    report = train.Report("small", 128, CONFIG, torch.float32, arguments)
    assert report.parameters == 2 * (4 * 128 * 128 + 3 * 128 * 192)
    contestant.step(batch)
    contestant.recompute()
    contestant.step(batch)
    assert contestant.first_loss == pytest.approx(report.expected_loss, abs=0.05)
    assert contestant.update(batch) < contestant.first_loss
    assert all(layer.lora_b.any() for layer in lora_layers(contestant.model).values())


def test_both_contestants_take_the_same_first_steps():
    batch = train.make_batch(CONFIG, 2, 64, CPU)
    mine, theirs = ours(CONFIG, 4, 4, CPU, torch.float32), peers(CONFIG, 4, CPU, torch.float32)
    pairs = [
        (module.lora_A.default, module.lora_B.default) for module in theirs.model.modules() if hasattr(module, "lora_A")
    ]
    for layer, (a, b) in zip(lora_layers(mine.model).values(), pairs, strict=True):
        a.weight.data.copy_(layer.lora_a)
        assert not b.weight.any()
    for step in range(4):
        if step == 2:
            mine.recompute(), theirs.recompute()
        # a few of its nested absmax codes are not the nearest on a CPU
        assert mine.update(batch) == pytest.approx(theirs.update(batch), rel=1e-4)


def test_the_models_of_one_bit_width_are_gone_before_the_next(quick):
    kept = []

    def build():
        contestant = ours(CONFIG, 8, 4, CPU, torch.float32)
        kept.append(weakref.ref(contestant.model))
        return contestant

    report, console = train.Report("small", 64, CONFIG, torch.float32, SimpleNamespace(dry=True, out=None)), Console()
    report.measure_ceiling(CPU)
    train.compare(8, {"maple": build}, train.make_batch(CONFIG, 1, 64, CPU), CPU, report, console)
    train.free()
    assert kept[0]() is None


def test_out_of_memory_is_told_in_its_row_and_stops_nobody(capsys):
    def fails(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    contestants = {
        "maple": Contestant("maple", torch.nn.Linear(1, 1), None, fails),
        "peft": Contestant("peft 1", torch.nn.Linear(1, 1), None, lambda _: 7.0),
        "unbuilt": train.enter(lambda: fails(None)),
    }
    results = train.take_turns(contestants, {}, CPU)
    assert [len(result.seconds) for result in results.values()] == [0, train.STEPS, 0]
    report = train.Report("small", 128, CONFIG, torch.float32, SimpleNamespace(dry=True, out=None))
    report.measure_ceiling(CPU)
    report.add(4, "none", contestants, results)
    columns = {column.header: list(column.cells) for column in report.table.columns}
    assert columns["tokens/s"][0] == columns["tokens/s"][2] == "out of memory"
    assert columns["loss"] == ["", "7.000", ""]


def test_the_peak_is_the_contestants_own(monkeypatch):
    """The calls of a GPU, played: another model holds 1,000 bytes, the step keeps 20 more and goes 300 above."""
    memory = SimpleNamespace(now=1000 + 50)
    events = iter(range(100))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = next(events)

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return 1e3 * (end.time - self.time)

    played = {
        "memory_allocated": lambda: memory.now,
        "max_memory_allocated": lambda: memory.now + 280,
        "reset_peak_memory_stats": lambda: None,
        "synchronize": lambda: None,
        "Event": Event,
    }
    for name, function in played.items():
        monkeypatch.setattr(torch.cuda, name, function)

    def update(_):
        memory.now += 20
        return 1.0

    contestant, result = Contestant("maple", torch.nn.Linear(1, 1), None, update, held=50), train.Result()
    train.turn(contestant, result, {}, torch.device("cuda"))
    assert (result.seconds, result.peak, contestant.held) == ([1.0], 350, 70)
