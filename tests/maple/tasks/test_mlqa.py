"""MLQA's prompts beside lm-evaluation-harness's own; its 49 pairs; the real rows."""

import pytest

from maple.evaluation.data import read_examples
from maple.evaluation.task import Example
from maple.tasks.mlqa import TASK
from tests.harness import FOLDER, harness, ours, rows_of

ROW = {"context": "Αβγ δε.", "question": "¿Qué? ", "answers": {"text": ["δε", "β"], "answer_start": [4, 1]}}
SHOT = {"context": "一二三", "question": "几?", "answers": {"text": ["二", "三"], "answer_start": [1, 2]}}
REAL = ("ar", "de", "en", "es", "hi", "vi", "zh")


def test_all_pairs_are_there_and_those_of_one_language_are_usual():
    configs = {path.stem.removeprefix("mlqa_").replace("_", ".") for path in (FOLDER / "mlqa").glob("mlqa_*.yaml")}
    assert set(TASK.languages.values()) == configs and len(TASK.languages) == 49
    assert TASK.languages["de"] == "de.de" and TASK.languages["de-en"] == "de.en"  # context, question
    assert TASK.usual == REAL


@pytest.mark.parametrize("shot", [None, SHOT])
@pytest.mark.parametrize("language", TASK.languages)
def test_asked_as_lm_evaluation_harness_asks(language, shot):
    (theirs,) = harness(f"mlqa/mlqa_{TASK.languages[language].replace('.', '_')}.yaml", [ROW], shot)
    (asked,) = ours(TASK, "harness", language, [ROW], shot)
    assert (asked.context, asked.until) == (theirs.context, theirs.until)
    assert TASK.settings["harness"].ask(Example(ROW, language, "")).answers == theirs.gold == ["δε", "β"]


@pytest.mark.parametrize("language", REAL)
def test_real_rows(real, language):
    examples, _ = read_examples(TASK, language, "test", str(real / "tasks"))
    rows = rows_of(real / "tasks" / "mlqa" / f"{language}.{language}.test.jsonl")
    theirs = harness(f"mlqa/mlqa_{language}_{language}.yaml", rows)
    assert [asked.context for asked in ours(TASK, "harness", language, rows)] == [one.context for one in theirs]
    for example in examples:
        for answer, start in zip(example["answers"]["text"], example["answers"]["answer_start"], strict=True):
            assert example["context"].startswith(answer, start)  # so in these nine; the check does not ask for it


def test_asked_as_mega_asks():
    setting = TASK.settings["mega"]
    assert setting.ask(Example(ROW, "de-en", "")).prompt == (
        "Αβγ δε.\n    Q: ¿Qué? \n\n    Referring to the passage above, the correct answer to the given question is:"
    )
    assert (setting.delimiter, setting.between) == ("\n    ", "\n\n")
