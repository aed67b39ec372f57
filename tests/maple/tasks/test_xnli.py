"""XNLI's prompts beside lm-evaluation-harness's own and MEGA's template; the real rows."""

from collections import Counter

import pytest

from maple.evaluation.data import read_examples
from maple.evaluation.task import Example
from maple.tasks.xnli import TASK
from tests.harness import harness, ours, rows_of

ROW = {"premise": "Un, deux.", "hypothesis": "Trois?", "label": 1}
SHOT = {"premise": "Quatre", "hypothesis": "cinq", "label": 2}


@pytest.mark.parametrize("shot", [None, SHOT])
@pytest.mark.parametrize("language", TASK.languages)
def test_asked_as_lm_evaluation_harness_asks(language, shot):
    # Without a test split in its config it scores the validation rows.
    config = f"xnli/xnli_{language}.yaml"
    theirs = harness(config, [ROW], shot, lambda read: read.update(test_split="test", fewshot_split="validation"))
    assert ours(TASK, "harness", language, [ROW], shot) == theirs


@pytest.mark.parametrize("language", ["en", "sw"])
def test_real_rows(real, language):
    examples, _ = read_examples(TASK, language, "test", str(real / "tasks"))
    assert Counter(example["label"] for example in examples) == {0: 1670, 1: 1670, 2: 1670}
    rows = rows_of(real / "tasks" / "xnli" / f"{language}.test.jsonl", every=100)
    theirs = harness(f"xnli/xnli_{language}.yaml", rows, None, lambda read: read.update(test_split="test"))
    assert ours(TASK, "harness", language, rows) == theirs


def test_asked_as_mega_asks():
    # rendered by its copy of promptsource from "GPT-3 style", put together by its `construct_prompt` without chat
    setting = TASK.settings["mega"]
    prompts = [setting.ask(Example(row, "fr", "")) for row in (SHOT, ROW)]
    shot = prompts[0].prompt + setting.delimiter + prompts[0].target + setting.between
    assert shot + prompts[1].prompt == (
        "Quatre\nQuestion: cinq True, False, or Neither?\nFalse\nUn, deux.\nQuestion: Trois? True, False, or Neither?\n"
    )
    assert prompts[1].answers == ["Neither"] and setting.ask(Example(ROW | {"label": 0}, "fr", "")).answers == ["True"]
    assert setting.clean("\n Neither \nP.\nQuestion") == "Neither "
