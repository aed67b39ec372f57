"""A whole run from names alone, in a process of its own, against a hub on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fake_hub import COMMIT, FakeHub, Repository

MODEL = "karpathy/stories260k"
SHORT = ["--rank", "4", "--max-steps", "2", "--batch-tokens", "1024"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def served(stories, real):
    """The real model, and the first short records of the real MultiAlpaca in Spanish and Portuguese."""
    model = {path.name: path.read_bytes() for path in stories.iterdir()}
    lines = {path.name: path.read_bytes().splitlines(True) for path in (real / "instruct" / "multialpaca").iterdir()}
    data = {name: b"".join([line for line in every if len(line) < 300][:80]) for name, every in lines.items()}
    with FakeHub({MODEL: Repository(model), "datasets/DAMO-NLP-MT/multialpaca": Repository(data)}) as fake:
        yield fake


def run(hub, tmp_path, *argv):
    folders = {"HF_HOME": str(tmp_path / "hub"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = os.environ | folders | {"HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "maple.fit", *argv]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_a_run_from_names_and_again_from_its_config_without_a_hub(served, tmp_path):
    names = ["--model", MODEL, "--data", "multialpaca", "--languages", "pt,es"]
    first = run(served, tmp_path, *names, "--out", "one", *SHORT)
    assert first.returncode == 0, first.stderr
    config = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    assert (config["revision"], config["data"], config["languages"]) == (COMMIT, f"multialpaca@{COMMIT}", "pt,es")
    adapter = json.loads((tmp_path / "one" / "adapter" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (MODEL, COMMIT)
    served.__exit__()
    second = run(served, tmp_path, "--config", "one/config.yaml", "--out", "two")
    assert second.returncode == 0, second.stderr
    weights = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_a_gated_model_ends_a_run_with_one_sentence_and_exit_code_2(served, tmp_path):
    served.repositories[MODEL].status, served.repositories[MODEL].error_code = 403, "GatedRepo"
    result = run(served, tmp_path, "--model", MODEL, "--data", "multialpaca", "--out", "run")
    assert result.returncode == 2 and not (tmp_path / "run").exists()
    (sentence,) = result.stderr.splitlines()
    assert sentence == (
        f"error: --model {MODEL}: the hub refuses access (403); accept its licence at "
        f"https://huggingface.co/{MODEL} and set HF_TOKEN to a token of that account"
    )
