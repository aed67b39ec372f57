"""The stemmers of XL-Sum's ROUGE."""

import pytest
from nltk.stem.snowball import ArabicStemmer, SnowballStemmer

from maple.metrics.rouge import Rouge
from maple.metrics.rouge_stemmers import BENGALI, HINDI, SNOWBALL, bengali, hindi, stemmer
from tests.maple.metrics.sentences import SENTENCES


@pytest.mark.parametrize(
    ("token", "stem"),
    [
        ("এটাই", "এ"),  # the emphatic ই, then টা
        ("করছ", "কর"),  # রছ becomes র
        ("আমাকে", "আমা"),  # কে; what is left ends in none of the others
        ("রহিমেরগুলো", "রহিমের"),  # গুলো stands before েরগুলো
        ("দেখেছেন", "দেখ"),
        ("গেল", "গ"),
        ("েরা", "েরা"),  # without রা only a vowel sign would be left
        ("খেয়েছিল", "খেয়েছিল".removesuffix("েছিল")),  # ya and its dot in two: only the part behind them is known
        ("খে\u09dfেছিল", "খে"),
        ("গে\u09dfে", "গা"),  # replaced
    ],
)
def test_bengali(token, stem):
    assert bengali(token) == stem


@pytest.mark.parametrize(
    ("token", "stem"),
    [
        ("लड़कियों", "लड़क"),  # 4: ियों
        ("जाएंगी", "जा"),  # 4, एंगी: ाएंगी would leave one character
        ("किताबें", "किताब"),
        ("बच्चे", "बच्च"),
        ("की", "की"),  # one character may not be all that is left
    ],
)
def test_hindi(token, stem):
    assert hindi(token) == stem


def test_the_tables_are_whole():
    assert [len(group.split()) for group in BENGALI] == [3, 3, 37, 10]
    assert {length: len(suffixes.split()) for length, suffixes in HINDI.items()} == {5: 7, 4: 18, 3: 19, 2: 16, 1: 7}
    assert all(len(suffix) == length for length, suffixes in HINDI.items() for suffix in suffixes.split())


@pytest.mark.parametrize(
    ("language", "token", "stem"),
    [
        ("en", "running", "run"),
        ("en", "runs", "run"),
        ("en", "was", "was"),  # three characters
        ("es", "canciones", "cancion"),
        ("fr", "continuellement", "continuel"),
        ("pt", "meninas", "menin"),
        ("ru", "книги", "книг"),
        ("tr", "kitaplarımızdan", "kitap"),
        ("tr", "web2", "web2"),  # no Turkish letters only
        ("sw", "vitabu", "vitabu"),  # no stemmer
        ("ko", "아이들은", "아이들은"),
    ],
)
def test_a_token_of_more_than_three_characters_is_stemmed(language, token, stem):
    assert stemmer(language)(token) == stem


def test_snowball_is_nltks_in_every_language_that_has_one():
    for language, name in SNOWBALL.items():
        theirs = SnowballStemmer(name)
        for word in SENTENCES.get(language, SENTENCES["en"]).split():
            assert stemmer(language)(word) == (theirs.stem(word) if len(word) > 3 else word)


def test_an_arabic_stem_does_not_depend_on_the_words_before_it_as_in_nltk():
    theirs = ArabicStemmer()
    assert [theirs.stem(word) for word in ("كتبوا", "عليك", "كتبوا")] == ["كتب", "عل", "كتبو"]
    stemmer.cache_clear()  # which remembers stems
    assert Rouge("ar").words("عليك كتبوا") == ["عل", "كتب"]


def test_an_arabic_word_of_vowel_marks_only_is_dropped():
    assert Rouge("ar").words("\u064e\u064f\u0650\u0651 كتاب") == ["كتاب"]
