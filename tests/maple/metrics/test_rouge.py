"""Multilingual ROUGE: by hand in each kind of tokenizer, and beside the two libraries that only know a-z."""

import random
import subprocess
import sys
from fractions import Fraction
from typing import NamedTuple

import pytest
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.functional.text import rouge_score

from maple.errors import InputError
from maple.metrics import rouge_stemmers, rouge_tokens
from maple.metrics.rouge import Rouge, common_subsequence
from maple.metrics.rouge_tokens import burmese_syllables, tokens
from tests.conftest import SEED
from tests.maple.metrics.sentences import SENTENCES


class Pair(NamedTuple):
    """Worked out by hand; | parts words, ␣ is a blank that counts as one. F = 2 x shared / of."""

    language: str
    prediction: str
    found: str
    target: str
    wanted: str
    rouge1: tuple[int, int]  # shared, words of the prediction and of the target
    rouge2: tuple[int, int]  # the same of pairs of neighbours
    rougeL: tuple[int, int]  # shared in the same order


BY_HAND = [
    # OpenNMT and English stems. Shared: the cat run 3, in this order; the-cat, run-3 of 5 and 4 bigrams
    Pair(
        "en",
        *("The cats were running, 3rd!", "the|cat|were|run|3|rd"),
        *("The cat runs 3 times", "the|cat|run|3|time"),
        *((4, 6 + 5), (2, 5 + 4), (4, 6 + 5)),
    ),
    # each ideograph is a word. Shared: 나는 漢 字; 漢-字 of 4 and 3; in order 漢 字
    Pair(
        "ko",
        *("나는 漢字를 읽는다", "나는|漢|字|를|읽는다"),
        *("漢字 나는 쓴다", "漢|字|나는|쓴다"),
        *((3, 5 + 4), (1, 4 + 3), (2, 5 + 4)),
    ),
    # Ethiopic punctuation, no stems. Shared: all 3; ወደ-ቤት of 3 and 2; in order ወደ ቤት
    Pair(
        "am",
        *("ልጆቹ ወደ ቤት ይሄዳሉ።", "ልጆቹ|ወደ|ቤት|ይሄዳሉ"),
        *("ወደ ቤት፣ ልጆቹ", "ወደ|ቤት|ልጆቹ"),
        *((3, 4 + 3), (1, 3 + 2), (2, 4 + 3)),
    ),
    # jieba. Shared: 爱
    Pair(
        "zh",
        *("我爱北京。", "我|爱|北京"),
        *("他爱上海", "他|爱|上海"),
        *((1, 3 + 3), (0, 2 + 2), (1, 3 + 3)),
    ),
    # the comma is a blank and a word. Shared: all 5; 我-爱, 北京-␣; in order 我 爱 天安门
    Pair(
        "zh",
        *("我爱北京，天安门。", "我|爱|北京|␣|天安门"),
        *("北京，我爱天安门", "北京|␣|我|爱|天安门"),
        *((5, 5 + 5), (2, 4 + 4), (3, 5 + 5)),
    ),
    # Shared: 2008 年 奥运会 北京; 2008-年; in order 2008 年 奥运会
    Pair(
        "zh",
        *("2008年奥运会在北京", "2008|年|奥运会|在|北京"),
        *("北京2008年举办奥运会", "北京|2008|年|举办|奥运会"),
        *((4, 5 + 5), (1, 4 + 4), (3, 5 + 5)),
    ),
    # pythainlp. Shared: รัก ภาษาไทย, beside each other
    Pair(
        "th",
        *("ฉันรักภาษาไทย", "ฉัน|รัก|ภาษาไทย"),
        *("เขารักภาษาไทย", "เขา|รัก|ภาษาไทย"),
        *((2, 3 + 3), (1, 2 + 2), (2, 3 + 3)),
    ),
    # a blank is a word. Shared: all 4; ฉัน-ไป of 3 and 3; in order ฉัน ไป
    Pair(
        "th",
        *("ฉันไป ตลาด", "ฉัน|ไป|␣|ตลาด"),
        *("ตลาด ฉันไป", "ตลาด|␣|ฉัน|ไป"),
        *((4, 4 + 4), (1, 3 + 3), (2, 4 + 4)),
    ),
    # Shared: all 3 of 7, no two beside each other in this order
    Pair(
        "th",
        *("แมวกินปลา", "แมว|กิน|ปลา"),
        *("ปลากินแมว 2 ตัว", "ปลา|กิน|แมว|␣|2|␣|ตัว"),
        *((3, 3 + 7), (0, 2 + 6), (1, 3 + 7)),
    ),
    # MeCab. Shared: 私 は に ます, in this order; 私-は of 7 and 5
    Pair(
        "ja",
        *("私は東京に住んでいます。", "私|は|東京|に|住ん|で|い|ます"),
        *("私は京都に行きます", "私|は|京都|に|行き|ます"),
        *((4, 8 + 6), (1, 7 + 5), (4, 8 + 6)),
    ),
    # the dog saw the cat, the cat saw the dog. Shared: all 6; を-見, 見-た; in order が を 見 た
    Pair(
        "ja",
        *("犬が猫を見た", "犬|が|猫|を|見|た"),
        *("猫が犬を見た", "猫|が|犬|を|見|た"),
        *((6, 6 + 6), (2, 5 + 5), (4, 6 + 6)),
    ),
    # what is there three times is shared once
    Pair(
        "ja",
        *("本、本、本", "本|本|本"),
        *("本を読む", "本|を|読む"),
        *((1, 3 + 3), (0, 2 + 2), (1, 3 + 3)),
    ),
    # Burmese syllables. Shared: the first
    Pair(
        "my",
        *("ကျောင်းသား", "ကျောင်း|သား"),
        *("ကျောင်းသူ", "ကျောင်း|သူ"),
        *((1, 2 + 2), (0, 1 + 1), (1, 2 + 2)),
    ),
    # a blank is none. Shared: all 3 of 4, in this order; the last two beside each other
    Pair(
        "my",
        *("စာအုပ် ဖတ်သည်။", "စာ|အုပ်|ဖတ်|သည်"),
        *("စာဖတ်သည်", "စာ|ဖတ်|သည်"),
        *((3, 4 + 3), (1, 3 + 2), (3, 4 + 3)),
    ),
    # a stack is one syllable. Shared: all 3; the first two of the prediction beside each other
    Pair(
        "my",
        *("ဗုဒ္ဓ စာ", "ဗု|ဒ္ဓ|စာ"),
        *("စာ ဗုဒ္ဓ", "စာ|ဗု|ဒ္ဓ"),
        *((3, 3 + 3), (1, 2 + 2), (2, 3 + 3)),
    ),
]


@pytest.mark.parametrize("pair", BY_HAND, ids=lambda pair: pair.language)
def test_by_hand(pair):
    metric = Rouge(pair.language)
    assert metric.words(pair.prediction) == pair.found.replace("␣", " ").split("|")
    assert metric.words(pair.target) == pair.wanted.replace("␣", " ").split("|")
    expected = {}
    for name in metric.names:
        shared, of = getattr(pair, name)
        expected[name] = float(Fraction(2 * shared, of))
    assert metric.score(pair.prediction, [pair.target]) == pytest.approx(expected, rel=1e-15)
    assert metric.score(pair.target, [pair.prediction]) == pytest.approx(expected, rel=1e-15)


def test_there_are_forty_five_languages():
    assert len(SENTENCES) == 45


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_equals_itself_and_not_its_first_half(language):
    text, metric = SENTENCES[language], Rouge(language.split("-")[0])
    assert metric.score(text, [text]) == {"rouge1": 1, "rouge2": 1, "rougeL": 1}
    assert len(metric.words(text)) > 5
    assert metric.score(text.upper(), [text]) == {"rouge1": 1, "rouge2": 1, "rougeL": 1}
    half = metric.score(text[: len(text) // 2], [text])
    assert all(0 < score < 1 for score in half.values())
    assert metric.score("", [text]) == metric.score(text, [""]) == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


@pytest.mark.parametrize("language", ["zh-Hans", "hi", "ar", "ru"])
def test_the_libraries_score_identical_text_zero_where_it_is_not_latin_which_is_why_this_exists(language):
    text = SENTENCES[language]
    keys = ("rouge1", "rouge2", "rougeL")
    assert [rouge_score(text, text, rouge_keys=keys)[f"{key}_fmeasure"].item() for key in keys] == [0, 0, 0]
    assert [score.fmeasure for score in RougeScorer(keys).score(text, text).values()] == [0, 0, 0]


WORDS = "the The quick brown foxes running, jumped over 12 lazy dogs' don't well-known U.S. (a) 'x' 3.5 _ %"


def drawn(rng, most=40):
    return " ".join(rng.choices(WORDS.split(), k=rng.randrange(most)))


def test_english_without_stems_scores_as_in_googles_library_and_in_torchmetrics(monkeypatch):
    """On words and numbers apart: 3rd is one word there and two here."""
    monkeypatch.setattr("maple.metrics.rouge.stemmer", lambda language: str)
    rng, metric, google = random.Random(SEED), Rouge("en"), RougeScorer(Rouge.names)
    for number in range(300):
        prediction, target = drawn(rng), drawn(rng)
        found = metric.score(prediction, [target])
        theirs = google.score(target, prediction)
        assert found == pytest.approx({name: score.fmeasure for name, score in theirs.items()}, rel=1e-14)
        if number < 100:  # torchmetrics' is slow, and float32
            lightning = rouge_score(prediction, target, rouge_keys=Rouge.names)
            expected = {name: lightning[f"{name}_fmeasure"].item() for name in Rouge.names}
            assert found == pytest.approx(expected, rel=1e-6)


def test_the_longest_common_subsequence_is_that_of_the_table():
    rng = random.Random(SEED)
    for _ in range(300):
        a, b = (rng.choices("abcde", k=rng.randrange(80)) for _ in range(2))
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a, 1):
            for j, y in enumerate(b, 1):
                table[i][j] = table[i - 1][j - 1] + 1 if x == y else max(table[i - 1][j], table[i][j - 1])
        assert common_subsequence(a, b) == table[-1][-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("«¿Sí?» ―no‼ x^2 $5", ["sí", "no", "x", "2", "5"]),  # punctuation of all scripts, and ASCII's signs
        ("abc123 3rd", ["abc", "123", "3", "rd"]),
        ("a\u200db\ufffdc\x00d", ["abcd"]),  # joiners and controls go without a trace
        ("a\u2028b\u00a0c\td\u3000e", list("abcde")),
        ("日本go", ["日", "本", "go"]),
    ],
)
def test_what_is_a_word(text, expected):
    assert tokens(text, "en") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("မြန်မာနိုင်ငံ", ["မြန်", "မာ", "နိုင်", "ငံ"]),
        ("ခံ", ["ခံ"]),
        ("က့်", ["က့်".replace("\u1037\u103a", "\u103a\u1037")]),  # the dot goes behind the asat
        ("\u103a\u102bက", ["\u103a\u102b", "က"]),  # signs without a letter
        ("ကက်က်က်", ["ကက်", "က်", "က်"]),  # of several closing letters the first closes
        ("မကော်", ["မ", "ကော်"]),  # the vowel au closes nothing
        ("", []),
    ],
)
def test_syllables_of_burmese(text, expected):
    assert burmese_syllables(text) == expected


PACKAGES = {
    "th": "pythainlp.tokenize",
    "zh": "jieba",
    "ja": "unidic_lite",
    "en": "pyonmttok",
    "fr": "nltk.stem.snowball",
    "tr": "TurkishStemmer",
}


@pytest.mark.parametrize("language", PACKAGES)
def test_a_missing_package_is_named_when_the_metric_is_made(monkeypatch, language):
    monkeypatch.setitem(sys.modules, PACKAGES[language], None)
    rouge_tokens.tokenizer.cache_clear()
    rouge_stemmers.stemmer.cache_clear()
    with pytest.raises(InputError) as error:
        Rouge(language)
    for word in f"'{language}'", f"'{PACKAGES[language]}'", "pip install 'maple-lora[rouge]'":
        assert word in str(error.value)


def test_the_tokenizers_write_nothing_to_the_screen_the_home_or_the_temporary_folder(tmp_path):
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir(), temporary.mkdir()
    program = (
        "from maple.metrics.rouge_tokens import tokens; [tokens('我 ก', name) for name in ('zh', 'th', 'ja', 'en')]"
    )
    environment = {"HOME": str(home), "TMPDIR": str(temporary), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert not list(home.iterdir()) and not list(temporary.iterdir())
