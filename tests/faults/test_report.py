"""The report in a real browser: it draws, sorts, filters, fits a phone, needs no network, does nothing that data say.

The browser is the system's chromium (Debian's package of that name), driven by Playwright, whose own is never fetched.
"""

import json
import os
import shutil
from dataclasses import replace

import pytest

from maple import cli
from maple.report import report
from maple.reporting.content import Content
from maple.reporting.page import render
from maple.reporting.table import Table
from tests.planted import imagine, plant, write

MODELS = ("<img src=x onerror=window.hit=1>", "$\\frac{", "\x00\x1b[31mred")
DATA = ('"><script>window.hit=1</script>', "a\u202egpj.exe", "x" * 10_000, "عربي אבג 日本語")
TEXTS = (
    "half of a pair: \ud800",
    "{{ 7 * 191 }}",
    "javascript:alert(1)",
    "</style><script>window.hit=1</script><svg onload=window.hit=1>",
    "</bdi></td></tr></table><form action=http://h><button autofocus onfocus=window.hit=1>",
)
HOSTILE = (*MODELS, *DATA, *TEXTS)
# Kept on the page: what its Content-Security-Policy refused.
WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => window.refused.push(event.violatedDirective));
"""


def open_page(browser, folder, **options):
    """A page of the browser on a report; it has all that was said in `said` and all that was asked for in `asked`."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.said, page.asked = [], []

    def routed(route):
        page.asked.append(route.request.url)
        route.continue_() if route.request.url.startswith("file:") else route.abort()

    def dialog(one):
        page.said.append(f"dialog: {one.message}")
        one.dismiss()

    context.route("**/*", routed)
    context.add_init_script(WATCH)
    page.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", dialog)
    page.goto((folder / "report.html").as_uri())
    return page


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium fonts-noto-core fonts-noto-cjk")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # chromium refuses to start as root with one
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens a report in a page of its own."""
    pages = []

    def open_(folder, **options):
        pages.append(open_page(browser, folder, **options))
        return pages[-1]

    yield open_
    for page in pages:
        page.context.close()


def reported(folder):
    with pytest.raises(SystemExit) as leaving:
        cli.main(report, [str(folder)])
    assert leaving.value.code == 0
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report on a finished study of 48 cells, in which a higher rank helps."""
    folder = tmp_path_factory.mktemp("study") / "whole"
    effect = lambda cell, task, language: 0.4 + 0.05 * (cell.rank > 0) + 0.1 * (cell.rank > 1)  # noqa: E731
    return reported(plant(folder, alphas=(None, 8), effect=effect))


def unfinished_study(folder):
    """One cell is planned, one in training, one failed; another lost its scores of a language."""
    cells = imagine(folder, n=20)
    empty = {"rows": {}, "counted": {}, "items": {}, "summary": None, "seconds": None}
    states = [{"state": "planned"}, {"state": "training"}, {"state": "failed", "error": "no room on the device"}]
    changed = [replace(cell, **empty, **state) for cell, state in zip(cells.cells[-3:], states, strict=True)]
    lost = replace(cells.cells[-4], rows={p: r for p, r in cells.cells[-4].rows.items() if p[1] != "sw"})
    return write(replace(cells, cells=[*cells.cells[:-4], lost, *changed]))


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    return reported(unfinished_study(tmp_path_factory.mktemp("study") / "unfinished"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Everything that has a name or a text is an attack: models, data, title, error, prompts, outputs, targets."""
    folder = tmp_path_factory.mktemp("study") / "hostile"
    study = imagine(folder, models=MODELS, data=DATA, ranks=(1, 8), bits=(4,), seeds=(0,), n=len(HOSTILE))
    write(replace(study, config=study.config | {"title": " ".join((*MODELS, *TEXTS[1:]))}))
    state = folder / "cells" / study.cells[-1].name / "state.json"
    state.write_text(json.dumps({"state": "failed", "error": " ".join(HOSTILE)}))
    for number, path in enumerate(sorted(folder.rglob("predictions/*.jsonl"))):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        texts = HOSTILE[number % len(HOSTILE) :] + HOSTILE[: number % len(HOSTILE)]  # each comes first somewhere
        changed = [
            row | dict.fromkeys(("prompt", "output", "target"), text) for row, text in zip(rows, texts, strict=True)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in changed))
    return reported(folder)


@pytest.fixture(scope="module")
def sortable(whole, tmp_path_factory):
    """A page with one table of every kind of value."""
    rows = [
        ["b", 10, 0.5, "NA"],
        ["a", 9, None, 2.5],
        ["r16", None, -1e-9, 10],
        ["r8", -3, 12345.6, None],
        ["", 1_000_000, 0.25, "none"],
        ["É", 0, 3e-12, -7],
    ]
    table = Table("values", "Values", ["name", "whole", "part", "mixed"], rows)
    content = Content(replace(imagine(), cells=[]), tables={"cells": [table]})
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(render(content, {}), encoding="utf-8")
    return folder


def column(page, number):
    """The texts of a column of that table's rows that are shown."""
    rows = page.locator("#table-values tbody tr:visible").all()
    return [row.locator("th, td").nth(number).inner_text() for row in rows]


def open_all(page):
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")


# ------------------------------------------------------------------------------------------------- what it shows


def test_it_loads_without_an_error_or_a_request(opened, whole, unfinished, hostile):
    for folder in (whole, unfinished, hostile):
        page = opened(folder)
        page.wait_for_load_state("networkidle")
        open_all(page)
        assert page.said == [] and page.asked == [(folder / "report.html").as_uri()]
        assert page.evaluate("window.refused") == []


def test_every_figure_is_there_with_its_letters_and_its_data(opened, whole):
    page = opened(whole)
    drawn = {path.stem for path in (whole / "figures").iterdir()}
    assert drawn and {name.removeprefix("figure-") for name in page.evaluate(IDS)} == drawn
    open_all(page)
    for name in drawn:
        figure = page.locator(f"#figure-{name}")
        box = figure.locator("svg").bounding_box()
        assert box["width"] > 200 and box["height"] > 100
        texts = [text for text in figure.locator("svg text").all_text_contents() if text.strip()]
        sizes = figure.locator("svg text").evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().height)")
        assert len(texts) > 3 and min(sizes) > 8, name
        assert figure.locator("figcaption").inner_text() and figure.locator("tbody tr").count()
        links = figure.locator("figcaption a").evaluate_all("(all) => all.map((one) => one.getAttribute('href'))")
        assert links and all((whole / link).is_file() for link in links)


IDS = "Array.from(document.querySelectorAll('figure'), (one) => one.id)"


def test_no_id_is_there_twice_and_every_link_leads_somewhere(opened, whole, unfinished, hostile):
    for folder in (whole, unfinished, hostile):
        page = opened(folder)
        ids = page.evaluate("Array.from(document.querySelectorAll('[id]'), (one) => one.id)")
        assert len(ids) == len(set(ids))
        links = page.evaluate("Array.from(document.querySelectorAll('a'), (one) => one.getAttribute('href'))")
        assert all(link[1:] in ids if link.startswith("#") else (folder / link).is_file() for link in links)
        used = page.evaluate("Array.from(document.querySelectorAll('use'), (one) => one.getAttribute('href').slice(1))")
        assert set(used) <= set(ids)


def test_an_unfinished_study_says_what_is_missing(opened, unfinished):
    told = opened(unfinished).locator("#missing").inner_text()
    assert "1 cell is planned" in told and "is training" in told and "failed: no room on the device" in told
    assert "has no score of" in told and "sw" in told


def test_without_scripts_the_page_is_whole(opened, whole):
    page = opened(whole, java_script_enabled=False)
    assert page.locator("h1").inner_text() == "A planted study"
    assert page.locator("input, button").count() == 0
    assert page.locator("#table-cells tbody tr").count() == 48
    assert page.locator("figure svg").first.is_visible()
    page.locator("figure summary").first.click()
    assert page.locator("figure table").first.is_visible()


@pytest.mark.parametrize("width", [320, 360, 1366, 1920])
def test_no_width_scrolls_sideways(opened, whole, unfinished, hostile, width):
    for folder in (whole, unfinished, hostile):
        page = opened(folder, viewport={"width": width, "height": 800})
        for _ in range(2):
            root = "document.documentElement"
            assert page.evaluate(f"[{root}.scrollWidth, {root}.clientWidth]") == [width, width]
            open_all(page)


# ------------------------------------------------------------------------------------------------- what it does

NAMES = ["a", "b", "É", "r8", "r16", ""]  # as a reader looks them up; what is empty stays last
SORTED = [
    (0, NAMES, [*NAMES[4::-1], ""]),
    (1, ["-3", "0", "9", "10", "1,000,000", ""], ["1,000,000", "10", "9", "0", "-3", ""]),
    (3, ["-7", "2.5", "10", "none", "NA", ""], ["none", "10", "2.5", "-7", "NA", ""]),
]


@pytest.mark.parametrize(("number", "up", "down"), SORTED)
def test_a_click_on_a_head_sorts_and_a_second_one_reverses(opened, sortable, number, up, down):
    page = opened(sortable)
    heads = page.locator("#table-values th[scope=col]")
    for expected, told in ((up, "ascending"), (down, "descending"), (up, "ascending")):
        heads.nth(number).locator("button").click()
        assert column(page, number) == expected
        assert [head.get_attribute("aria-sort") for head in heads.all()] == [
            told if place == number else None for place in range(4)
        ]


def test_small_numbers_sort_by_their_value_and_not_as_they_are_shown(opened, sortable):
    page = opened(sortable)
    page.locator("#table-values th button").nth(2).click()
    assert column(page, 0) == ["r16", "É", "", "b", "r8", "a"]


def test_the_keyboard_reaches_a_head_and_sorts(opened, sortable):
    page = opened(sortable)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "whole":
            break
    page.keyboard.press("Enter")
    assert column(page, 1)[0] == "-3"
    page.keyboard.press("Space")
    assert column(page, 1)[0] == "1,000,000"


def test_a_field_filters_rows_by_all_of_its_words(opened, sortable):
    page = opened(sortable)
    field = page.locator(".filter input")
    for words, rows in [
        ("R", ["r16", "r8"]),
        ("r 10", ["r16"]),
        ("nothing", []),
        ("", ["b", "a", "r16", "r8", "", "É"]),
    ]:
        field.fill(words)
        assert column(page, 0) == rows
        assert page.locator(".filter output").inner_text() == f"{len(rows)} of 6"
    field.fill("r")
    page.locator("#table-values th button").first.click()
    assert column(page, 0) == ["r8", "r16"]


def test_every_table_of_a_report_sorts(opened, whole):
    page = opened(whole)
    open_all(page)
    assert page.locator("table").count() == page.locator(".scroll > table").count() > 10
    for table in page.locator("table").all():
        table.locator("thead button").last.click()
        assert table.locator("th[aria-sort]").count() == 1
    assert page.said == []


# ------------------------------------------------------------------------------------------------- what it refuses


def test_names_and_texts_are_shown_and_nothing_of_them_runs(opened, hostile):
    page = opened(hostile)
    open_all(page)
    page.wait_for_timeout(300)  # an image that fails does so later
    assert page.evaluate("window.hit") is None and page.said == [] and page.evaluate("window.refused") == []
    assert page.locator("script").count() == page.locator("style").count() == 1
    for wanted in ("img", "iframe", "object", "embed", "form", "base", "link", "foreignObject", "animate", "set"):
        assert page.locator(wanted).count() == 0, wanted
    running = "(all) => all.flatMap((one) => one.getAttributeNames()).filter((name) => name.startsWith('on'))"
    assert page.locator("*").evaluate_all(running) == []
    shown = page.locator("body").inner_text()
    for text in ("<img src=x onerror=window.hit=1>", '"><script>window.hit=1</script>', "{{ 7 * 191 }}", "$\\frac{"):
        assert text in shown
    assert "1337" not in shown and not set(shown) & {"\u202e", "\x1b", "\x00"}


def test_what_came_through_would_still_not_run(opened, hostile):
    """The policy alone, without the escaping: what the other test finds absent is put in by hand."""
    page = opened(hostile)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit=1\">')")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hit=2'}))"
    )
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {src: 'http://h/x.js'}))")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None
    assert {"img-src", "script-src-elem"} <= set(page.evaluate("window.refused"))
    assert page.asked == [(hostile / "report.html").as_uri()]


def test_each_text_stays_in_its_own_box_and_direction(opened, hostile):
    page = opened(hostile, viewport={"width": 360, "height": 800})
    open_all(page)
    texts = page.locator(".sample [lang=ar]")
    assert texts.count() and all(one.get_attribute("dir") == "auto" for one in texts.all())
    boxes = texts.evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().right)")
    assert max(boxes) <= 360
    arabic = page.locator(".sample [lang]", has_text="\u0639\u0631\u0628\u064a").first
    assert arabic.evaluate("(one) => getComputedStyle(one).direction") == "rtl"
