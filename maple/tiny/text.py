"""Plain text of the world, which the base is pre-trained on."""

from __future__ import annotations

import random

from maple.tiny.language import Language, language
from maple.tiny.world import BASE_PEOPLE, draw_scene

# Share of the documents in each language. Unequal, as in any real corpus, so that a language's resources are a factor;
# flat enough that the rarest still learns to copy a word from its context.
SHARES = {
    **{"en": 0.24, "es": 0.14, "de": 0.12, "ru": 0.11, "zh": 0.10},
    **{"ar": 0.08, "hi": 0.07, "tr": 0.05, "th": 0.05, "sw": 0.04},
}
ROUNDS = 4  # a fact is told this often: what is read again can be predicted only by looking back, which teaches to copy


def document(rng: random.Random, lang: Language) -> str:
    """One to three kinds of facts about one or two people, told and asked in several ways, over and over."""
    facts = draw_scene(rng, BASE_PEOPLE, kinds=rng.choice((1, 2, 3)))
    told = [lang.statements(fact)[0] for fact in facts]
    for _ in range(ROUNDS - 1):
        for fact in rng.sample(facts, len(facts)):
            if rng.random() < 0.4:
                told += [lang.question(fact), rng.choice((lang.answer(fact), lang.statements(fact)[0]))]
            else:
                told.append(rng.choice(lang.statements(fact)))
    return rng.choice((lang.separator, "\n")).join(told)  # in lines, half of the time, as prompts are


def documents(seed: int):
    """Endless (language, document), the languages in their shares: a function of the seed."""
    rng = random.Random(seed)
    codes, weights = list(SHARES), list(SHARES.values())
    while True:
        (code,) = rng.choices(codes, weights)
        yield code, document(rng, language(code))
