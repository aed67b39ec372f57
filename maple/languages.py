"""What is known of a language (`languages.yaml`), and, by code, which training sets and tasks have it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from maple.data.published import PUBLISHED

FILE = Path(__file__).with_suffix(".yaml")
HIGH, MID = 4, 3  # the lowest classes of each group; the division is OURS, Joshi et al. have six classes and no groups


@dataclass(frozen=True)
class Fact:
    """Of one language in one script."""

    name: str  # English
    family: str
    scripts: tuple[str, ...]
    joshi: int | None  # class of Joshi et al. 2020, 0 to 5; None: not in their table
    own: str | None  # what the language calls itself; None: CLDR does not say

    @property
    def resources(self) -> str | None:
        """high, mid or low; None where the class is not known."""
        if self.joshi is None:
            return None
        return "high" if self.joshi >= HIGH else "mid" if self.joshi >= MID else "low"


def fact(code: str) -> Fact:
    """Of a code; MLQA's pair de-en is in the language of its context, in which its answers are. KeyError: not known."""
    return known()[language_of(code)]


def language_of(code: str) -> str:
    """The code itself, or of a pair of languages the first."""
    return code if code in known() else code.partition("-")[0]


@cache
def known() -> dict[str, Fact]:
    """All facts by code."""
    rows = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {
        code: Fact(row["name"], row["family"], tuple(row["scripts"]), row["class"], row["own"])
        for code, row in rows.items()
    }


def groups(language: str, trained: Collection[str]) -> set[str]:
    """What a report puts a language under: trained or untrained; and high, mid or low where its resources are known.

    trained   the codes that there were training records of; another script of a language counts as another language
    """
    code = language_of(language)
    return {"trained" if code in trained else "untrained", known()[code].resources} - {None}


def training_sets(language: str) -> list[str]:
    """The published sets that train on a language by default."""
    return [name for name, data in PUBLISHED.items() if language in data.languages]


def tasks(language: str) -> list[str]:
    """The tasks that have a language."""
    from maple.tasks import find, names  # they need facts of languages themselves

    return [name for name in names() if language in find(name).languages]
