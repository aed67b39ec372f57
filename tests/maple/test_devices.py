"""One step on two processes is the step on one: the same tokens, the same mean, the same adapter on each rank."""

import csv
import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from maple import cli, ranks, tiny
from maple.checkpoint import steps
from maple.data.instructions import Instructions
from maple.data.sources import open_source
from maple.data.tokens import Limits
from maple.device import check_count
from maple.errors import InputError
from maple.fit import fit
from maple.lora import lora_parameters
from maple.outputs import own_flags
from maple.run import Run
from maple.sharded import whole
from maple.tokenizer import load_tokenizer
from tests.ranks import Forks, of_slurm, of_torchrun
from tests.tiny_data import write_tiny_data

FLAGS = ["--rank", "4", "--dropout", "0.1", "--batch-tokens", "256", "--max-length", "128", "--lr", "0.005"]
FLAGS += ["--device", "cpu"]
# Sums of float32 in another order, through a few steps of AdamW: seen were 1e-6.
CLOSE = 2e-5
WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data of two languages, and a cache of its own."""
    folder = tmp_path_factory.mktemp("world")
    write_tiny_data(folder / "data", ("en", "sw"), 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setattr("maple.checkpoint.KEPT", 99)
        torch.set_num_threads(1)
        yield folder


def notes_its_adapter(train):
    """Each rank writes down what it trained, before rank 0's is written."""

    def noting(self, *arguments):
        train(self, *arguments)
        digest = hashlib.sha256()
        for _, parameter in lora_parameters(self.model):
            digest.update(whole(parameter.detach()).numpy().tobytes())
        (self.out / f"trained-{ranks.here().number}").write_text(digest.hexdigest())

    return noting


def start(world, name, *flags, count=2, names=of_torchrun, before=lambda: None) -> Forks:
    """The run in a folder of that name, in so many processes."""
    begin = [] if "--resume" in flags else [*FLAGS, "--data", str(world / "data")]

    def work():
        before()
        Run.train = notes_its_adapter(Run.train)
        cli.main(fit, [*begin, "--out", str(world / name), *flags], under=own_flags)

    return Forks(work, world / f"{name}.logs", count, names)


def run(world, name, *flags, **settings) -> Path:
    forks = start(world, name, *flags, **settings)
    assert set(forks.wait()) == {0}, forks.said()
    assert "Traceback" not in forks.said()
    return world / name


def rows(out) -> list[list[float]]:
    """Step, tokens, loss, learning rate, gradient norm and what was validated, of each row."""
    with (out / "metrics.csv").open() as file:
        found = [list(row.values()) for row in csv.DictReader(file)]
    return [[float(value) for value in row[:5] + row[7:] if value] for row in found]


def assert_close(one: list[list[float]], two: list[list[float]]) -> None:
    assert len(one) == len(two) > 3
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=CLOSE, abs=1e-9)


@pytest.mark.parametrize(("bits", "recompute"), [(4, "none"), (8, "layer"), (16, "none")])
def test_the_curve_is_the_same_on_one_device_and_on_two(world, bits, recompute):
    flags = ["--bits", str(bits), "--recompute", recompute, "--checkpoint-every", "1" if bits == 4 else "99"]
    one = rows(run(world, f"one-{bits}", *flags, "--accumulate", "4", count=1))
    for strategy in ("ddp", "fsdp"):
        out = run(world, f"{strategy}-{bits}", *flags, "--accumulate", "2", "--strategy", strategy)
        assert_close(one, rows(out))
        assert len({(out / f"trained-{rank}").read_text() for rank in range(2)}) == 1
        summary = json.loads((out / "summary.json").read_text())
        assert summary["steps"] == len(one) - 2 and (out / "adapter" / "adapter_config.json").exists()
        done = json.loads((steps(out / "checkpoints")[-1] / "state.json").read_text())["micro_batches"]
        assert done % 2 == 1, "in the last round one rank has no micro-batch"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_resume_is_exact(world, strategy):
    whole_run = world / f"{strategy}-4"
    out = Path(shutil.copytree(whole_run, world / f"{strategy}-resumed"))
    for path in steps(out / "checkpoints")[3:]:
        shutil.rmtree(path)
    shutil.rmtree(out / "adapter")
    (out / "summary.json").unlink()
    run(world, out.name, "--resume")
    assert (out / WEIGHTS).read_bytes() == (whole_run / WEIGHTS).read_bytes()
    assert rows(out) == rows(whole_run)


def test_every_step_has_the_same_micro_batches_however_many_ranks_there_are(world):
    def steps_of(count, accumulate):
        """The places of the micro-batches that have any tokens, step by step, and what ends each."""
        found, lasts = {}, {}
        for rank in range(count):
            data = instructions(world)
            data.deal(rank, count)
            batches = list(data.batches)
            assert len(batches) == len(data.batches) == -(-data.batches.total // count)
            for number, batch in enumerate(batches):
                step = number // accumulate
                found.setdefault(step, set()).update([(batch["place"], batch["seed"])] if batch["tokens"] else [])
                lasts.setdefault(step, set()).add(batch["last"]) if (number + 1) % accumulate == 0 else None
        assert all(len(last) == 1 for last in lasts.values())
        return found

    assert steps_of(1, 6) == steps_of(2, 3) == steps_of(3, 2) == steps_of(6, 1)


def instructions(world) -> Instructions:
    settings = {"seed": 0, "temperature": 1.0, "english_share": None, "language_cap": None, "epochs": 2}
    source, tokenizer = open_source(str(world / "data"), None), load_tokenizer(tiny.BASE)
    limits = Limits(128, 512)
    return Instructions(
        source, tokenizer, template="alpaca", limits=limits, batch_tokens=256, micro_batches=None, **settings
    )


def overflows():
    """The loss of whatever holds a Z is infinite."""
    import maple.guards
    import maple.module

    original, token = maple.module.token_loss, load_tokenizer(tiny.BASE)("Z", add_special_tokens=False)["input_ids"][-1]

    def infinite(model, batch):
        loss, tokens = original(model, batch)
        return loss * (math.inf if (batch["labels"] == token).any() else 1), tokens

    maple.module.token_loss = maple.guards.token_loss = infinite


@pytest.mark.parametrize(("strategy", "words"), [("ddp", r"these do it: \S+en.jsonl:31; "), ("fsdp", "--strategy ddp")])
def test_a_loss_that_is_no_number_is_told_once(world, strategy, words):
    data = Path(shutil.copytree(world / "data", world / f"data-{strategy}"))
    with (data / "en.jsonl").open("a") as file:
        file.write(json.dumps({"instruction": "Say", "input": "", "output": "Z"}) + "\n")
    name = f"nan-{strategy}"
    flags = ["--data", str(data), "--strategy", strategy, "--accumulate", "3", "--checkpoint-every", "1"]
    forks = start(world, name, *flags, before=overflows)
    assert forks.wait() == [2, 2], forks.said()
    said = [line for line in forks.said().splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "Traceback" not in forks.said()
    assert re.search(rf"error: step \d: the gradient's norm is (nan|inf); .*{words}", said[0])
    assert "the last good checkpoint is" in said[0]


def test_srun_is_as_good_as_torchrun_and_leaves_no_checkpoint_of_lightnings(world):
    out = run(world, "slurm", "--accumulate", "2", "--checkpoint-every", "1", names=of_slurm)
    assert (out / WEIGHTS).read_bytes() == (world / "ddp-4" / WEIGHTS).read_bytes()
    assert not list(out.rglob("*.ckpt")) and not (out / "none").exists()


def test_a_run_of_two_is_not_gone_on_with_on_one(world):
    out = Path(shutil.copytree(world / "slurm", world / "fewer"))
    (out / "summary.json").unlink()
    forks = start(world, "fewer", "--resume", "--devices", "1", count=1)
    assert forks.wait() == [2] and "devices 2, now 1" in forks.said()


def fails_on_rank_1():
    if ranks.here().number == 1:

        def broken(*_):
            raise InputError("its memory is broken")

        Run.load = broken


@pytest.mark.parametrize(
    ("name", "flags", "before", "words"),
    [
        ("unequal", ["--devices", "3"], lambda: None, "error: --devices is 3, but torchrun started 2 processes"),
        ("no-data", ["--data", "nowhere.jsonl"], lambda: None, "nowhere.jsonl"),
        ("one-fails", [], fails_on_rank_1, "error: its memory is broken"),
    ],
)
def test_one_of_them_says_what_is_wrong(world, name, flags, before, words):
    forks = start(world, name, *flags, before=before)
    assert set(forks.wait()) <= {1, 2} and "Traceback" not in forks.said()
    lines = [line for line in forks.said().splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and words in lines[0]
    assert not (world / name).exists() or not any((world / name).iterdir())


# ----------------------------------------------------------------------------------------------------------------------


def asked(**settings) -> dict:
    return {"devices": None, "strategy": "auto", "rank": 8} | settings


@pytest.mark.parametrize(
    ("environment", "settings", "words"),
    [
        ({}, {"strategy": "fsdp"}, "--strategy fsdp is for several devices; add --devices, or leave it away"),
        ({}, {"strategy": "ddp", "devices": 1}, "--strategy ddp is for several devices"),
        ({}, {"strategy": "fsdp", "devices": 16}, "cannot share A, of --rank 8 rows, among 16 devices; give a rank"),
        (of_torchrun(0, 4, 1), {"devices": 2}, "--devices is 2, but torchrun started 4 processes; give 4"),
        (of_slurm(0, 4, 1), {"devices": 2}, "--devices is 2, but SLURM started 4 processes"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, {}, "ask for --ntasks-per-node"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_sentence(monkeypatch, environment, settings, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as error:
        ranks.check_devices(asked(**settings))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_what_is_not_said_comes_from_whoever_started_the_processes(monkeypatch):
    arguments = asked()
    ranks.check_devices(arguments)
    assert arguments["devices"] == 1
    monkeypatch.setenv("SLURM_NTASKS", "1")  # a job of one task is one process
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert ranks.here() == (0, 1, 0, 1)
    for name, value in of_torchrun(1, 4, 1).items():
        monkeypatch.setenv(name, value)
    arguments = asked()
    ranks.check_devices(arguments)
    assert arguments["devices"] == 4 and not ranks.is_first()


def test_more_devices_than_there_are(monkeypatch):
    cores = ranks.cores()
    with pytest.raises(InputError, match=rf"{cores + 1} devices .* which has {cores} core.*give --devices {cores}"):
        check_count("cpu", cores + 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"8 devices .* which has 1 GPU; give --devices 1 or --device cpu"):
        check_count("auto", 8)


@pytest.mark.parametrize("flags", [["--devices", "99"], ["--devices", "0"], ["--strategy", "fsdp"]])
def test_the_command_refuses_before_it_writes(tmp_path, capsys, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        cli.main(fit, ["--device", "cpu", *flags])
    said = capsys.readouterr().err
    assert leaving.value.code == 2 and said.count("\n") == 1 and not list(tmp_path.iterdir())
