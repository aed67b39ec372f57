"""What the README and the recipes say is what the code takes."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from maple import cli
from maple.data.sources import check_data
from maple.fit import TINY_RECIPE, check_ranges, fit
from maple.hub import check_model_name

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
COMMANDS = [
    " ".join(command.replace("\\\n", " ").split())
    for file in [*RECIPES, ROOT / "README.md"]
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


def test_the_recipe_of_the_embedded_model_is_what_fit_does_by_itself():
    written = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text(encoding="utf-8"))
    bare = cli.parse(fit, [])
    assert cli.parse(fit, ["--config", str(ROOT / "configs" / "tiny.yaml")]) == bare | TINY_RECIPE
    assert set(TINY_RECIPE) < set(written)


def test_the_readme_names_every_file():
    readme = (ROOT / "README.md").read_text()
    files = [p for folder in ("maple", "kernels", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    names = [str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py"]
    assert not [name for name in names if name not in readme]


def test_the_22_languages_of_the_recipe_are_those_of_the_data_set():
    written = cli.parse(fit, ["--config", str(ROOT / "configs" / "mistral-7b.yaml")])
    assert set(written["languages"].split(",")) == set(check_data("bactrian-x-22"))


def test_every_verb_of_the_makefile_is_in_the_readme():
    verbs = re.search(r"^\.PHONY: help setup (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    readme = (ROOT / "README.md").read_text()
    assert all(f"make {verb}" in readme for verb in verbs)
