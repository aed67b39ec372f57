"""What is shown: a line for each part, and a table that fits into a terminal."""

import io
import math
from pathlib import Path

from rich.console import Console

from maple.evaluation.view import View, shown
from maple.metrics.example import Estimate

COUNTED = {"prompts_cut": Estimate(0.5, None, 4), "tokens_per_character": Estimate(0.25, None, 4)}


def view(width=80):
    return View(Console(file=io.StringIO(), width=width))


def said(one):
    return one.console.file.getvalue()


def row(task, language, metric, value, stderr=None):
    return {"task": task, "language": language, "metric": metric, "value": value, "stderr": stderr}


def test_a_value_with_its_standard_error():
    assert shown(Estimate(0.5, 0.25, 4)) == "0.500 ± 0.250" and shown(Estimate(26.5, None, 1)) == "26.500"
    assert shown(Estimate(math.nan, None, 0)) == "nan"


def test_the_line_of_a_part():
    one = view()
    one.end("xnli", "de", {"acc": Estimate(0.5, 0.25, 4), **COUNTED}, 1234, 2.04)
    one.end("alpaca_eval", "en", COUNTED, 4, 1)
    first, second = said(one).splitlines()
    assert first == "xnli de: acc 0.500 ± 0.250 (n 1,234, 50.0 % of prompts cut, 0.25 tokens/character, 2.0 s)"
    assert second.startswith("alpaca_eval en: answers written (n 4")


def test_languages_down_and_tasks_across_and_the_mean_weighs_languages_alike():
    one = view()
    rows = [
        row("xnli", "sw", "acc", 0.25, 0.01),
        row("xnli", "sw", "acc_norm", 0.9, 0.01),
        row("xnli", "de", "acc", 0.75),
        row("xquad", "de", "exact_match", 0.1, 0.1),
        row("xquad", "de", "f1", 0.5, 0.125),
        row("alpaca_eval", "en", "discrete_win_rate", 10.0, 1.0),
        row("alpaca_eval", "en", "win_rate", 26.54, 1.55),
        row("alpaca_eval", "it", "win_rate", None),
        *(row("xnli", "de", name, 0.5) for name in COUNTED),
    ]
    one.table(rows, Path("runs/0001"))
    lines = [line.split() for line in said(one).splitlines() if line.strip()]
    assert lines[0] == ["Scores,", "with", "standard", "errors"]
    assert lines[1:3] == [["xnli", "xquad", "alpaca_eval"], ["acc", "f1", "win_rate"]]
    assert lines[4:7] == [["de", ".75", ".50±.12"], ["en", "26.5±1.6"], ["sw", ".25±.01"]]
    assert lines[7] == ["mean", ".50", ".50", "26.5"]
    assert lines[-1] == ["Scores", "and", "predictions:", "runs/0001"]


def test_seven_tasks_fit_into_80_characters():
    one = view()
    tasks = ("alpaca_eval", "belebele", "mlqa", "xcopa", "xlsum", "xnli", "xquad")
    metrics = ("win_rate", "acc", "f1", "acc", "rougeL", "acc", "f1")
    rows = [row(task, "zh-Hant", metric, 0.345, 0.012) for task, metric in zip(tasks, metrics, strict=True)]
    rows[0] = row("alpaca_eval", "zh-Hant", "win_rate", 100.0, 12.3)
    one.table(rows, Path("out"))
    assert "…" not in said(one) and max(map(len, said(one).splitlines())) <= 80
    assert all(name in said(one) for name in (*tasks, *metrics, "zh-Hant", "100.0±12.3"))


def test_answers_alone_make_no_table():
    one = view()
    one.table([row("alpaca_eval", "en", "prompts_cut", 0.0)], Path("out"))
    assert said(one) == "Scores and predictions: out\n"


def test_no_bar_where_nobody_watches():
    one = view()
    with one.progress(3):
        one.begin("xnli", "de")
        one.advance(3)
        one.judging(1, 3)
    assert said(one) == ""
