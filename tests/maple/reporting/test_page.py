"""The page as text: escaped, whole in itself, the same twice. In a browser: tests/faults/test_report.py."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from maple.reporting.content import Content
from maple.reporting.names import LONGEST
from maple.reporting.page import render
from maple.reporting.samples import Cut, Sample
from maple.reporting.table import Table
from tests.planted import imagine

STUDY = imagine(n=2, ranks=(1, 8), bits=(4,), seeds=(0,), languages=("ar", "en"), tasks=("xnli",))


def page(study=STUDY, **content):
    return render(Content(study, **content), {})


class Elements(HTMLParser):
    """The start tags of a page: (name, attributes), with the text of what may hold no markup."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert self.open == [], "what is opened is closed"

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def of_tag(text, tag):
    return [attributes for name, attributes in Elements(text).found if name == tag]


def filled(text):
    """A page that has this text wherever there is one."""
    return page(
        replace(STUDY, title=text, missing=[text]),
        findings=[text],
        lacking=[text],
        tables={"cells": [Table("cells", text, [text, "b"], [[text, 1.5], [text, None]], text)]},
        sampled=text,
        samples={"xnli": {"ar": [Sample(Cut(text, 0), Cut(text, 0), Cut(text, 9), {text: 0.5})]}},
    )


HOSTILE = (
    "<b>bold</b>",
    "</script><script>alert(1)</script>",
    "\" onclick='alert(1)'",
    "&lt;--",
    "\ud800\x00\x1b",
    "a\u202eb",
    "{{ 1 }}{% raw %}",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(text):
    plain, attacked = filled("a text"), filled(text)
    assert [(name, [*given]) for name, given in Elements(attacked).found] == [
        (name, [*given]) for name, given in Elements(plain).found
    ]
    assert attacked.encode() and not set(attacked) & {"\ud800", "\x00", "\x1b", "\u202e"}


def test_the_policy_names_the_only_script_and_style():
    text = page()
    (policy,) = (meta["content"] for meta in of_tag(text, "meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; ") and "unsafe-inline" not in policy.replace(
        "style-src-attr 'unsafe-inline'", ""
    )
    for tag, directive in (("script", "script-src"), ("style", "style-src-elem")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert text.index("http-equiv") < text.index("<style>")  # a policy holds for what comes after it


def test_it_refers_to_nothing_outside():
    text = page(tables={"cells": [Table("cells", "t", ["a"], [["b"]])]})
    for _, attributes in Elements(text).found:
        for name in ("src", "href", "action", "data", "srcset"):
            assert re.match(r"#|tables/|figures/|$", attributes.get(name) or "")
    assert not re.search(r"https?://|@import|url\(", text)


def test_the_same_study_makes_the_same_page():
    assert page() == page()


def test_numbers_are_shown_short_and_sort_by_all_their_digits():
    text = page(tables={"cells": [Table("cells", "t", ["a", "b", "c"], [["x", 1 / 3, None], ["y", 1234567, "NA"]])]})
    assert '<td class="n" data-n="0.3333333333333333">0.333</td><td></td>' in text
    assert '<td class="n" data-n="1234567">1,234,567</td><td><bdi>NA</bdi></td>' in text


def test_a_long_text_is_cut_in_its_middle():
    text = page(replace(STUDY, title="a" * 5000 + "z" * 5000))
    assert "a" * (LONGEST // 2) + " … " + "z" * (LONGEST // 2) in text and "a" * LONGEST not in text


def test_a_study_of_nothing_is_a_page():
    text = page(replace(STUDY, tasks=[], languages=[], missing=["12 cells are planned."]))
    assert "No adapter has scores yet" in text and "12 cells are planned." in text and "scored on" not in text


def test_texts_have_their_language_and_direction():
    sample = Sample(Cut("سؤال", 120), Cut("جواب", 0), Cut("", 0), {})
    text = page(samples={"mlqa": {"ar-en": [sample]}})
    assert '<dt>Prompt, without 120 characters before this</dt>\n<dd><div dir="auto" lang="ar">سؤال</div></dd>' in text
