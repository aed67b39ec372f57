"""The embedded world's own tasks: their rows, and how they are asked."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from maple.errors import InputError
from maple.evaluation.task import Choice, Example
from maple.tiny import BASE
from maple.tiny.language import language
from maple.tiny.records import LANGUAGES, instructions
from maple.tiny.rows import COUNT, MAKERS, bare
from maple.tiny.tasks import TASKS, find, rows
from maple.tiny.world import KINDS, VALIDATION_PEOPLE, Fact

PASSAGE = {"xnli": "premise", "xcopa": "premise", "xquad": "context", "mlqa": "context"}
PASSAGE |= {"belebele": "flores_passage", "xlsum": "text"}
CHOSEN = {"xnli": 3, "xcopa": 2, "belebele": 4}
HASH = """
import hashlib, json, sys
from maple.tiny.tasks import LANGUAGES, TASKS, rows
every = [rows(task, code, split) for task in TASKS for code in LANGUAGES for split in ("test", "validation")]
assert "torch" not in sys.modules
print(hashlib.sha256(json.dumps(every).encode()).hexdigest())
"""


def every_row(name, split="test"):
    for code in LANGUAGES:
        for row in rows(name, code, split):
            yield code, row


def asked(name, code, row):
    return TASKS[name].settings["tiny"].ask(Example(row, code, "here"))


@cache
def facts_of_sentences(code):
    """Every statement about the people of validation -> its fact."""
    people = {kind: VALIDATION_PEOPLE if kind == "friend" else range(KINDS[kind]) for kind in KINDS}
    facts = [Fact(p, kind, v) for kind, values in people.items() for p in VALIDATION_PEOPLE for v in values]
    return {sentence: fact for fact in facts for sentence in language(code).statements(fact)}


@cache
def questions(code):
    """Every question -> (person, kind) it asks for; that for a friend may tell whether it is a woman or a man."""
    facts = [Fact(person, kind, value) for kind in KINDS for person in VALIDATION_PEOPLE for value in (0, 1)]
    return {language(code).question(fact): (fact.person, fact.kind) for fact in facts}


@cache
def by_beginning(code):
    index = {}
    for sentence in sorted(facts_of_sentences(code), key=len, reverse=True):
        index.setdefault(sentence[:4], []).append(sentence)
    return index


def told(code, passage):
    """The facts of a passage, by taking it apart; fails where something else stands in it."""
    facts, separator = [], language(code).separator
    while passage:
        sentence = next(one for one in by_beginning(code)[passage[:4]] if passage.startswith(one))
        facts.append(facts_of_sentences(code)[sentence])
        passage = passage[len(sentence) :].removeprefix(separator)
    return facts


@pytest.mark.parametrize("name", TASKS)
def test_every_language_has_its_rows_and_they_pass_the_check(name):
    task = find(name)
    assert task.name == name and list(task.languages) == list(LANGUAGES) and task.hub is None
    for split, count in COUNT.items():
        for code in LANGUAGES:
            found = rows(name, code, split)
            assert len(found) == count and len({row["id"] for row in found}) == count
            for row in found:
                task.check(row, "here")


@pytest.mark.parametrize("name", TASKS)
def test_no_row_lacks_a_field_of_the_check(name):
    row = dict(rows(name, "en", "test")[0])
    field = {"alpaca_eval": "instruction", "belebele": "mc_answer3"}.get(name, PASSAGE.get(name))
    for broken in ({**row, field: " "}, {key: value for key, value in row.items() if key != field}):
        with pytest.raises(InputError, match=rf"line 7: .*{field}"):
            TASKS[name].check(broken, "line 7")


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("xquad", "answers", {"text": [], "answer_start": []}),
        ("mlqa", "answers", {"text": ["a cat"], "answer_start": []}),
        ("xnli", "hypotheses", ["one", "two"]),
        ("xcopa", "label", True),
        ("belebele", "correct_answer_num", 1),
    ],
)
def test_a_row_that_is_none_is_refused(name, field, value):
    with pytest.raises(InputError, match=field):
        TASKS[name].check({**rows(name, "en", "test")[0], field: value}, "here")


def test_rows_are_the_same_in_every_process_and_need_no_torch():
    every = [rows(task, code, split) for task in TASKS for code in LANGUAGES for split in ("test", "validation")]
    here = hashlib.sha256(json.dumps(every).encode()).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", HASH], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_the_tasks_are_the_ones_that_have_rows():
    assert set(TASKS) == set(MAKERS)
    with pytest.raises(InputError, match="did you mean 'xcopa'"):
        find("xcoppa")


@pytest.mark.parametrize("code", LANGUAGES)
def test_what_passages_tell_stands_in_no_plain_text_and_in_no_training_record(code):
    training = " ".join(f"{r.instruction} {r.input} {r.output}" for r in instructions("tiny", code)[0])
    sentences = facts_of_sentences(code)
    held_out = {sentence for sentence, fact in sentences.items() if not fact.in_text}
    # A sentence is one fact, so one that is held out is not told of somebody else.
    assert len(sentences) == sum(3 * len(VALIDATION_PEOPLE) * min(n, len(VALIDATION_PEOPLE)) for n in KINDS.values())
    assert not any(sentence in training for sentence in held_out)
    for name, field in PASSAGE.items():
        for row in rows(name, code, "test"):
            for fact in told(code, row[field]):
                assert fact.person in VALIDATION_PEOPLE and not fact.in_text
    for row in rows("alpaca_eval", code, "test"):
        assert row["output"] in held_out and row["instruction"].startswith(row["output"])


@pytest.mark.parametrize("code", LANGUAGES)
def test_one_choice_is_told_and_no_other_is(code):
    lang = language(code)
    for name in CHOSEN:
        for row in rows(name, code, "test"):
            facts, choice = told(code, row[PASSAGE[name]]), asked(name, code, row)
            right = {lang.statements(fact)[0] if name == "xnli" else lang.answer(fact) for fact in facts}
            assert [text in right for text in choice.choices] == [n == choice.gold for n in range(CHOSEN[name])]
            assert len(set(choice.choices)) == CHOSEN[name]
            question = row["question"] if name == "belebele" else row["asked"]
            assert choice.context.endswith(question)
            person, kind = questions(code)[question]
            (fact,) = [fact for fact in facts if (fact.person, fact.kind) == (person, kind)]
            assert choice.target == (lang.statements(fact)[0] if name == "xnli" else lang.answer(fact))


@pytest.mark.parametrize("name", ["xquad", "mlqa"])
def test_an_answer_stands_in_the_passage_as_one_would_say_it(name):
    for code, row in every_row(name):
        (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"].startswith(answer, start)
        lang, found = language(code), asked(name, code, row)
        assert found.answers == [answer] and found.prompt.endswith(row["question"])
        said = {bare(lang.answer(fact)).casefold() for fact in told(code, row["context"])}
        assert answer.casefold() in said
        clean = TASKS[name].settings["tiny"].clean
        assert clean(f" {lang.answer(told(code, row['context'])[0])} ").casefold() in said


def test_passages_of_mlqa_are_longer():
    facts = {name: [len(told("en", row["context"])) for row in rows(name, "en", "test")] for name in ("xquad", "mlqa")}
    assert set(facts["xquad"]) == {2, 3, 5} and set(facts["mlqa"]) == {4, 6}


@pytest.mark.parametrize("name", CHOSEN)
def test_whoever_always_takes_the_same_choice_is_right_by_chance(name):
    gold = Counter(asked(name, code, row).gold for code, row in every_row(name))
    count, chance = gold.total(), 1 / CHOSEN[name]
    for place in range(CHOSEN[name]):
        assert abs(gold[place] / count - chance) < 3 * (chance * (1 - chance) / count) ** 0.5


def test_every_kind_of_fact_is_asked_for():
    for name in ("xnli", "xquad", "mlqa", "belebele"):
        for code in LANGUAGES:
            kinds = [questions(code)[row.get("asked") or row["question"]][1] for row in rows(name, code, "test")]
            assert set(kinds) == set(KINDS)


@pytest.mark.parametrize("name", TASKS)
def test_few_shot_examples_are_no_test_rows_and_none_is_a_validation_record(name):
    for code in LANGUAGES:
        texts = {
            split: {json.dumps({**row, "id": ""}) for row in rows(name, code, split)}
            for split in ("test", "validation")
        }
        assert not texts["test"] & texts["validation"] and len(texts["test"]) > 90
        records = {record.instruction for record in instructions("tiny", code)[1]}
        for row in rows(name, code, "test"):
            found = asked(name, code, row)
            assert (found.context if isinstance(found, Choice) else found.prompt) not in records


@pytest.mark.parametrize("name", TASKS)
def test_a_prompt_with_two_examples_and_its_answer_fit_the_window(name, tokenizer):
    from maple.data.prompts import prompt_ids

    setting = TASKS[name].settings["tiny"]
    for code in LANGUAGES:
        shots = ""
        for row in rows(name, code, "validation")[:2]:
            shot = asked(name, code, row)
            target = shot.target or row["output"]
            shots += f"{getattr(shot, 'context', None) or shot.prompt}{setting.delimiter}{target}{setting.between}"
        for row in rows(name, code, "test"):
            found = asked(name, code, row)
            text = getattr(found, "context", None) or found.prompt
            longest = max((count(tokenizer, one) for one in getattr(found, "choices", [])), default=0)
            tokens = len(prompt_ids("alpaca", [shots + text], tokenizer)) + max(longest, setting.max_new_tokens)
            assert tokens <= 512, (code, tokens)


@pytest.mark.parametrize("name", ["xquad", "mlqa", "xlsum", "alpaca_eval"])
def test_every_right_answer_has_room_with_its_end(name, tokenizer):
    setting = TASKS[name].settings["tiny"]
    assert setting.generates and setting.stop == ("\n",)
    for _, row in every_row(name):
        for answer in row.get("right") or [row.get("summary") or row["answers"]["text"][0] + "."]:
            assert count(tokenizer, answer) < setting.max_new_tokens


def count(tokenizer, text):
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def tokenizer():
    from maple.tokenizer import load_tokenizer

    return load_tokenizer(BASE)
