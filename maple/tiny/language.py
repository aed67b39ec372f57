"""Facts as sentences: the lexicon and templates of a language, read from `languages/<code>.yaml`.

values       the words of each value; several forms of one, separated by " / ", are named by `forms`
{p} {p.gen}  the person, in the first or a named form; {q} the friend; {v} {v.acc} the value
[she|he]     by the person's gender;  <she|he> by the friend's
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import yaml

from maple.errors import InputError
from maple.tiny.world import PEOPLE, Fact, is_woman

FOLDER = Path(__file__).parent / "languages"


class Language:
    """The sentences of one language."""

    def __init__(self, code: str, mark: str = ""):
        self.code, self.mark = code, mark  # the mark is set around every word filled in
        own = _read(code)
        names = own if "women" in own else _read("en")  # languages in Latin script share the English spelling
        self.names = [_forms(names[("women", "men")[i % 2]][i // 2], own.get("name_forms")) for i in range(PEOPLE)]
        self.kinds = {kind: entry for kind, entry in own.items() if isinstance(entry, dict)}
        self.values = {
            kind: [_forms(value, entry.get("forms")) for value in entry.get("values", ())]
            for kind, entry in self.kinds.items()
        }
        self.separator: str = own.get("separator", " ")  # between sentences
        self._sentence: str = own["sentence"]
        self.repeat: str = own["repeat"]  # the instruction to repeat the last sentence

    def statements(self, fact: Fact) -> list[str]:
        """The fact, said in each of three ways; in this world who reads books, or has them on the table, has them."""
        return [self._fill(template, fact) for template in self.kinds[fact.kind]["statements"]]

    def question(self, fact: Fact) -> str:
        """What is asked to learn the fact's value."""
        return self._fill(self.kinds[fact.kind]["question"], fact)

    def answer(self, fact: Fact) -> str:
        """The value, as short as one would say it."""
        return self._fill(self.kinds[fact.kind]["answer"], fact)

    def in_a_sentence(self, question: str) -> str:
        """The instruction to answer a question by the whole fact."""
        return self._sentence.replace("{question}", question)

    def _fill(self, template: str, fact: Fact) -> str:
        words = {"p": self.names[fact.person]}
        if fact.kind == "friend":
            words["q"] = self.names[fact.value]
            template = _choose(template, "<", ">", is_woman(fact.value))
        else:
            words["v"] = self.values[fact.kind][fact.value]
        template = _choose(template, r"\[", r"\]", is_woman(fact.person))
        sentence = re.sub(
            r"{(\w)(?:\.(\w+))?}", lambda m: self.mark + words[m[1]][m[2] or "only"] + self.mark, template
        )
        return self._capitalise(sentence)

    def _capitalise(self, sentence: str) -> str:
        first = sentence.removeprefix(self.mark)[0]
        upper = "İ" if self.code == "tr" and first == "i" else first.upper()
        return sentence.replace(first, upper, 1)


@cache
def language(code: str) -> Language:
    """The language of a two-letter code. Raises InputError for one that the world does not speak."""
    if not (FOLDER / f"{code}.yaml").is_file():
        known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
        raise InputError(f"the embedded world has no language {code!r}; known: {', '.join(known)}")
    return Language(code)


def _read(code: str) -> dict:
    return yaml.safe_load((FOLDER / f"{code}.yaml").read_text(encoding="utf-8"))


def _forms(words: str, names: list[str] | None) -> dict[str, str]:
    """'Рим / Риме', [nom, loc] -> {'only': 'Рим', 'nom': 'Рим', 'loc': 'Риме'}."""
    forms = words.split(" / ")
    return {"only": forms[0], **dict(zip(names or (), forms, strict=bool(names)))}


def _choose(template: str, opening: str, closing: str, first: bool) -> str:
    """'[she|he]' -> 'she' where `first`, else 'he'."""
    return re.sub(rf"{opening}([^|{closing}]*)\|([^{closing}]*){closing}", r"\1" if first else r"\2", template)
