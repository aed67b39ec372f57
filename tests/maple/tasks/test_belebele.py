"""Belebele's prompts beside lm-evaluation-harness's own and its authors' example; its 122 variants; the real rows."""

from collections import Counter

import pytest

from maple.evaluation.data import read_examples
from maple.evaluation.task import Example
from maple.tasks.belebele import LANGUAGES, TASK, letter_of
from tests.harness import FOLDER, harness, ours, rows_of

ROW = {"flores_passage": "Élan. ", "question": " Où? ", "correct_answer_num": "3"}
ROW |= {f"mc_answer{number}": f"answer {number}" for number in range(1, 5)}
SHOT = ROW | {"flores_passage": "Μία", "correct_answer_num": "1"}


def test_all_variants_are_there():
    configs = {path.stem.removeprefix("belebele_") for path in (FOLDER / "belebele").glob("belebele_*_*.yaml")}
    assert set(LANGUAGES.values()) == configs and len(LANGUAGES) == len(configs) == 122
    assert (LANGUAGES["zh"], LANGUAGES["ar"], LANGUAGES["sw"]) == ("zho_Hans", "arb_Arab", "swh_Latn")


@pytest.mark.parametrize("shot", [None, SHOT])
@pytest.mark.parametrize("language", [*list(LANGUAGES)[::10], "zh"])  # the configs differ in the name of the data alone
def test_asked_as_lm_evaluation_harness_asks(language, shot):
    config = f"belebele/belebele_{LANGUAGES[language]}.yaml"
    theirs = harness(config, [ROW], shot, lambda read: read.update(fewshot_split="validation"))
    theirs = [one.__class__(one.context, one.continuations, int(one.gold), []) for one in theirs]
    assert ours(TASK, "harness", language, [ROW], shot) == theirs


def test_real_rows(real):
    examples, _ = read_examples(TASK, "de", "test", str(real / "tasks"))
    gold = Counter(example["correct_answer_num"] for example in examples)
    assert gold == {"1": 206, "2": 251, "3": 246, "4": 197}
    rows = rows_of(real / "tasks" / "belebele" / "deu_Latn.test.jsonl", every=30)
    theirs = [one.context for one in harness("belebele/belebele_deu_Latn.yaml", rows)]
    assert [one.context for one in ours(TASK, "harness", "de", rows)] == theirs


def test_asked_as_its_authors_ask():
    asked = TASK.settings["mega"].ask(Example(ROW, "fr", ""))
    assert asked.prompt == (
        "Given the following passage, query, and answer choices, output the letter corresponding to the correct answer."
        "\n###\nPassage:\nÉlan. \n###\nQuery:\n Où? \n###\nChoices:\n(A) answer 1\n(B) answer 2\n(C) answer 3\n"
        "(D) answer 4\n###\nAnswer:\n"
    )
    assert asked.answers == ["C"] and TASK.settings["mega"].shots == 0


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("C", "C"), (" (C)\n", "C"), ("The correct answer is (C).", "C"), ("C) answer 3", "C"), ("", ""), ("ok", "o")],
)
def test_the_letter_of_an_answer(answer, letter):
    assert letter_of(answer) == letter
