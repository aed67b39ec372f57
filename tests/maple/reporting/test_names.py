"""Long names are cut, and stay apart."""

from dataclasses import replace

from maple.reporting.names import LONGEST_NAME, brief, with_short_names
from tests.planted import imagine


def test_the_middle_of_a_long_text_is_left_out():
    assert brief("short") == "short" and brief("a" * 300 + "b" * 300, 10) == "aaaaa … bbbbb"


def test_long_names_that_begin_and_end_alike_stay_apart():
    study = imagine(n=2, models=("m",), data=("d",), ranks=(1, 2, 3), bits=(4,), seeds=(0,))
    long = ["x" * 9000 + str(number) + "x" * 100 for number in range(3)]
    cells = [replace(cell, model=long[0], data=cell.data and long[cell.rank - 1]) for cell in study.cells]
    found = with_short_names(replace(study, cells=cells)).cells
    assert len({cell.model for cell in found}) == 1 and len({cell.data for cell in found}) == 4  # None of the base
    assert all(len(cell.model) < LONGEST_NAME + 10 for cell in found)
    assert [cell.data for cell in found][1] == found[0].model


def test_other_names_stay_as_they_are():
    study = imagine(n=2, models=("meta-llama/Llama-2-7b-hf",), data=("tiny",), ranks=(1,), bits=(4,), seeds=(0,))
    assert [(cell.model, cell.data) for cell in with_short_names(study).cells] == [
        ("meta-llama/Llama-2-7b-hf", None),
        ("meta-llama/Llama-2-7b-hf", "tiny"),
    ]
