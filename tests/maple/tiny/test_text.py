"""The plain text of the base."""

import random
from collections import Counter
from itertools import islice

import pytest

from maple.tiny.language import Language, language
from maple.tiny.text import SHARES, document, documents
from maple.tiny.world import BASE_PEOPLE


def test_the_shares_are_unequal_and_add_up():
    assert abs(sum(SHARES.values()) - 1) < 1e-9 and max(SHARES.values()) >= 5 * min(SHARES.values())


def test_documents_come_in_their_shares_and_again_from_the_same_seed():
    some = list(islice(documents(7), 4000))
    assert some == list(islice(documents(7), 4000))
    assert some[:50] != list(islice(documents(8), 50))
    counts = Counter(code for code, _ in some)
    for code, share in SHARES.items():
        assert abs(counts[code] / 4000 - share) < 4 * (share / 4000) ** 0.5


def test_a_document_tells_its_facts_more_than_once():
    text = document(random.Random(1), language("en"))
    sentences = Counter(text.replace("\n", " ").split(". "))
    assert max(sentences.values()) > 1


@pytest.mark.parametrize("code", SHARES)
def test_no_document_tells_what_is_held_out(code, monkeypatch):
    told = []
    statements = Language.statements
    monkeypatch.setattr(Language, "statements", lambda lang, fact: told.append(fact) or statements(lang, fact))
    rng = random.Random(2)
    for _ in range(200):
        document(rng, Language(code))
    assert told and all(fact.in_text for fact in told)
    people = {fact.person for fact in told} | {fact.value for fact in told if fact.kind == "friend"}
    assert people == set(BASE_PEOPLE)
