"""XCOPA's prompts beside lm-evaluation-harness's own and MEGA's template; the real rows."""

from collections import Counter

import pytest

from maple.evaluation.data import read_examples
from maple.evaluation.task import Example
from maple.tasks.xcopa import TASK
from tests.harness import harness, ours, rows_of

CAUSE = {"premise": "Élan. ", "choice1": "Énorme.", "choice2": "B b.", "question": "cause", "label": 1}
EFFECT = {"premise": "该物品用包装纸包着。", "choice1": "它很易碎。", "choice2": "C.", "question": "effect", "label": 0}


@pytest.mark.parametrize("shot", [None, EFFECT])
@pytest.mark.parametrize("language", TASK.languages)
def test_asked_as_lm_evaluation_harness_asks(language, shot):
    theirs = harness(f"xcopa/default_{language}.yaml", [CAUSE, EFFECT], shot)
    assert ours(TASK, "harness", language, [CAUSE, EFFECT], shot) == theirs


QUESTIONS = {"it": (246, 254), "qu": (250, 250), "sw": (213, 287), "zh": (250, 250)}  # (cause, effect), see xcopa.py


@pytest.mark.parametrize("language", QUESTIONS)
def test_real_rows(real, language):
    examples, _ = read_examples(TASK, language, "test", str(real / "tasks"))
    assert Counter(example["label"] for example in examples) == {0: 250, 1: 250}
    questions = Counter(example["question"] for example in examples)
    assert (questions["cause"], questions["effect"]) == QUESTIONS[language]
    assert len(read_examples(TASK, language, "validation", str(real / "tasks"))[0]) == 100
    rows = rows_of(real / "tasks" / "xcopa" / f"{language}.test.jsonl", every=10)
    shot = rows_of(real / "tasks" / "xcopa" / f"{language}.validation.jsonl")[0]
    assert ours(TASK, "harness", language, rows, shot) == harness(f"xcopa/default_{language}.yaml", rows, shot)


def test_asked_as_mega_asks():
    # rendered by its copy of promptsource from plausible_alternatives_discrete, joined by its `construct_prompt`
    setting = TASK.settings["mega"]
    shot, asked = (setting.ask(Example(row, "et", "")) for row in (CAUSE | {"premise": "P."}, EFFECT))
    assert shot.prompt + setting.delimiter + shot.target + setting.between + asked.prompt == (
        "P.  This happened because... \nHelp me pick the more plausible option:\n- choice1: Énorme.\n- choice2: B b. \n"
        "Answer:\nchoice2\n"
        "该物品用包装纸包着。  As a consequence... \nHelp me pick the more plausible option:\n- choice1: 它很易碎。\n"
        "- choice2: C. \nAnswer:\n"
    )
    assert asked.answers == ["choice1"]
