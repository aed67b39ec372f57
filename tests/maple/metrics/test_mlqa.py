"""MLQA v1 beside its official results, its official expressions and the harness's port."""

import json
import random
import re
import string
import unicodedata

import pytest
from lm_eval.tasks.mlqa import utils as harness

from maple.errors import InputError
from maple.metrics.mlqa import ARTICLES, MLQABothArabic, MLQAScore, normalise
from tests.conftest import SEED
from tests.maple.metrics.files import records

# What the official script says of the recorded predictions, in per cent.
OFFICIAL = {
    "ar": (100, 100),
    "de": (0, 85.714),
    "en": (0, 60),
    "es": (0, 26.667),
    "hi": (100, 100),
    "vi": (100, 100),
    "zh": (100, 100),
}
WORDS = {
    "ar": "ا ل ال الكتاب بال والقلم كتاب في ، ؟ ",
    "de": "Der die eine Mann, „dem“ sah Straße 1.5 -",
    "en": "a An the cat's U.S. _ naïve 北京",
    "es": "El la unos ¿niño? l'a casa 3.000 «y»",
    "hi": "वह गया। एक लड़का था , the",
    "vi": "Cái bàn của tôi là những chiếc (x) Của",
    "zh": "北京 2014年 Winter ， 。 冰壶 the 龥 龦 a．b 、",
}


@pytest.mark.parametrize("language", OFFICIAL)
def test_the_recorded_predictions_score_what_the_official_script_says(real, language):
    folder, metric = real / "tasks" / "mlqa", MLQAScore(language)
    predictions = json.loads((folder / f"{language}.{language}.predictions.json").read_text())
    for record in records(folder / f"{language}.{language}.test.jsonl"):
        metric.update(metric.score(predictions[record["id"]], record["answers"]["text"]))
    found = metric.compute()
    exact_match, f1 = OFFICIAL[language]
    assert found["exact_match"].value * 100 == exact_match
    assert round(found["f1"].value * 100, 3) == f1


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("ar", "الكتاب في المدرسة القالب", "كتاب في مدرسة ق ب"),
        ("zh", "2014年 Winter Olympics，冰壶", "2014 年 winter olympics 冰 壶"),
        ("vi", "Cái bàn của tôi", "bàn tôi"),
        ("de", "Der Mann, den ich sah", "mann ich sah"),
        ("es", "¿El niño de la casa?", "niño de casa"),
        ("hi", "वह गया।", "वह गया"),
        ("en", "The U.S.'s a-the end", "uss athe end"),  # punctuation goes first: a-the is no article any more
    ],
)
def test_what_the_normaliser_leaves(language, text, expected):
    assert normalise(text, language) == expected


def test_the_corrected_arabic_article_is_removed_where_a_word_begins():
    assert normalise("الكتاب في المدرسة القالب", "ar", corrected_arabic=True) == "كتاب في مدرسة قالب"


def drawn(rng, language):
    return "".join(rng.choice(WORDS[language].split()) + rng.choice([" ", "", "\n"]) for _ in range(rng.randrange(7)))


@pytest.mark.parametrize("language", ARTICLES)
def test_random_answers_score_as_in_the_harness(language):
    rng, metric = random.Random(SEED), MLQAScore(language, corrected_arabic=True)
    for _ in range(300):
        prediction, answers = drawn(rng, language), [drawn(rng, language) for _ in range(rng.randint(1, 3))]
        expected = harness.process_results_lang({"answers": answers}, [prediction], language)
        assert metric.score(prediction, answers) == expected


def test_the_arabic_article_is_that_of_the_official_expression():
    rng, official = random.Random(SEED), re.compile(r"\sال^|ال")
    for _ in range(300):
        text = drawn(rng, "ar")
        bare = "".join(c for c in text if not unicodedata.category(c).startswith("P") and c not in string.punctuation)
        assert normalise(text, "ar") == " ".join(official.sub(" ", bare).split())


def test_a_language_without_rules_is_refused_by_name():
    with pytest.raises(InputError, match=r"'sw'.*known: ar, de, en"):
        MLQAScore("sw")


def test_arabic_is_scored_by_both_rules():
    prediction, answers = "القالب", ["قالب"]  # the authors' rule removes two articles, the corrected one the first
    assert MLQABothArabic().score(prediction, answers) == {
        **MLQAScore("ar").score(prediction, answers),
        "exact_match_corrected": 1.0,
        "f1_corrected": 1.0,
    }
    assert MLQAScore("ar").score(prediction, answers) == MLQAScore("ar").score("ق ب", ["ق ب"])
