"""The benchmark of decoding: on a CPU, with a tiny model, the code that a GPU runs with a large one."""

import csv
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig

from benchmarks import decode, ledger
from benchmarks.contestants import Case, packed_by_maple

CPU = torch.device("cpu")
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = LlamaConfig(**SIZES, vocab_size=500)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(decode.SIZES, "small", SIZES)
    monkeypatch.setitem(decode.BATCHES, "small", (1, 3))
    monkeypatch.setitem(decode.LENGTHS, "small", (4, 9))
    monkeypatch.setattr(decode, "ROUNDS", 2)


def test_a_run_leaves_rows_and_table_in_its_folder(quick, tmp_path, capsys):
    known = ledger.LEDGER.read_bytes()
    decode.main(["--out", str(tmp_path / "new" / "folder")])
    assert ledger.LEDGER.read_bytes() == known
    with (tmp_path / "new" / "folder" / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cases = [(row["kernel"], row["provider"].split()[0]) for row in rows]
    whom = {4: ("maple", "transformers"), 8: ("maple",), 16: ("maple", "transformers")}
    assert cases == [(f"decode {bits} bits, batch {b}", name) for bits in whom for b in (1, 3) for name in whom[bits]]
    assert {("bitsandbytes" in row["provider"]) for row in rows if row["kernel"].startswith("decode 4")} == {
        True,
        False,
    }
    assert {(row["shape"], row["metric"], row["unit"]) for row in rows} == {("small 4+8", "rate", "tokens/s")}
    assert all(float(row["median"]) > 0 for row in rows)
    assert (tmp_path / "new" / "folder" / "decode.txt").read_text() in capsys.readouterr().out


def test_a_dry_run_without_bitsandbytes_skips_the_peer_and_writes_nothing(quick, monkeypatch, capsys):
    monkeypatch.setattr(decode, "BITS", (4,))
    monkeypatch.setattr(decode, "why_no_peers", lambda device: "ModuleNotFoundError: No module named 'bitsandbytes'")
    monkeypatch.setattr(ledger, "append", None)
    decode.main(["--dry"])
    assert "skipped: ModuleNotFoundError" in capsys.readouterr().out


@pytest.mark.parametrize(("bits", "static"), [(4, False), (16, False), (16, True)])
def test_both_contestants_write_the_same_tokens(bits, static):
    case = Case(CONFIG, bits, CPU, torch.float32)
    mine = decode.ours(case, 2, 40)
    peer = decode.theirs(case, static, 40)
    prompts = [list(range(16)), list(range(100, 116))]  # the same in every run: random weights are not sure of a token
    for _ in range(2):  # the second call finds both caches used
        made, expected = mine.generate(prompts, 12), peer.generate(prompts, 12)[:, 16:].tolist()
    # a few of its nested absmax codes are not the nearest on a CPU, so a later token may be another
    shown = 12 if bits == 16 else 1
    assert [text[:shown] for text in made] == [text[:shown] for text in expected]
    assert all(len(text) == 12 for text in [*made, *expected])


def test_a_rate_is_that_of_the_steps_between_the_two_calls(monkeypatch):
    """A played clock: reading the prompts takes 10 s, each further token 0.5 s."""
    monkeypatch.setattr(decode, "seconds", lambda call, device: call())
    contestant = decode.Contestant("maple", None, lambda prompts, new: 10 + 0.5 * (new - 1))
    for _ in range(2):
        decode.take_turns({"maple": contestant}, 8, 4, 33, 100, CPU)
        assert contestant.rates == pytest.approx([8 / 0.5] * decode.ROUNDS)


def test_the_limit_is_the_bytes_of_layers_and_head_at_the_rate_of_a_copy(monkeypatch):
    model = packed_by_maple(Case(CONFIG, 8, CPU, torch.float32))
    layers = 2 * (4 * 128 * 128 + 3 * 128 * 192)
    absmax = 4 * 2 * (4 * 128 + 2 * 192 + 128)
    assert decode.bytes_of_a_step(model) == layers + absmax + 4 * 500 * 128
    monkeypatch.setattr(decode, "limits", lambda device: {"GB/s": 2 * decode.bytes_of_a_step(model) / 1e9})
    report = decode.Report("small", torch.device("cuda"), SimpleNamespace(dry=True, out=None))
    report.add(8, 4, {"maple": decode.Contestant("maple", model, None, [2.0])})  # the limit: 2 steps/s of 4 tokens
    assert [list(column.cells) for column in report.table.columns][-2] == ["25%"]
