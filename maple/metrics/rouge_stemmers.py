"""The stemmers of XL-Sum's ROUGE, a function each; a language that has none is scored unstemmed, as its authors do.

English, French, Portuguese, Russian, Spanish, Arabic and nine more: NLTK's Snowball, as theirs. It is an older Snowball
than snowballstemmer's: of the words in Snowball's own test vocabulary 4 % of the French stems differ, less than 0.3 %
of the English, Portuguese and Russian, and no Spanish one.
Turkish: the package TurkishStemmer, as theirs. Bengali and Hindi: their suffix tables, below.

One thing is not theirs. They leave stop words as they are, from lists that NLTK downloads; here stop words are stemmed
too. Both sides of a comparison are stemmed alike, so a score changes only where two forms of a stop word meet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

from maple.metrics.extra import imported

SHORTEST = 4  # characters of a token that is stemmed
SNOWBALL = {
    "ar": "arabic",
    "da": "danish",
    "de": "german",
    "en": "english",
    "es": "spanish",
    "fi": "finnish",
    "fr": "french",
    "hu": "hungarian",
    "it": "italian",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sv": "swedish",
}

# Kamal's rules (abhik1505040/bengali-stemmer, rafikamal2014/common.rules). The first of a group that fits goes; `->`
# names what takes its place. \u09df is ya with its dot in one character, as it stands there: a text that has it in
# two is not stemmed by these rules. The two rules with a wildcard are left out: their dot is compared as a dot.
BENGALI = (
    "ই ও তো",
    "কে তে রা",
    "চ্ছি চ্ছিল চ্ছে চ্ছিস চ্ছিলেন চ্ছ \u09dfেছে েছ েছে েছেন রছ->র রব->র েল েলো ও\u09dfা "
    "ে\u09dfে->া \u09df \u09dfে \u09dfেছিল ে\u09dfেছিল->া েছিল ে\u09dfেছিলেন->া েছিলেন লেন দের ের "
    "ার েন বেন িস ছিস ছিলি ছি ছে লি বি ে",
    "টি টির েরটা েরটার টা টার গুলো গুলোর েরগুলো েরগুলোর",
)
_BENGALI = [[rule.partition("->") for rule in group.split()] for group in BENGALI]
_BENGALI_VOWEL_SIGNS = frozenset("ািীেুূো")

# Ramanathan and Rao, "A lightweight stemmer for Hindi" (EACL 2003), by length; as in XL-Sum's stemmers.py.
HINDI = {
    5: "ाएंगी ाएंगे ाऊंगी ाऊंगा ाइयाँ ाइयों ाइयां",
    4: "ाएगी ाएगा ाओगी ाओगे एंगी ेंगी एंगे ेंगे ूंगी ूंगा ातीं नाओं नाएं ताओं ताएं ियाँ ियों ियां",
    3: "ाकर ाइए ाईं ाया ेगी ेगा ोगी ोगे ाने ाना ाते ाती ाता तीं ाओं ाएं ुओं ुएं ुआं",
    2: "कर ाओ िए ाई ाए ने नी ना ते ीं ती ता ाँ ां ों ें",
    1: "ो े ू ु ी ि ा",
}
_HINDI = {length: frozenset(suffixes.split()) for length, suffixes in HINDI.items()}


@cache
def stemmer(language: str) -> Callable[[str], str]:
    """What makes a stem of a token; an InputError where its package is missing."""
    find = _stemmer(language)

    @lru_cache(2**16)  # a text repeats its words, and a stem takes 10 to 30 microseconds
    def stem(token: str) -> str:
        return find(token) if len(token) >= SHORTEST else token

    return stem


def _stemmer(language: str) -> Callable[[str], str]:
    if language == "ar":
        return _arabic()
    if language in SNOWBALL:
        return imported("nltk.stem.snowball", language).SnowballStemmer(SNOWBALL[language]).stem
    if language == "tr":
        return imported("TurkishStemmer", language).TurkishStemmer().stem
    return {"bn": bengali, "hi": hindi}.get(language, str)


def _arabic() -> Callable[[str], str]:
    snowball = imported("nltk.stem.snowball", "ar").ArabicStemmer()

    def stem(token: str) -> str:
        # NLTK forgets to clear this one, so a stem would depend on the words before it and a text not equal itself.
        snowball.suffixes_verb_step1_success = False
        return snowball.stem(token)

    return stem


def bengali(token: str) -> str:
    """At most one suffix of each group, and none that would leave only vowel signs."""
    for group in _BENGALI:
        for suffix, replaces, replacement in group:
            if token.endswith(suffix):
                rest = token.removesuffix(suffix)
                if replaces or set(rest) - _BENGALI_VOWEL_SIGNS:
                    token = rest + replacement
                break
    return token


def hindi(token: str) -> str:
    """Without its longest suffix, if two characters remain."""
    for length, suffixes in _HINDI.items():
        if len(token) > length + 1 and token[-length:] in suffixes:
            return token[:-length]
    return token
