"""The report in a real browser: it draws, sorts, filters, fits a phone, needs no network, and does nothing that data say.

The browser is the system's chromium (Debian's package of that name), driven by Playwright, whose own is never fetched.
"""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from maple import cli
from maple.report import report
from tests.planted import imagine, plant, write

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip(
        "needs Debian's chromium: apt-get install chromium fonts-noto-core fonts-noto-cjk", allow_module_level=True
    )
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")

HOSTILE = (
    "<img src=x onerror=window.hit=1>",
    '"><script>window.hit=1</script>',
    "'-alert(1)-'",
    "{{ 7 * 191 }}",
    "$\\frac{",
    "a\u202egpj.exe",
    "javascript:alert(1)",
    "</style><script>window.hit=1</script><svg onload=window.hit=1>",
    "\x00\x1b[31mred\ud800",
    "x" * 10_000,
    "عربي אבג 日本語",
)
# Kept on the page: what its Content-Security-Policy refused.
WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => window.refused.push(event.violatedDirective));
"""


class Page:
    """A page of the browser on a report, with all that it said and asked for."""

    def __init__(self, browser, folder, **options):
        self.said, self.asked = [], []
        self.context = browser.new_context(**options)
        self.context.route("**/*", self.routed)
        self.context.add_init_script(WATCH)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", self.dialog)
        self.page.goto((folder / "report.html").as_uri())

    def routed(self, route):
        self.asked.append(route.request.url)
        route.continue_() if route.request.url.startswith("file:") else route.abort()

    def dialog(self, dialog):
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def __getattr__(self, name):
        return getattr(self.page, name)


@pytest.fixture(scope="module")
def browser():
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # chromium refuses to start as root with one
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens a report in a page of its own."""
    pages = []

    def open_(folder, **options):
        pages.append(Page(browser, folder, **options))
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
    """Everything that has a name or a text is an attack."""
    folder = tmp_path_factory.mktemp("study") / "hostile"
    study = imagine(folder, models=HOSTILE, data=HOSTILE[:2], ranks=(1, 8), bits=(4,), seeds=(0,), n=12)
    cells = [replace(cell, name=f"cell-{number}") for number, cell in enumerate(study.cells)]
    failed = replace(cells[-1], state="failed", error=" ".join(HOSTILE))
    write(replace(study, cells=[*cells[:-1], failed], config=study.config | {"title": " ".join(HOSTILE[:8])}))
    for path in folder.rglob("predictions/*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        texts = [dict.fromkeys(("prompt", "output", "target"), text) for text in (HOSTILE * 2)[: len(rows)]]
        path.write_text("".join(json.dumps(row | text) + "\n" for row, text in zip(rows, texts, strict=True)))
    return reported(folder)


def column(page, table, number, shown_only=False):
    """The texts of a column."""
    rows = page.locator(f"#{table} tbody tr{':visible' if shown_only else ''}")
    return [row.locator("th, td").nth(number).inner_text() for row in rows.all()]


# ------------------------------------------------------------------------------------------------- what it shows


def test_it_loads_without_an_error_or_a_request(opened, whole, unfinished, hostile):
    for folder in (whole, unfinished, hostile):
        page = opened(folder)
        page.wait_for_load_state("networkidle")
        for details in page.locator("details > summary").all():
            details.evaluate("summary => summary.parentElement.open = true")
        assert page.said == [] and page.asked == [(folder / "report.html").as_uri()]
        assert page.evaluate("window.refused") == []
