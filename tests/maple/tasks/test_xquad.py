"""XQuAD's prompts beside lm-evaluation-harness's own and MEGA's template; the real rows."""

import pytest

from maple.evaluation.data import read_examples
from maple.evaluation.task import Example
from maple.tasks.xquad import TASK
from tests.harness import harness, ours, rows_of

ROW = {"context": "Αβγ δε.", "question": "¿Qué? ", "answers": {"text": ["δε"], "answer_start": [4]}}
SHOT = {"context": "一二三", "question": "几?", "answers": {"text": ["二", "三"], "answer_start": [1, 2]}}


@pytest.mark.parametrize("shot", [None, SHOT])
@pytest.mark.parametrize("language", TASK.languages)
def test_asked_as_lm_evaluation_harness_asks(language, shot):
    assert ours(TASK, "harness", language, [ROW], shot) == harness(f"xquad/xquad_{language}.yaml", [ROW], shot)


@pytest.mark.parametrize("language", ["en", "es", "hi", "th", "zh"])
def test_real_rows(real, language):
    examples, _ = read_examples(TASK, language, "validation", str(real / "tasks"))  # every answer at its offset
    assert len(examples) == len({example["id"] for example in examples}) == 1190
    assert len({example["context"] for example in examples}) == 240
    assert {len(example["answers"]["text"]) for example in examples} == {1}
    rows = rows_of(real / "tasks" / "xquad" / f"{language}.validation.jsonl", every=40)
    assert ours(TASK, "harness", language, rows) == harness(f"xquad/xquad_{language}.yaml", rows)


def test_one_answer_counts_as_in_lm_evaluation_harness():
    assert TASK.settings["harness"].ask(Example(SHOT, "zh", "")).answers == ["二"]


def test_asked_as_mega_asks():
    # mega/prompting/prompting_utils.py, `construct_qa_prompt` without chat, with its template
    setting = TASK.settings["mega"]
    shot, asked = (setting.ask(Example(row, "zh", "")) for row in (SHOT, ROW | {"context": " Αβγ δε."}))
    assert shot.prompt + setting.delimiter + shot.target + setting.between + asked.prompt == (
        "一二三\n    Q: 几?\n\n    Referring to the passage above, the correct answer to the given question is:\n    二"
        "\n\nΑβγ δε.\n    Q: ¿Qué? \n\n    Referring to the passage above, the correct answer to the given question is:"
    )
    assert setting.clean("\n    δε\n\nAlpha") == "δε"
