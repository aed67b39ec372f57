"""A study's YAML: everything that it refuses, all of it at once, and the cells that it amounts to."""

import subprocess
import sys
import time

import pytest
import yaml

from maple.cells.grid import plan, read_study
from maple.errors import InputError

GRID = "grid: {rank: [1]}\n"


def cells(**sections):
    """The cells of a study."""
    return plan(sections).cells


def flags(found, *names):
    """Of each cell these flags."""
    return [tuple(cell.fit[name] for name in names) for cell in found]


def refused(text, path):
    """What is said of a YAML file."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        plan(read_study(path))
    return str(error.value)


LAUGHS = "fit: &a {model: tiny}\n" + "".join(f"g{n}: [{', '.join(['*a'] * 9)}]\n" for n in range(9)) + GRID
SHAPES = [
    ("", "a study has the sections title, fit, grid, slices, evaluate; this is None"),
    ("# nothing yet\n", "this is None"),
    ("5", "this is 5"),
    ("- rank", "this is ['rank']"),
    ("{}", "a study has the sections"),
    ("title: Ranks", "there is no grid and no slices, so there is no cell; as grid: {rank: [8, 32], bits: [4, 8]}"),
    ("grid: {}", "there is no grid and no slices"),
    (GRID + "grids: {bits: [4]}", "unknown section 'grids'; did you mean 'grid'?"),
    (GRID + "1: 2", "unknown section 1; known: evaluate, fit"),
    (GRID + "title: 5", "title is 5, expected text"),
    (GRID + "fit:", "fit is None, expected flags and their values"),
    (GRID + "fit: tiny", "fit is 'tiny', expected flags and their values"),
    ("grid: rank", "grid is 'rank', expected flags and their values"),
    (GRID + "slices: {rank: [2]}", "slices is {'rank': [2]}, expected a list of combinations"),
    (GRID + "slices: [rank]", "slices[0] is 'rank', expected flags and their values"),
    (GRID + "fit: {bits: [4, 8]}", "fit.bits is [4, 8], expected one plain value"),
    (GRID + "fit: {data: []}", "fit.data is [], expected one plain value"),
    (GRID + "evaluate: {tasks: [xnli]}", "evaluate.tasks is ['xnli'], expected one plain value"),
    ("grid: {rank: {a: 1}}", "grid.rank is {'a': 1}, expected plain values"),
    ("grid: {rank: [[8]]}", "grid.rank is [8], expected plain values"),
    ("grid: {rank: [{}]}", "grid.rank is {}, expected plain values"),
    ("grid: {rank: []}", "grid.rank is an empty list"),
    (GRID + "fit: {max_steps: 4, max-steps: 5}", "fit.max_steps is there twice"),
    (GRID + GRID, ":2 is not YAML of a study: grid is there twice"),
    ("grid:\n  rank: [1]\n  rank: [2]", ":3 is not YAML of a study: rank is there twice"),
    ("slices:\n- {rank: 1, bits: 4,\n   rank: 2}", ":3 is not YAML of a study: rank is there twice"),
    (LAUGHS, ":1 is not YAML of a study: an anchor, alias or tag, of which it needs none"),
    ("grid: {rank: [*a]}", "an anchor, alias or tag"),
    ("grid: {rank: [!!int 1]}", "an anchor, alias or tag"),
    ("grid: !!python/object/apply:os.mkdir [ran]", "an anchor, alias or tag"),
    ("grid: " + "[" * 60_000, "nested deeper than a study is"),
    ("grid: {rank: [[[[1]]]]}", "nested deeper than a study is"),
    (GRID + "---\n" + GRID, ":2 is not YAML of a study"),
    ("? [rank]\n: 1", ":1 is not YAML of a study: found unhashable key"),
    ("grid:\n\trank: [1]", ":2 is not YAML of a study: found character"),
    (GRID + "title: \x00", "is not YAML of a study: unacceptable character"),
    (b"title: \xe9", "not UTF-8 (byte 7)"),
    (GRID.encode("utf-16"), "not UTF-8 (byte 0)"),
    (GRID + "# " + "x" * 2**16, "more than 65536 bytes, which no study has"),
]


@pytest.mark.parametrize(("text", "words"), SHAPES, ids=[words[:50] for _, words in SHAPES])
def test_yaml_that_is_no_study_is_refused_with_its_file(tmp_path, text, words):
    started = time.monotonic()
    said = refused(text, tmp_path / "study.yaml")
    assert words in said and str(tmp_path / "study.yaml") in said and len(said) < 4000
    assert time.monotonic() - started < 2
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_not_there_or_never_ends(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InputError, match=r"there is no such file"):
            read_study(path)
    with pytest.raises(InputError, match=r"^/dev/zero: there is no such file"):
        read_study(type(tmp_path)("/dev/zero"))


TWELVE = list(range(1, 13))
MANY = f"{{rank: {TWELVE}, seed: {TWELVE}, epochs: {TWELVE}, accumulate: {TWELVE}}}"
VALUES = [
    ("grid: {rnk: [1]}", ["grid.rnk: unknown flag; did you mean 'rank'?"]),
    ("grid: {1: [1]}", ["grid.1: unknown flag; known: accumulate, alpha"]),
    (r'grid: {"\e[31mx": [1]}', [r"grid.\x1b[31mx: unknown flag"]),
    (GRID + "evaluate: {task: xnli}", ["evaluate.task: unknown flag; did you mean 'tasks'?"]),
    (GRID + "fit: {out: x, resume: true}", ["fit.out: the study itself", "fit.resume: the study itself decides that"]),
    (GRID + "evaluate: {out: x}", ["evaluate.out: the study itself decides that"]),
    (GRID + "evaluate: {bits: 4, model: tiny}", ["evaluate.bits: that is the cell's; give it under fit", "evaluate.m"]),
    (GRID + "evaluate: {device: cpu, precision: fp32}", ["evaluate.device: that is the", "evaluate.precision: that i"]),
    ("grid: {bits: [3, 4]}", ["grid: --bits is 3, expected one of 4, 8, 16"]),
    ("grid: {rank: [0, 8]}", ["grid: --rank is 0, must be at least 1"]),
    ("grid: {rank: [8], alpha: [0]}", ["grid: --alpha is 0.0, must be above 0"]),
    ("grid: {rank: [true, 8.0, null]}", ["--rank is True, expected int", "--rank is 8.0, exp", "--rank is None, exp"]),
    ("grid: {seed: [2024-01-01]}", ["grid: --seed is 2024-01-01, expected int"]),
    ("grid: {lr: [.nan, 2]}", ["grid: --lr is nan, expected float", "grid: --lr is 2.0, must be above 0 and at most"]),
    ("grid: {rank: [99999999999999999999]}", ["grid: --rank is a number of more than 18 digits"]),
    ("slices: [{rank: 1}, {bits: 5}]", ["slices[1]: --bits is 5"]),
    ("grid: {logger: [csv]}", ["grid.logger: no result depends on it, so it makes no cells; give it under fit"]),
    (f"grid: {MANY}", ["20,736 combinations, at most 10,000"]),
    (f"slices: [{MANY}, {MANY}]", ["41,472 combinations, at most 10,000"]),
    (GRID + "fit: {model: ./nowhere}", ["--model ./nowhere: there is no such folder, and it is no hub id"]),
    (GRID + "fit: {revision: main}", ["--revision main: tiny is on this disk; a revision belongs to a hub id"]),
    ("grid: {data: [tiny, tinny]}", ["--data tinny: there is no such file or folder, nor a data set of that name; di"]),
    ("fit: {languages: 'en,fr'}\n" + GRID, ["--languages en,fr: tiny has no 'fr'; known: ar, de, en"]),
    (GRID + "evaluate: {languages: 'en,fr'}", ["evaluate: --languages: alpaca_eval, belebele, mlqa, xcopa, xlsum, xn"]),
    (GRID + "evaluate: {tasks: xnly}", ["evaluate: --tasks: the embedded world has no task 'xnly'; did"]),
    (GRID + "evaluate: {tasks: xnli, judge: longest}", ["evaluate: --judge longest: none of the tasks is judged"]),
    (GRID + "evaluate: {limit: 0}", ["evaluate: --limit is 0, must be at least 1"]),
    ("grid: {rank: [1, 4]}\nfit: {devices: 2, strategy: fsdp}", ["--strategy fsdp cannot share A, of --rank 1 rows"]),
    (GRID + "fit: {strategy: ddp}", ["--strategy ddp is for several devices; add --devices"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), VALUES, ids=[words[0][:50] for _, words in VALUES])
def test_flags_and_values_that_no_cell_can_have_are_refused(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    said = refused(text, tmp_path / "study.yaml")
    assert all(word in said for word in words), said
    assert said.startswith(f"{len(words)} problems: " if len(words) > 1 else words[0][:5]), said


IMPOSSIBLE = """
title: Everything wrong
fit: {model: ./nowhere, data: ./nodata, lrr: 3, out: x}
grid: {rank: [0, 8], bits: [3, 4], seed: [-1]}
slices: [{rank: [16], languages: 'de,xx', data: tiny}]
evaluate: {tasks: 'xnli,xnly', limit: 0, bits: 4}
"""
ALL = [
    "fit.lrr: unknown flag; did you mean 'lr'?",
    "fit.out: the study itself decides that",
    "grid: --rank is 0",
    "grid: --bits is 3",
    "grid: --seed is -1",
    "--model ./nowhere: there is no such folder",
    "--data ./nodata: there is no such file or folder",
    "--languages de,xx: tiny has no 'xx'",
    "evaluate.bits: that is the cell's",
    "evaluate: --limit is 0",
    "evaluate: --tasks: there is no task 'xnly'",
]


def test_all_problems_are_told_in_one_message_before_torch_is_imported_and_nothing_is_made(tmp_path):
    (tmp_path / "study.yaml").write_text(IMPOSSIBLE)
    script = (
        "import sys; from maple import cli; from maple.study import study\n"
        "try: cli.main(study, ['--config', 'study.yaml', '--out', 'a/b'])\n"
        "except SystemExit as end: print(end.code, *{'torch', 'lightning', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "2\n" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {len(ALL)} problems: (1) ")
    assert all(words in done.stderr for words in ALL), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


# ------------------------------------------------------------------------------------------------- expanded


def test_a_grid_is_the_product_of_its_values_over_what_all_cells_have():
    found = cells(fit={"max_steps": 4, "rank": 99}, grid={"rank": [8, 32], "bits": [4, 16], "seed": 1})
    trained = [cell for cell in found if cell.rank]
    expected = {(rank, bits, 1, 4) for rank in (8, 32) for bits in (4, 16)}
    assert set(flags(trained, "rank", "bits", "seed", "max_steps")) == expected and len(trained) == 4


def test_slices_are_products_of_their_own_beside_the_grid():
    found = cells(
        fit={"bits": 4}, grid={"rank": [8]}, slices=[{"rank": [8, 16], "alpha": 8}, {"seed": 1, "rslora": True}]
    )
    assert flags([cell for cell in found if cell.rank], "rank", "alpha", "rslora", "seed") == [
        (8, 8.0, False, 0),
        (16, 8.0, False, 0),
        (32, 32.0, True, 1),
    ]
    assert flags(cells(slices=[{"rank": 2}]), "rank") == [(0,), (2,)]


def test_alpha_is_the_rank_unless_it_is_given():
    assert flags(cells(grid={"rank": [1, 64]})[1:], "rank", "alpha") == [(1, 1.0), (64, 64.0)]
    assert flags(cells(fit={"alpha": 16}, grid={"rank": [1, 64]})[1:], "alpha") == [(16.0,), (16.0,)]


def test_the_same_cell_named_twice_is_one():
    again = [{"rank": [8]}, {"rank": 8, "alpha": [8.0]}, {"bits": 4, "rank": 8}]
    assert len(cells(grid={"rank": [8, 8]}, slices=again)) == 2
    assert len(cells(fit={"lr": 2e-4}, grid={"rank": [8], "lr": ["2e-4", 0.0002]})) == 2
    assert len(cells(fit={"dropout": 0}, grid={"rank": [8]}, slices=[{"rank": 8, "dropout": 0.0}])) == 2


def test_how_nf4_is_packed_makes_no_cells_of_other_bits():
    found = cells(grid={"rank": [8], "bits": [4, 8, 16], "block_size": [32, 64], "double_quant": [True, False]})
    assert flags([cell for cell in found if cell.rank], "bits").count((4,)) == 4
    assert flags([cell for cell in found if cell.rank], "bits").count((8,)) == 1
    assert flags(found, "bits", "block_size").count((16, None)) == 2  # and its base


def test_the_recipe_is_that_of_the_model():
    found = cells(grid={"rank": [8], "model": ["tiny", "owner/name"]}, evaluate={"tasks": "xnli"})
    assert flags([cell for cell in found if cell.rank], "model", "lr", "batch_tokens") == [
        ("tiny", 5e-3, 1024),
        ("owner/name", 2e-4, 8192),
    ]


def test_cells_of_one_base_come_together_and_behind_it():
    found = cells(grid={"seed": [0, 1], "rank": [1, 2], "bits": [4, 8]}, slices=[{"rank": 4, "bits": 4}])
    assert flags(found, "bits", "rank") == [
        *[(4, rank) for rank in (0, 1, 2, 1, 2, 4)],
        *[(8, rank) for rank in (0, 1, 2, 1, 2)],
    ]


def test_every_base_is_scored_once_in_each_of_its_bits_and_templates():
    found = cells(
        grid={"rank": [1, 2], "bits": [4, 8], "data": ["tiny", "tiny-en"], "template": ["alpaca", "bactrian"]}
    )
    bases = [cell for cell in found if not cell.rank]
    assert sorted(flags(bases, "bits", "template")) == [(b, t) for b in (4, 8) for t in ("alpaca", "bactrian")]
    assert all("data" not in base.fit and "seed" not in base.fit for base in bases)


def test_what_no_result_depends_on_is_in_no_cell_and_kept_beside():
    found = plan({"fit": {"logger": "tensorboard", "checkpoint_every": 7}, "grid": {"rank": [1]}})
    assert found.bookkeeping == {"logger": "tensorboard", "checkpoint_every": 7}
    assert not {"logger", "checkpoint_every", "out", "resume"} & found.cells[1].fit.keys()


def folder_of(path, kind):
    """A model folder or a data folder; enough of one to be looked at."""
    path.mkdir(parents=True)
    (path / ("config.json" if kind == "model" else "en.jsonl")).write_text("{}")
    return str(path)


@pytest.mark.parametrize("kind", ["model", "data"])
def test_two_folders_of_one_last_name_are_refused(tmp_path, kind):
    one, other = (folder_of(tmp_path / place / "same", kind) for place in "ab")
    sections = {"fit": {"model": "tiny"}, "evaluate": {"tasks": "xnli", "data_dir": "tiny"}}
    for grid in ({kind: [one, other]}, {kind: [one, other, one], "rank": [1, 2]}):
        with pytest.raises(
            InputError, match=f"--{kind} {one} and {other} have one last name, by which cells are"
        ) as error:
            plan({**sections, "grid": grid})
        assert "problems" not in str(error.value)
    with pytest.raises(InputError, match="have one last name"):  # their bases would be one
        plan({**sections, "slices": [{kind: one, "rank": 1}, {kind: other, "rank": 2}]})


def test_a_report_elsewhere_needs_neither_model_nor_data(tmp_path):
    config = {"fit": {"model": "./gone", "data": "./lost"}, "grid": {"rank": [1]}, "evaluate": {"data_dir": "./away"}}
    assert len(plan(config, look=False).cells) == 2
    with pytest.raises(InputError, match="3 problems"):
        plan(config)


def test_the_file_is_read_as_it_is_written(tmp_path):
    config = {"title": "Ränge", "fit": {"lr": "2e-4"}, "grid": {"rank": [1, 2]}, "slices": [{"bits": 8}]}
    (tmp_path / "study.yaml").write_text("\ufeff" + yaml.safe_dump(config, allow_unicode=True).replace("\n", "\r\n"))
    assert read_study(tmp_path / "study.yaml") == config
