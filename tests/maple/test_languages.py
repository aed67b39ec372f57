"""Every language that occurs anywhere has its facts, and the counts are those of the published sets."""

import unicodedata

import pytest

from maple import languages, tasks
from maple.data.published import BACTRIAN_X, ELEVEN, PUBLISHED
from maple.languages import Fact, fact, groups, known, language_of, training_sets
from maple.tiny.records import LANGUAGES as TINY


def of_tasks(*names):
    return {language_of(code) for name in names for code in tasks.find(name).languages}


def test_every_language_has_its_facts_and_no_other_is_there():
    published = {code for data in PUBLISHED.values() for code in (*data.languages, *data.more)}
    assert set(known()) == of_tasks(*tasks.names()) | published | set(BACTRIAN_X) | set(TINY)
    assert len(known()) == 129


@pytest.mark.parametrize("code", known())
def test_facts_are_whole(code):
    assert fact(code).name and fact(code).family and fact(code).scripts
    assert all(len(script) == 4 and script.istitle() for script in fact(code).scripts)
    assert fact(code).joshi in (None, 0, 1, 2, 3, 4, 5)


NAMED = {  # how Unicode begins the names of a script's letters
    "Arab": "ARABIC", "Armn": "ARMENIAN", "Beng": "BENGALI", "Cyrl": "CYRILLIC", "Deva": "DEVANAGARI",
    "Ethi": "ETHIOPIC", "Geor": "GEORGIAN", "Grek": "GREEK", "Gujr": "GUJARATI", "Guru": "GURMUKHI", "Hang": "HANGUL",
    "Hans": "CJK", "Hant": "CJK", "Hebr": "HEBREW", "Jpan": "CJK", "Khmr": "KHMER", "Knda": "KANNADA", "Laoo": "LAO",
    "Latn": "LATIN", "Mlym": "MALAYALAM", "Mymr": "MYANMAR", "Orya": "ORIYA", "Sinh": "SINHALA", "Taml": "TAMIL",
    "Telu": "TELUGU", "Thai": "THAI", "Tibt": "TIBETAN",
}  # fmt: skip


@pytest.mark.parametrize("code", [code for code in known() if fact(code).own])
def test_a_language_writes_its_name_in_its_own_script(code):
    letters = [character for character in fact(code).own if character.isalpha()]
    assert {unicodedata.name(letter).split()[0] for letter in letters} == {NAMED[fact(code).scripts[0]]}


def test_names_that_cldr_does_not_have():
    without = {"acm", "ars", "ary", "arz", "fuv", "ilo", "kac", "war"}
    romanised = {"ar-Latn", "bn-Latn", "ne-Latn", "si-Latn", "ur-Latn"}
    assert {code for code in known() if fact(code).own is None} == without | romanised
    assert (fact("ar").own, fact("zh").own, fact("zh-Hant").own, fact("th").own) == (
        "العربية",
        "中文",
        "繁體中文",
        "ไทย",
    )


def test_scripts_are_those_of_belebele():
    for code, own in tasks.find("belebele").languages.items():
        assert own.partition("_")[2] in fact(code).scripts


def test_counts_of_the_published_sets():
    counts = {name: len(tasks.find(name).languages) for name in tasks.names()}
    assert counts == {"xnli": 15, "xcopa": 11, "xquad": 12, "mlqa": 49, "belebele": 122, "xlsum": 45, "alpaca_eval": 1}
    assert (len(ELEVEN), len(PUBLISHED["bactrian-x-22"].languages), len(BACTRIAN_X)) == (11, 22, 52)
    four = of_tasks("xnli", "xcopa", "xquad", "mlqa")
    assert len(four) == 22 and four - of_tasks("belebele") == {"qu"}
    # The paper counts 40 languages, its abstract 41. Its 35 of Belebele are the 22 of training and 13 that it does not
    # name, so there are 39 at most without XL-Sum.
    trained = set(PUBLISHED["bactrian-x-22"].languages)
    assert len(four | trained) == 26 and len(trained) + 13 + len(four - trained) == 39


def test_what_joshi_et_al_have():
    classes = {"en": 5, "zh": 5, "ar": 5, "hi": 4, "vi": 4, "th": 3, "id": 3, "sw": 2, "ht": 2, "qu": 1, "shn": 0}
    assert {code: fact(code).joshi for code in classes} == classes
    unknown = {"acm", "apc", "ars", "ary", "kea", "luo"}
    assert {code for code in known() if fact(code).joshi is None} == unknown
    assert fact("zh-Hant").joshi == fact("zh").joshi and fact("sr-Latn").joshi == fact("sr").joshi


def test_the_language_of_a_pair_is_that_of_its_context():
    assert fact("de-en") == fact("de") == Fact("German", "Indo-European", ("Latn",), 5, "Deutsch")
    assert fact("zh-Hant") != fact("zh")
    with pytest.raises(KeyError):
        fact("xx")


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("de", {"trained", "high"}),
        ("de-sw", {"trained", "high"}),
        ("hi", {"untrained", "high"}),
        ("zh-Hant", {"untrained", "high"}),
        ("th", {"untrained", "mid"}),
        ("sw", {"trained", "low"}),
        ("luo", {"untrained"}),
    ],
)
def test_groups_of_a_report(language, expected):
    assert groups(language, {"de", "sw", "zh"}) == expected


def test_what_is_derived():
    assert training_sets("de") == ["multialpaca", "bactrian-x-11", "bactrian-x-22"]
    assert training_sets("en") == ["alpaca", "bactrian-x-22"] and training_sets("el") == []
    assert languages.tasks("qu") == ["xcopa"] and languages.tasks("gl") == []
    assert languages.tasks("vi") == ["belebele", "mlqa", "xcopa", "xlsum", "xnli", "xquad"]
