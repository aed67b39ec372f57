"""A whole run on the real model and real instructions: what it leaves behind, and what it refuses."""

import csv
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import maple
from maple import cli
from maple.errors import InputError
from maple.fit import fit
from maple.lora import lora_layers
from maple.loss import token_loss
from maple.tokenizer import load_tokenizer

# fmt: off
SUMMARY = [
    "model", "data", "rank", "bits", "alpha", "targets", "seed", "training_records", "steps",
    "tokens", "seconds", "trainable_parameters",
    "total_parameters", "trainable_percent", "base_bytes", "adapter_bytes", "peak_memory_bytes", "tokens_per_second",
    "train_loss_first", "train_loss_last", "val_loss_before", "val_loss_after", "val_loss_by_language",
    "exact_match_before", "exact_match_after", "exact_match_by_language", "versions",
]
# fmt: on
SHORT = {"max_steps": 6, "lr": 5e-3, "rank": 4, "batch_tokens": 1024, "max_length": 512}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Runs and caches of the test go to its own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(real, tmp_path):
    """The first 80 real records of each language whose prompts are short."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in sorted((real / "instruct" / "multialpaca").glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            short = (line for line in file if len(line) < 300)
            (folder / path.name).write_text("".join(itertools.islice(short, 80)), encoding="utf-8")
    return folder


def run(model, data, **settings):
    fit(**{"model": str(model), "data": str(data)} | SHORT | settings)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_both_languages_learn_at_every_bit_width(stories, data, tmp_path, bits, capsys):
    run(stories, data, bits=bits, max_steps=12, out="run", accumulate=2, dropout=0.05)
    out = tmp_path / "run"
    assert sorted(p.name for p in out.iterdir()) == [
        "adapter",
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "summary.json",
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary) == SUMMARY
    assert summary["bits"] == bits and summary["steps"] == 12 and summary["alpha"] == 4
    for losses in summary["val_loss_by_language"].values():
        assert losses["after"] < losses["before"] - 0.2
    assert set(summary["val_loss_by_language"]) == {"es", "pt"}
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == [str(step) for step in [0, *range(1, 13), 12]]
    assert float(rows[0]["val_loss/es"]) == summary["val_loss_by_language"]["es"]["before"]
    assert float(rows[-1]["val_loss/pt"]) == summary["val_loss_by_language"]["pt"]["after"]
    assert all(float(row["grad_norm"]) > 0 and float(row["learning_rate"]) > 0 for row in rows[1:-1])
    printed = capsys.readouterr().out
    assert all(
        words in printed for words in ("Validation", "exact match", "es", "pt", "Adapter: run/adapter", "answered:")
    )


def test_the_adapter_of_a_run_serves_ours_and_peft(stories, data):
    peft = pytest.importorskip("peft", reason="needs the peers extra")
    run(stories, data, bits=16, out="run", targets="attention", rslora=True)
    model = maple.load_model(str(stories), bits=16, rank=0)
    maple.load_adapter(model, "run/adapter")
    assert len(lora_layers(model)) == 20
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(stories), "run/adapter").eval()
    ids = torch.randint(3, 500, (2, 30))
    torch.testing.assert_close(model(ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-4)
    assert model(ids).logits.sub(maple.load_model(str(stories), bits=16, rank=0)(ids).logits).abs().max() > 0.1


def test_the_resolved_config_runs_again_to_the_same_bytes(stories, data):
    run(stories, data, dropout=0.1, accumulate=2)
    run(stories, data, dropout=0.1, accumulate=2)
    with pytest.raises(SystemExit) as leaving:
        cli.main(fit, ["--config", "runs/0001/config.yaml"])
    assert leaving.value.code == 0
    folders = [Path("runs") / name for name in ("0001", "0002", "0003")]
    adapters = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in folders]
    assert adapters[0] == adapters[1] == adapters[2]
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in folders[::2]]
    assert configs[0] == configs[1] and configs[0]["warmup_steps"] == 1 and configs[0]["alpha"] == 4


def test_another_seed_is_another_run(stories, data):
    run(stories, data, seed=1, max_steps=1)
    run(stories, data, seed=2, max_steps=1)
    one, two = (load_file(f"runs/000{n}/adapter/adapter_model.safetensors") for n in (1, 2))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_epochs_decide_where_max_steps_does_not(stories, data, tmp_path):
    run(stories, data / "pt.jsonl", max_steps=None, epochs=2, batch_tokens=8192, out="run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["val_loss_by_language"]) == {"pt"} and 2 <= summary["steps"] <= 8


def test_a_run_over_epochs_with_a_short_last_group_runs_again_from_its_config(stories, data):
    run(stories, data / "pt.jsonl", max_steps=None, epochs=1, batch_tokens=2048, accumulate=3)
    with pytest.raises(SystemExit):
        cli.main(fit, ["--config", "runs/0001/config.yaml"])
    one, two = ((Path("runs") / n / "adapter" / "adapter_model.safetensors").read_bytes() for n in ("0001", "0002"))
    assert one == two


def test_recompute_and_tensorboard(stories, data, tmp_path):
    run(stories, data, max_steps=2, recompute="layer", logger="tensorboard", out="run")
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_the_adapter_is_saved_before_anything_else_can_fail(stories, data, tmp_path, monkeypatch):
    from maple.summary import Sample

    shown = []

    def fails_the_second_time(self, trainer, module):
        assert next(module.model.parameters()).device == module.device
        shown.append(len(shown))
        if len(shown) == 2:
            raise RuntimeError("no sample today")

    monkeypatch.setattr(Sample, "on_validation_end", fails_the_second_time)
    with pytest.raises(RuntimeError, match="no sample today"):
        run(stories, data, out="run", max_steps=1)
    assert shown == [0, 1] and (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


def damaged_copy(stories, folder, change):
    folder.mkdir()
    for path in stories.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("bits", "name", "value", "words"),
    [
        (16, "model.layers.0.self_attn.q_proj.weight", math.nan, "tensor .*q_proj.weight holds NaN or inf"),
        (4, "model.norm.weight", math.inf, "tensor model.norm.weight holds NaN or inf"),
        (4, "model.layers.0.self_attn.q_proj.weight", 1e38, "its loss is .*nan.* before any training"),
    ],
)
def test_damaged_weights_stop_the_run_before_it_begins(stories, data, tmp_path, bits, name, value, words):
    model = damaged_copy(stories, tmp_path / "model", lambda tensors: tensors[name].fill_(value))
    with pytest.raises(InputError, match=words):
        run(model, data, bits=bits, out="run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_saves_no_adapter(stories, data, tmp_path):
    with pytest.raises(
        InputError,
        match=r"step \d: the .* is (nan|inf).*lower --lr 1.0.*last good checkpoint is run/checkpoints/step-0",
    ):
        run(stories, data, lr=1.0, alpha=1e30, out="run")
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_sample_that_makes_the_loss_no_number_is_named_by_file_and_line(stories, data, tmp_path, monkeypatch):
    lines = (data / "es.jsonl").read_text().splitlines()[:20]
    kept = [line for line in lines if "Z" not in line]
    bad = {"instruction": "Di algo con la letra", "input": "", "output": "Z Z Z"}
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / "es.jsonl").write_text("\n".join([*kept, json.dumps(bad)]) + "\n")
    (folder / "es.validation.jsonl").write_text("\n".join(kept[:3]) + "\n")
    token = load_tokenizer(stories)("Z", add_special_tokens=False)["input_ids"][-1]

    def overflows(model, batch):
        loss, tokens = token_loss(model, batch)
        return loss * (math.inf if (batch["labels"] == token).any() else 1), tokens

    for module in ("maple.module", "maple.guards"):
        monkeypatch.setattr(f"{module}.token_loss", overflows)
    words = rf"step 1: the loss is inf; of its \d+ samples these do it: .*few/es.jsonl:{len(kept) + 1}; the last good"
    with pytest.raises(InputError, match=words):
        run(stories, folder, out="run", accumulate=9)


def test_a_gradient_that_stays_zero_stops_the_run(stories, data, tmp_path):
    with pytest.raises(InputError, match=r"step 3: the gradient has been zero for 3 steps.* --alpha"):
        run(stories, data, alpha=1e-300, out="run")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())[-1] == "step-00000002"


def test_a_tokenizer_of_another_model_is_refused(stories, real, data, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in stories.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer.model").symlink_to(real / "tokenizers" / "mistral-7b-v0.1" / "tokenizer.model")
    with pytest.raises(InputError, match=r"makes id \d+ of the es data, its embedding has 512 rows"):
        run(folder, data, out="run")
    assert not (tmp_path / "run").exists()


def test_a_run_over_a_sample_whose_answer_holds_control_characters(stories, data, capsys):
    record = {"instruction": "\x1b]0;title\x07[red] [/INST] " + "y" * 40, "input": "", "output": "\x1b[31m[/]"}
    (data / "es.jsonl").write_text((json.dumps(record) + "\n") * 20)
    run(stories, data, max_steps=1)
    assert "\x1b]" not in capsys.readouterr().out


REFUSED = [
    ({"max_length": 600}, "--max-length 600 is more than the 512 positions"),
    (
        {"max_length": 64},
        r"es.jsonl:1: no supervised token is left, the prompt alone takes \d+ tokens; --max-length is 64",
    ),
    ({"batch_tokens": 256}, "--batch-tokens 256 is less than one row of --max-length 512"),
    ({"english_share": 0.5}, "the data has no English, only es, pt"),
    ({"template": "chat"}, "has no chat template; use --template alpaca"),
    ({"targets": "q_porj"}, "no linear layer is called 'q_porj'; did you mean 'q_proj'"),
    ({"rank": 0}, "--rank is 0, must be at least 1"),
    ({"dropout": 1.0, "seed": -1}, "--seed is -1, .*--dropout is 1.0"),
    ({"temperature": 0.5}, "--temperature is 0.5, must be at least 1"),
    ({"lr": float("nan")}, "--lr is nan"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED, ids=[words[:30] for _, words in REFUSED])
def test_wrong_input_is_refused_before_anything_is_written(stories, data, tmp_path, settings, words):
    with pytest.raises(InputError, match=words) as error:
        run(stories, data, out="run", **settings)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_a_gpu_that_is_not_there(stories, data):
    with pytest.raises(InputError, match="--device cuda: PyTorch finds no GPU"):
        run(stories, data, device="cuda")


def test_an_out_that_is_taken(stories, data, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="--out taken is not empty"):
        run(stories, data, out="taken")
    with pytest.raises(InputError, match="--out file is a file"):
        run(stories, data, out="file")
    with pytest.raises(InputError, match=r"nothing can be written in .*file"):
        run(stories, data, out="file/run")
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["thesis.txt"]


def test_a_model_whose_tokenizer_is_missing(stories, data, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(stories / name)
    with pytest.raises(InputError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        run(folder, data, out="run")
