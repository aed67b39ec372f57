"""Who is held out from what."""

import random

import pytest

from maple.tiny.world import BASE_PEOPLE, KINDS, PEOPLE, TRAINING_PEOPLE, VALIDATION_PEOPLE, Fact, draw_scene


def test_people_of_training_and_validation_are_disjoint_and_are_everyone():
    assert not set(TRAINING_PEOPLE) & set(VALIDATION_PEOPLE)
    assert {*TRAINING_PEOPLE, *VALIDATION_PEOPLE} == set(range(PEOPLE))
    assert set(TRAINING_PEOPLE) < set(BASE_PEOPLE) < set(range(PEOPLE))


def test_every_value_is_held_out_for_some_people_and_told_of_others():
    for kind, values in KINDS.items():
        for value in range(values):
            told = {Fact(person, kind, value).in_text for person in VALIDATION_PEOPLE if person in BASE_PEOPLE}
            assert told == {True, False}


@pytest.mark.parametrize(
    ("people", "in_text"), [(TRAINING_PEOPLE, True), (BASE_PEOPLE, True), (VALIDATION_PEOPLE, False)]
)
def test_a_scene_tells_of_one_or_two_people_what_may_be_told_of_them(people, in_text):
    rng = random.Random(3)
    seen = set()
    for _ in range(300):
        scene = draw_scene(rng, people, kinds=3, in_text=in_text)
        assert len({(fact.person, fact.kind) for fact in scene}) == len(scene)  # no fact contradicts another
        assert all(fact.in_text == in_text and fact.person in people for fact in scene)
        friends = [fact for fact in scene if fact.kind == "friend"]
        assert all(fact.value != fact.person and fact.value in people for fact in friends)
        seen.add((len({fact.person for fact in scene}), len(scene)))
    assert seen == {(1, 3), (2, 5)}
