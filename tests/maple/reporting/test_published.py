"""The paper's numbers as they stand in its tables; where the dossier is at hand, beside it."""

import re
from statistics import fmean

import pytest

from maple.reporting.published import TABLE_1, TABLE_2, TASKS, names
from tests.conftest import SHARED


def test_the_printed_means_are_those_of_the_columns_that_are_not_na():
    for row in TABLE_1:
        mean = fmean(score for score in row.scores.values() if score is not None)
        # Its cells are rounded to .01, so a mean may be off by half of it; .37 is printed of what is .364 here.
        assert row.mean == pytest.approx(mean, abs=0.0101 if row.model == "Mistral-7B-Instruct" else 0.0051)
    assert [row.model for row in TABLE_1 if None in row.scores.values()] == ["Mistral-7B-Instruct"]


def test_the_numbers_are_those_of_the_dossier():
    protocol = SHARED / "facts" / "protocol.md"
    if not protocol.is_file():
        pytest.skip("needs ../shared/facts/protocol.md, which this checkout does not have")
    lines = protocol.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    for row in TABLE_1:
        scores = ["NA" if row.scores[task] is None else f"{row.scores[task]:.2f}".lstrip("0") for task in TASKS]
        assert [row.model, row.data or "NA", *scores, f"{row.mean:.2f}".lstrip("0")] in rows
    text = " ".join(lines)
    short = {"Llama-2-7b": "Llama-2", "Mistral-7b": "Mistral", "Llama-2-70b-chat": "Llama-70B-chat"}
    for win in TABLE_2:
        model = short.get(win.model, win.model)
        if win.data is None:
            assert f"{model} {win.win_rate}" in text
        else:
            assert re.search(rf"\| {model} \| {win.data} \| {win.rank} \| {win.bits} \| {win.win_rate} \|", text)


@pytest.mark.parametrize(
    ("model", "data", "found"),
    [
        ("meta-llama/Llama-2-7b-hf", "multialpaca", ("Llama-2-7b", "MultiAlpaca")),
        ("/models/Mistral-7B-v0.1/", "bactrian-x-22", ("Mistral-7b", "Bactrian-X-22")),
        ("mistralai/Mistral-7B-v0.1", "alpaca", ("Mistral-7b", "alpaca")),
        ("mistralai/Mistral-7B-v0.1", "alpaca (de)", None),  # a part of the data is other data
        ("meta-llama/Llama-2-7b-chat-hf", "alpaca", None),
        ("tiny", "tiny", None),
    ],
)
def test_which_rows_of_the_paper_a_study_repeats(model, data, found):
    assert names(model, data) == found
