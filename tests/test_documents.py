"""What the README and the recipes say is what the code takes."""

import importlib
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig

from maple import cli
from maple.cells.grid import plan, read_study
from maple.data.sources import check_data
from maple.fit import TINY_RECIPE, check_ranges, fit
from maple.hub import check_model_name
from maple.memory import MicroBatch, Setting, predict
from maple.tasks import names as task_names

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted((ROOT / "configs").glob("study-*.yaml"))
RECIPES = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if path not in STUDIES]
COMMANDS = [
    " ".join(command.replace("\\\n", " ").split())
    for file in [*RECIPES, *STUDIES, ROOT / "README.md"]
    for command in re.findall(
        r"^#? *(python -m maple\.(?:.*\\\n)*.*)$", file.read_text(encoding="utf-8").replace("\n# ", "\n"), re.M
    )
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_accepted(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)[2:]
    verb = importlib.import_module(words[0])
    function = getattr(verb, words[0].rpartition(".")[2])
    if words[1:] != ["--help"]:
        assert cli.parse(function, words[1:])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_accepted_and_has_its_commands_and_reasons(path):
    text = path.read_text(encoding="utf-8")
    assert f"python -m maple.fit --config configs/{path.name}" in text
    settings = [line for line in text.splitlines() if re.match(r"\w+: \d", line)]
    assert settings and all("#" in line for line in settings)
    arguments = cli.parse(fit, ["--config", str(path)])
    check_ranges(arguments)
    if not arguments["model"].startswith("../"):
        check_model_name(arguments["model"])
        assert check_data(arguments["data"], arguments["languages"])


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_study_is_accepted_and_has_its_commands_and_reasons(path):
    text = path.read_text(encoding="utf-8")
    assert f"python -m maple.study --config configs/{path.name}" in text
    settings = [line for line in text.splitlines() if re.match(r" +\w+: \d", line)]
    assert settings and all("#" in line for line in settings)
    assert plan(read_study(path)).cells


def test_the_study_of_the_paper_has_its_grid():
    cells = plan(read_study(ROOT / "configs" / "study-paper.yaml")).cells
    found = Counter((c.fit["model"], c.fit["data"], c.rank, c.fit["bits"]) for c in cells if c.rank)
    assert len(found) == 2 * 4 * 5 * 3 and {rank for _, _, rank, _ in found} == {8, 16, 32, 64, 128}
    said = re.search(r"# (\d+) cells and the six bases", (ROOT / "configs" / "study-paper.yaml").read_text())
    assert int(said[1]) == sum(found.values()) == len(cells) - 6


def test_the_recipe_of_the_embedded_model_is_what_fit_does_by_itself():
    written = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text(encoding="utf-8"))
    bare = cli.parse(fit, [])
    assert cli.parse(fit, ["--config", str(ROOT / "configs" / "tiny.yaml")]) == bare | TINY_RECIPE
    assert set(TINY_RECIPE) < set(written)


SHAPES = {
    "llama-2-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    "70b-fsdp": {
        "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_key_value_heads": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_memory_that_a_recipe_promises_is_what_is_predicted(name):
    path = ROOT / "configs" / f"{name}.yaml"
    promised = float(re.search(r"# Memory .*?: ([\d.]+) GiB", path.read_text(encoding="utf-8")).group(1))
    arguments = cli.parse(fit, ["--config", str(path)])
    heads = SHAPES[name]["hidden_size"] // 128
    config = LlamaConfig(**{"num_key_value_heads": heads} | SHAPES[name], num_attention_heads=heads, dtype="float16")
    rows, length = arguments["batch_tokens"] // arguments["max_length"], arguments["max_length"]
    setting = Setting(arguments, config, MicroBatch(rows, length, rows * length, rows), "cuda", torch.bfloat16)
    found = predict(setting.changed(recompute=arguments["recompute"] or "none")).total
    assert found / 2**30 == pytest.approx(promised, abs=0.06)


def test_the_readme_names_every_file():
    readme = (ROOT / "README.md").read_text()
    files = [p for folder in ("maple", "kernels", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    names = {str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"}
    tasks = {f"maple/tasks/{name}.py" for name in task_names()}  # found by their names, which the README has
    assert not [name for name in names - tasks if name not in readme]
    assert not [name for name in task_names() if f"`{name}`" not in readme]


def test_the_22_languages_of_the_recipe_are_those_of_the_data_set():
    written = cli.parse(fit, ["--config", str(ROOT / "configs" / "mistral-7b.yaml")])
    assert set(written["languages"].split(",")) == set(check_data("bactrian-x-22"))


def test_every_verb_of_the_makefile_is_in_the_readme():
    verbs = re.search(r"^\.PHONY: help setup (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    readme = (ROOT / "README.md").read_text()
    assert all(f"make {verb}" in readme for verb in verbs)
