"""What all lessons have in common."""

import re

import pytest

from tests.lessons import LESSONS

SCRIPTS = sorted(LESSONS.glob("[1-9]_*.py"))


def test_there_are_eight():
    assert [path.name[0] for path in SCRIPTS] == list("12345678")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_lesson_is_short_and_ends_in_its_claims(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert text.startswith(f"# %% [markdown]\n# # {path.name[0]}. ")
    assert f'save(figure, "{path.stem}")' in text
    *_, last = re.split(r"^# %%.*\n", text, flags=re.M)
    assert "assert " in last and "assert" not in text.removesuffix(last)


@pytest.mark.parametrize("name", [path.stem for path in SCRIPTS if path.stem != "5_kernel"])
def test_a_lesson_runs_and_saves_its_picture(run, name):
    assert run(name).stat().st_size > 10_000
