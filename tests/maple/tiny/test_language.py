"""The lexicons: complete, unambiguous, and filled in by the grammar of each language."""

import re
import unicodedata

import pytest

from maple.errors import InputError
from maple.tiny.language import FOLDER, language
from maple.tiny.world import KINDS, PEOPLE, Fact

CODES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
IVAN, ANNA, MARIA = 3, 0, 2


def every_fact():
    for kind, values in KINDS.items():
        yield from (Fact((value + 3) % PEOPLE, kind, value) for value in range(values))


def test_eleven_languages_in_six_scripts():
    assert set(CODES) == {"en", "es", "de", "ru", "ar", "hi", "zh", "sw", "tr", "th", "it"}
    scripts = {unicodedata.name(language(code).names[ANNA]["only"][0]).split()[0] for code in CODES}
    assert scripts == {"LATIN", "CYRILLIC", "ARABIC", "DEVANAGARI", "CJK", "THAI"}


@pytest.mark.parametrize("code", CODES)
def test_every_kind_has_all_its_values_and_no_word_stands_for_two(code):
    lang = language(code)
    assert set(lang.kinds) == set(KINDS)
    for kind, entry in lang.kinds.items():
        assert len(entry["statements"]) == 3
        words = [value["only"] for value in lang.values[kind]]
        assert kind == "friend" or len(words) == len(set(words)) == KINDS[kind]
    names = [name["only"] for name in lang.names]
    assert len(set(names)) == PEOPLE


@pytest.mark.parametrize("code", CODES)
def test_every_sentence_is_filled_and_an_answer_tells_the_value(code):
    lang = language(code)
    for fact in every_fact():
        for sentence in (*lang.statements(fact), lang.question(fact), lang.answer(fact)):
            assert sentence and not re.search(r"[{}<>|\[\]]|  | $", sentence)
            assert sentence[0] == sentence[0].upper()
        forms = lang.names[fact.value] if fact.kind == "friend" else lang.values[fact.kind][fact.value]
        assert any(form[1:] in lang.answer(fact) for form in forms.values())  # its first letter may be a capital
        another = Fact((fact.person + 2) % PEOPLE, fact.kind, fact.value)
        assert lang.question(fact) != lang.question(another) and lang.answer(fact) == lang.answer(another)


@pytest.mark.parametrize(
    ("code", "fact", "statement"),
    [
        ("de", Fact(ANNA, "animal", 1), "Anna hat einen Hund."),  # accusative
        ("de", Fact(ANNA, "cause", 1), "Anna bleibt zu Hause, weil es kalt ist."),  # the verb at the end
        ("ru", Fact(MARIA, "place", 3), "Мария живёт в Москве."),  # prepositional
        ("ru", Fact(MARIA, "number", 0), "У Марии три книги."),  # genitive; the noun depends on the number
        ("ru", Fact(MARIA, "number", 2), "У Марии пять книг."),
        ("es", Fact(ANNA, "friend", IVAN), "El amigo de Anna se llama Ivan."),  # the friend's gender
        ("es", Fact(IVAN, "friend", ANNA), "La amiga de Ivan se llama Anna."),
        ("ar", Fact(IVAN, "place", 2), "يسكن إيفان في القاهرة."),  # the verb's gender
        ("ar", Fact(ANNA, "place", 2), "تسكن آنا في القاهرة."),
        ("hi", Fact(ANNA, "place", 4), "अन्ना दिल्ली में रहती है।"),
        ("tr", Fact(ANNA, "animal", 1), "Anna'nın bir köpeği var."),  # genitive and possessive
        ("tr", Fact(IVAN, "place", 7), "Ivan İstanbul'da yaşıyor."),  # vowel harmony
        ("sw", Fact(ANNA, "number", 0), "Anna ana vitabu vitatu."),  # noun class
        ("zh", Fact(ANNA, "animal", 2), "安娜有一匹马。"),  # classifier
        ("th", Fact(ANNA, "animal", 0), "แอนนามีแมวหนึ่งตัว"),
        ("it", Fact(ANNA, "place", 2), "Anna vive al Cairo."),
        ("en", Fact(ANNA, "cause", 6), "Anna stays at home because today is a holiday."),
    ],
)
def test_grammar(code, fact, statement):
    assert language(code).statements(fact)[0] == statement


def test_a_sentence_begins_with_a_capital_as_turkish_writes_it():
    assert language("tr").answer(Fact(ANNA, "place", 7)) == "İstanbul'da."
    assert language("tr").statements(Fact(ANNA, "day", 2))[1] == "Çarşamba günü Anna çarşıda."


def test_an_unknown_language_is_named():
    with pytest.raises(InputError, match="no language 'fr'; known: ar, de"):
        language("fr")
