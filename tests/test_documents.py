"""What the README and the recipes say is what the code takes."""

import re
import shlex
from pathlib import Path

import pytest

from maple import cli
from maple.fit import fit

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [
    " ".join(command.replace("\\\n", " ").split())
    for text in [*(ROOT / "configs").glob("*.yaml"), ROOT / "README.md"]
    for command in re.findall(
        r"^#? *(python -m maple\.fit(?:.*\\\n)*.*)$", text.read_text().replace("\n# ", "\n"), re.M
    )
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_accepted(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)[3:]
    if words != ["--help"]:
        assert cli.parse(fit, words)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_accepted(path):
    assert cli.parse(fit, ["--model", "m", "--data", "d", "--config", str(path)])


def test_the_readme_names_every_file():
    readme = (ROOT / "README.md").read_text()
    files = [p for folder in ("maple", "kernels", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    missing = [str(p.relative_to(ROOT)) for p in files if p.name != "__init__.py" and p.name not in readme]
    assert not missing


def test_every_verb_of_the_makefile_is_in_the_readme():
    verbs = re.search(r"^\.PHONY: help setup (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    readme = (ROOT / "README.md").read_text()
    assert all(f"make {verb}" in readme for verb in verbs)
