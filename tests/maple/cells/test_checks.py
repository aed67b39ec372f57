"""What is looked at before the first cell: one cell of a group for all of them."""

import pytest

from maple.cells.checks import group, groups, look
from maple.cells.grid import plan
from maple.cells.job import Job
from tests.studies import EVALUATE, FIT


def jobs(tmp_path, data, grid, **fit):
    settled = plan({"fit": {"data": data, **FIT, "targets": "all-linear"} | fit, "grid": grid, "evaluate": EVALUATE})
    return [Job(tmp_path / "study", cell, settled.evaluate) for cell in settled.cells]


def test_the_largest_rank_stands_for_the_others(tmp_path, data):
    found = groups(jobs(tmp_path, data, {"rank": [8, 64, 1], "seed": [0, 1], "lr": [0.1, 0.2]}))
    assert [job.cell.rank for job in found.values()] == [64]


def test_what_can_go_wrong_by_itself_is_a_group_by_itself(tmp_path, data):
    grid = {"rank": [1, 2], "bits": [4, 8], "data": [data, "tiny"], "targets": ["qv", "all-linear"]}
    every = jobs(tmp_path, data, grid)
    found = groups(every)
    assert len(found) == 8
    assert all(group(job.cell) in found for job in every if job.cell.rank)
    assert not any(group(job.cell) in found for job in every if not job.cell.rank)


def test_a_cell_in_whose_way_nothing_stands(tmp_path, data, capsys):
    found = look(jobs(tmp_path, data, {"rank": [4]})[1])
    assert (found.problems, found.warnings, found.on_gpu) == ([], [], False)
    assert 2**20 < found.memory < 2**30
    assert capsys.readouterr() == ("", "") and not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("rank", "targets", "words"),
    [
        (
            65,
            "all-linear",
            "rank 65 is more than 64, the smallest dimension of a layer of tiny: there a rank of that can",
        ),
        (128, "gate_proj", None),
    ],
)
def test_a_rank_above_the_smallest_dimension_of_what_it_adapts_is_a_warning(tmp_path, data, rank, targets, words):
    found = look(jobs(tmp_path, data, {"rank": [rank]}, targets=targets)[1])
    assert not found.problems and len(found.warnings) == bool(words)
    assert not words or found.warnings[0].startswith(words)


def test_all_problems_of_a_group(tmp_path, data):
    found = look(jobs(tmp_path, data, {"rank": [4]}, targets="nolayer", max_length=9999, device="cuda")[1])
    assert len(found.problems) == 3 and found.on_gpu
    assert all(any(words in problem for problem in found.problems) for words in ("nolayer", "9999", "--device cuda"))
