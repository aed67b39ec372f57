"""The benchmark of a training step: on a CPU, with a small model, the code that a GPU runs with a large one."""

import csv
import weakref

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from benchmarks import contestants, ledger, train
from benchmarks.contestants import MAPLE, PEFT, PROVIDERS, UNSLOTH, Case, Contestant
from benchmarks.train_report import Report, Row
from maple.lora import lora_layers
from tests.tiny_data import write_tiny_data

CPU = torch.device("cpu")
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = LlamaConfig(**SIZES, vocab_size=500)
RANDOM = np.random.default_rng(0)
SAMPLES = [(RANDOM.integers(500, size=n), p) for n, p in ((9, 4), (30, 12), (5, 1))]


def a_case(bits=4, recompute="none"):
    return Case(CONFIG, bits, CPU, torch.float32, recompute)


def attach(name, case, rank=4):
    return PROVIDERS[name].attach(case, PROVIDERS[name].base(case), rank)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(train, "STEPS", 2)
    monkeypatch.setattr(train, "BATCHES", 4)
    monkeypatch.setattr(train, "MATMUL_SECONDS", 0.01)
    monkeypatch.setitem(train.SIZES, "60M", SIZES)


def test_a_run_leaves_rows_table_and_pictures_in_its_folder(quick, tmp_path, capsys):
    known = ledger.LEDGER.read_bytes()
    folder = tmp_path / "new" / "folder"
    train.main(["--length", "64", "--ranks", "2,4", "--out", str(folder)])
    assert ledger.LEDGER.read_bytes() == known
    with (folder / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    measured = {(row["kernel"], row["provider"].split(" 0")[0]) for row in rows if row["metric"] == "rate"}
    cases = [(bits, rank) for bits in (4, 8, 16) for rank in (2, 4)]
    assert measured == {
        (f"train step {bits} bits r{rank}, recompute none", name)
        for bits, rank in cases
        for name in PROVIDERS
        if bits in PROVIDERS[name].bits
    }
    assert {row["shape"] for row in rows} == {"60M 1x64"}
    assert all(float(row["median"]) > 0 for row in rows)
    table = (folder / "train.txt").read_text()
    assert table in capsys.readouterr().out and table.count("│ maple ") == 6
    assert (folder / "train_speed.png").stat().st_size > 10_000
    assert (folder / "train_memory.png").stat().st_size > 10_000


def test_real_samples_are_padded_for_the_others_and_packed_for_us(quick, tmp_path, capsys):
    write_tiny_data(tmp_path / "data", ("en", "de"), 20)
    flags = ["--data", str(tmp_path / "data"), "--tokenizer", str(train.Path("maple/tiny/base"))]
    train.main([*flags, "--samples", "3", "--ranks", "2", "--bits", "4", "--dry"])
    assert "60M data 3 samples" in capsys.readouterr().out


def test_a_dry_run_without_bitsandbytes_skips_the_peers_and_writes_nothing(quick, monkeypatch, capsys):
    monkeypatch.setattr(train, "why_no_peers", lambda device: "ModuleNotFoundError: No module named 'bitsandbytes'")
    monkeypatch.setattr(ledger, "append", None)
    train.main(["--length", "32", "--ranks", "2", "--bits", "4", "--dry"])
    out = capsys.readouterr().out
    assert "skipped: ModuleNotFoundError" in out and "peft │" not in out


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("recompute", ["none", "layer"])
def test_the_first_loss_is_that_of_random_weights_and_every_contestant_trains(name, recompute):
    for bits in PROVIDERS[name].bits:
        contestant = attach(name, a_case(bits, recompute))
        batch = (train.packed, train.padded)[name != MAPLE](SAMPLES * 4)
        contestant.step(batch)
        # logits of random weights behind a norm are normal, with the variance hidden * STD^2
        expected = np.log(500) + 128 * contestants.STD**2 / 2
        assert contestant.first_loss == pytest.approx(expected, abs=0.1)
        assert [contestant.update(batch) for _ in range(3)][-1] < contestant.first_loss


def test_all_contestants_take_the_same_first_steps():
    """With the same A, packed or padded, they have the same losses."""
    mine = attach(MAPLE, a_case())
    for name in (PEFT, UNSLOTH):
        mine, theirs = attach(MAPLE, a_case()), attach(name, a_case())
        layers = lora_layers(mine.model).values()
        for layer, a in zip(layers, theirs.parameters[::2], strict=True):
            layer.lora_a.data.copy_(a)
        for _ in range(4):
            ours, others = mine.update(train.packed(SAMPLES)), theirs.update(train.padded(SAMPLES))
            # a few of its nested absmax codes are not the nearest on a CPU
            assert ours == pytest.approx(others, rel=2e-4), name


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_base_gets_one_rank_after_the_other(name):
    case, provider = a_case(), PROVIDERS[name]
    base = provider.base(case)
    for rank in (2, 8):
        contestant = provider.attach(case, base, rank)
        assert sum(p.numel() for p in contestant.parameters) == rank * 2 * (4 * 256 + 3 * 320)
        contestant.step((train.packed, train.padded)[name != MAPLE](SAMPLES))
        provider.detach(base)


def test_the_models_of_one_bit_width_are_gone_before_the_next(quick, monkeypatch):
    kept, base = [], PROVIDERS[MAPLE].base

    def build(case):
        model = base(case)
        kept.append(weakref.ref(model))
        return model

    monkeypatch.setitem(PROVIDERS, MAPLE, PROVIDERS[MAPLE]._replace(base=build))
    report = Report("small", "none", CONFIG, 1e9)
    train.measure(a_case(8), [MAPLE], [4], [(train.packed(SAMPLES),) * 2] * 4, report)
    train.free()
    assert kept[0]() is None and len(report.rows[0].seconds) == 2


def test_out_of_memory_is_told_in_its_row_and_stops_nobody():
    def fails(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    running = {
        MAPLE: Contestant(MAPLE, torch.nn.Linear(1, 1), fails, []),
        PEFT: Contestant("peft 1", torch.nn.Linear(1, 1), lambda _: 7.0, []),
        UNSLOTH: train.attempt(lambda: fails(None)),
    }
    assert list(train.take_turns(running, [({}, {})] * 5, CPU)) == [PEFT]
    report = Report("small", "none", CONFIG, 1e9)
    report.add(Row(4, 8, MAPLE))
    assert list(report.tables()[0].columns[3].cells) == ["out of memory"]


def test_the_figures_of_a_row():
    row = Row(4, 8, PEFT, "peft 1", [2.0, 1.0, 4.0], [1.0, 1.0, 1.0], [(100, 10)] * 3, trained=1000)
    assert row.tokens == [50, 100, 25] and row.supervised == [5, 10, 2.5] and row.ratio == 2.0
    report = Report("small", "none", CONFIG, rate=1e9)
    layers = 2 * (4 * 128 * 128 + 3 * 128 * 192)
    assert report.mfu(row) == pytest.approx((50 * (4 * layers + 6 * 1000) + 5 * 4 * 500 * 128) / 1e9)


def test_the_parts_add_up_to_what_is_measured():
    """A step of packed samples: prediction and counted tensors are the same code."""
    contestant = attach(MAPLE, a_case(4), rank=2)
    batch = train.packed(SAMPLES * 4)
    for _ in range(2):
        contestant.step(batch)
    parts = train.predicted(a_case(4), 2, batch)
    measured = train.peak(contestant, MAPLE, [(batch, batch)], CPU)
    assert sum(parts.values()) == pytest.approx(measured, rel=0.01)
    report = Report("small", "none", CONFIG, 1e9)
    report.add(Row(4, 2, MAPLE, MAPLE, [1.0], None, [(10, 5)], measured, 100, 1.0, parts))
    assert [column.header for column in report.tables()[1].columns][2:-2] == list(parts)


def test_a_peak_counts_a_model_its_optimizer_and_a_step():
    contestant = attach(MAPLE, a_case(16), rank=2)
    batch = train.packed(SAMPLES)
    for _ in range(2):
        contestant.step(batch)
    found = train.peak(contestant, MAPLE, [(batch, batch)], CPU)
    model = sum(t.nbytes for t in {id(p): p for p in contestant.model.parameters()}.values())
    lora = sum(p.nbytes for p in contestant.parameters)
    assert model + 3 * lora < found < 2 * model  # gradients and two averages
