"""The words of XL-Sum's ROUGE (csebuetnlp/xl-sum, multilingual_rouge_scoring), which every script has.

Google's tokenizer keeps a-z and 0-9, so that a Chinese summary scores 0 against itself. Here punctuation becomes a
blank (that of all of Unicode, and ASCII's signs), and then

    th  pythainlp's newmm      zh  jieba      ja  MeCab through fugashi      my  syllables, by rule, below
    else OpenNMT's "aggressive" segmentation, which parts digits from letters, and each CJK character is a word.

What follows the packages' dictionaries changes with their versions: the authors used those of 2021. Their Japanese
dictionary was UniDic, 0.8 GB that are on no package index; ours is unidic-lite, an edition of 2013.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import unicodedata
import warnings
from collections.abc import Callable
from functools import cache

from maple.metrics.characters import Characters, is_punctuation
from maple.metrics.extra import imported

# The ideographs of Chinese, also in Korean and Japanese text; not kana and not hangul.
_IDEOGRAPH = re.compile(
    "([\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f])"
)


def _cleaned(character: str) -> str | None:
    if character in "\t\n\r" or is_punctuation(character) or unicodedata.category(character) == "Zs":
        return " "
    unwanted = character == "\ufffd" or unicodedata.category(character).startswith("C")  # the joiners of Cf, too
    return None if unwanted else character


_CLEANED = Characters(_cleaned)


def tokens(text: str, language: str) -> list[str]:
    """The words of a text in lower case."""
    clean = " ".join(text.lower().translate(_CLEANED).split())
    return tokenizer(language)(clean) if clean else []


@cache
def tokenizer(language: str) -> Callable[[str], list[str]]:
    """What splits a clean text into words; an InputError where its package is missing.

    jieba and pythainlp return the blanks between words as words. So do the authors: where punctuation was, there is a
    blank, and it counts.
    """
    return _TOKENIZERS.get(language, _aggressive)(language)


def _aggressive(language: str) -> Callable[[str], list[str]]:
    segmenter = imported("pyonmttok", language).Tokenizer("aggressive")
    return lambda text: _IDEOGRAPH.sub(r" \1 ", " ".join(segmenter.tokenize(text)[0])).split()


def _thai(language: str) -> Callable[[str], list[str]]:
    os.environ.setdefault("PYTHAINLP_READ_ONLY", "1")  # else it makes a folder in the home, which may be read-only
    word_tokenize = imported("pythainlp.tokenize", language).word_tokenize
    return lambda text: word_tokenize(text, engine="newmm")


def _chinese(language: str) -> Callable[[str], list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pkg_resources, and of escapes in its source
        jieba = imported("jieba", language)
    jieba.setLogLevel(logging.ERROR)  # else four lines on stderr
    segmenter = jieba.Tokenizer()
    with tempfile.TemporaryDirectory() as segmenter.tmp_dir:  # else it trusts a file that anybody may put into /tmp
        segmenter.initialize()
    return segmenter.lcut


def _japanese(language: str) -> Callable[[str], list[str]]:
    fugashi = imported("fugashi", language)
    folder = imported("unidic_lite", language).DICDIR  # named, else another UniDic would be used where one is installed
    tagger = fugashi.GenericTagger(f'-O wakati -b 50000 -r "{folder}/mecabrc" -d "{folder}"')
    return lambda text: tagger.parse(text).split()


def _burmese(language: str) -> Callable[[str], list[str]]:
    return burmese_syllables


_TOKENIZERS = {"ja": _japanese, "my": _burmese, "th": _thai, "zh": _chinese}

_ASAT, _DOT_BELOW, _STACK = "\u103a", "\u1037", "\u1039"
_BURMESE_UNIT = re.compile(".[\u102b-\u1032\u1036-\u1038\u103a-\u103e]*", re.DOTALL)  # a character and its signs


def burmese_syllables(text: str) -> list[str]:
    """Syllables of Burmese, which writes no blanks between words (doi 10.1145/3325885, and its rules in XL-Sum).

    A consonant under asat closes the syllable before it, unless what came before was such a one, too; the stack sign
    joins the two letters that it stands between.
    """
    text = "".join(text.replace(_DOT_BELOW + _ASAT, _ASAT + _DOT_BELOW).split())
    units = _BURMESE_UNIT.findall(text)
    for i in range(1, len(units)):
        if _ASAT in units[i] and len(units[i]) < 4:  # four: the vowel au, a syllable of its own
            units[i - 1], units[i] = units[i - 1] + units[i], ""
    return " ".join(filter(None, units)).replace(f" {_STACK} ", _STACK).split()
