"""Instructions about the world: read a passage, answer from it.

    short      a question, answered by the fact's value
    sentence   the same, to be answered by the whole fact
    repeat     the last sentence of the passage, again

The passage is the record's input, or, half of the time, stands before the instruction and there is no input, as one
would type it in a chat. What is asked stands in the passage and nowhere else, so an answer is read, not remembered. The
people of the validation records are in no training record, and what is told of them is in no plain text (`world.py`).

Three data sets carry the factors of a study of languages. All of them validate on eleven languages:

    tiny        trains on the eight of TRAINING, in unequal shares
    tiny-half   on four of them, in three scripts, both ends of the shares among them
    tiny-en     on English alone

Turkish and Thai are in the plain text of the base, but in no training instructions; Italian is in neither.
"""

from __future__ import annotations

import random

from maple.data.records import Record
from maple.tiny.language import Language, language
from maple.tiny.world import TRAINING_PEOPLE, VALIDATION_PEOPLE, draw_scene

# Training records of a language: unequal, in the order of the shares of the plain text.
TRAINING = {"en": 1500, "es": 900, "de": 750, "ru": 650, "zh": 500, "ar": 400, "hi": 300, "sw": 200}
ZERO_SHOT = ("tr", "th", "it")
LANGUAGES = (*TRAINING, *ZERO_SHOT)
VALIDATION = 100  # records of each language; a share of 0.5 has a standard error of 0.05
SETS = {"tiny": tuple(TRAINING), "tiny-half": ("en", "ru", "ar", "sw"), "tiny-en": ("en",)}
TASKS, SHARES = ("short", "sentence", "repeat"), (0.6, 0.25, 0.15)
SEED = 2401_07598  # of the records; the seed of a run shuffles them, and changes none


def instructions(name: str, code: str) -> tuple[list[Record], list[Record]]:
    """(training records, validation records) of a language in a data set; no training records: measured only."""
    training = _records(code, "training", TRAINING[code]) if code in SETS[name] else []
    return training, _records(code, "validation", VALIDATION)


def _records(code: str, split: str, count: int) -> list[Record]:
    rng = random.Random(f"{SEED} {code} {split}")
    return [_record(rng, language(code), split, number) for number in range(1, count + 1)]


def _record(rng: random.Random, lang: Language, split: str, number: int) -> Record:
    people = TRAINING_PEOPLE if split == "training" else VALIDATION_PEOPLE
    facts = draw_scene(rng, people, kinds=rng.choice((2, 3)), in_text=split == "training")
    rng.shuffle(facts)
    passage = [rng.choice(lang.statements(fact)) for fact in facts]
    (task,) = rng.choices(TASKS, SHARES)
    asked = rng.choice(facts)
    if task == "short":
        instruction, output = lang.question(asked), lang.answer(asked)
    elif task == "sentence":
        instruction, output = lang.in_a_sentence(lang.question(asked)), lang.statements(asked)[0]
    else:
        instruction, output = lang.repeat, passage[-1]
    where, told = f"tiny {lang.code} {split} {number}", lang.separator.join(passage)
    if rng.random() < 0.5:
        return Record(instruction, told, output, where)
    return Record(told + lang.separator + instruction, "", output, where)
