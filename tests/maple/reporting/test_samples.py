"""Examples of answers: the first ones, cut where they are long."""

import json

from maple.reporting.samples import LONGEST, Cut, Sample, read_samples
from maple.reporting.study import read_study
from tests.planted import plant


def planted(tmp_path, **texts):
    """The samples of a cell whose predictions of xnli in Arabic have these texts."""
    folder = plant(tmp_path / "study", n=5, ranks=(1,), bits=(4,), seeds=(0,), tasks=("xnli",), languages=("ar", "en"))
    cell = read_study(folder).cells[-1]
    path = cell.scores / "predictions" / "xnli.ar.jsonl"
    rows = [json.loads(line) | texts for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_samples(cell)["xnli"]


def test_the_first_three_of_each_language(tmp_path):
    found = planted(tmp_path)
    assert list(found) == ["ar", "en"] and [sample.prompt.text for sample in found["ar"]] == [
        "Question 0?",
        "Question 1?",
        "Question 2?",
    ]


def test_of_a_prompt_the_end_is_kept_and_of_an_answer_the_beginning(tmp_path):
    long = "a" * 5000 + "b" * 5000
    found = planted(tmp_path, prompt=long, output=long, target="b" * LONGEST)["ar"][0]
    assert found == Sample(
        Cut("b" * LONGEST, 10_000 - LONGEST),
        Cut("a" * LONGEST, 10_000 - LONGEST),
        Cut("b" * LONGEST, 0),
        found.score,
    )


def test_texts_of_another_kind_are_no_error(tmp_path):
    found = planted(tmp_path, prompt=None, output=[1], target={"a": 2})["ar"][0]
    assert [cut.text for cut in (found.prompt, found.output, found.target)] == ["", "[1]", "{'a': 2}"]
