"""The closed world: people, and the facts that can be told of them.

A fact is (person, kind, value): person 3 (Ivan) has animal 0 (a cat). Nothing here is a word; `language.py` puts a fact
into one of eleven languages. What is held out is decided here, for every language alike:

    people 0..31    in the plain text that the base reads, and in the training instructions
    people 32..39   in the plain text, not in training instructions: validation asks for facts that the text lacks
    people 40..47   in neither: their very names are new at validation

Of the people 32..39 the base reads most values and never those that validation asks for: what it may have remembered of
them works against the right answer, which can only be read from the passage.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PEOPLE = 48  # even numbers are women, odd ones men
TRAINING_PEOPLE = range(32)
BASE_PEOPLE = range(40)
VALIDATION_PEOPLE = range(32, PEOPLE)

# How many values each kind of fact has; the value of `friend` is another person.
KINDS = {"animal": 8, "colour": 8, "place": 10, "number": 8, "day": 7, "cause": 8, "friend": PEOPLE}
HELD_OUT = 4  # of the facts about the people 32..39, one in four stands in no plain text


@dataclass(frozen=True)
class Fact:
    """That `value` (an index into the values of `kind`) is true of `person`."""

    person: int
    kind: str
    value: int

    @property
    def in_text(self) -> bool:
        """Whether plain text and training instructions may tell it, of friends among those people; else it is held out.

        What is held out rotates with the person, so that every value is held out for some and told of others.
        """
        if self.person in TRAINING_PEOPLE:
            return True
        return self.person in BASE_PEOPLE and (self.person + self.value) % HELD_OUT != 0


def is_woman(person: int) -> bool:
    """Even numbers."""
    return person % 2 == 0


def draw_scene(rng: random.Random, people: range, kinds: int, in_text: bool = True) -> list[Fact]:
    """Facts about one person, one of each of `kinds` kinds, or, half of the time, about two people.

    With two people some kinds are told of both: a reader must know who is meant, not only what is asked.
    """
    someone, another = rng.sample(people, 2)
    drawn = rng.sample(list(KINDS), kinds)
    told = [(someone, kind) for kind in drawn]
    if rng.random() < 0.5:
        told += [(another, kind) for kind in drawn[: (kinds + 1) // 2]]
    return [_draw_fact(rng, person, kind, people, in_text) for person, kind in told]


def _draw_fact(rng: random.Random, person: int, kind: str, people: range, in_text: bool) -> Fact:
    while True:
        fact = Fact(person, kind, rng.choice(people if kind == "friend" else range(KINDS[kind])))
        if fact.in_text == in_text and not (kind == "friend" and fact.value == person):
            return fact
