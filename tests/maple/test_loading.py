"""What is shown while a model is loaded."""

import io

from rich.console import Console

from maple import loading as module
from maple.loading import loading


def shown(reads, **settings):
    console = Console(file=io.StringIO(), width=100, **settings)
    with loading(console) as tell:
        for done in reads:
            tell(done, reads[-1])
    return console.file.getvalue()


def test_of_a_small_model_nothing_is_said_and_of_a_large_one_a_line():
    assert shown([10, 20]) == ""
    said = shown([10, 3_600_000_000])
    assert said.startswith("Loaded 3.60 GB of weights in ") and said.count("\n") == 1


def test_on_a_terminal_there_is_a_bar_that_goes(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 10**12)
    said = shown([10**9, 3 * 10**9, 4 * 10**9], force_terminal=True)
    assert "loading" in said and "GB" in said
    assert said.rstrip().endswith("\x1b[2K")  # its line was wiped


def test_an_error_leaves_no_line(monkeypatch):
    console = Console(file=io.StringIO())
    try:
        with loading(console) as tell:
            tell(10**10, 10**10)
            raise ValueError
    except ValueError:
        pass
    assert console.file.getvalue() == ""
