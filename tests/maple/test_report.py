"""The command: what it refuses, what it leaves, and that it needs no torch."""

import shutil
import subprocess
import sys
import textwrap

import pytest

from maple import cli
from maple.report import report, tell_missing
from tests.planted import plant


@pytest.fixture
def study(tmp_path):
    return plant(tmp_path / "study", n=10, ranks=(1, 8), bits=(4, 16), seeds=(0,))


def command(*words):
    """Exit code of the command in this process."""
    with pytest.raises(SystemExit) as leaving:
        cli.main(report, list(map(str, words)))
    return leaving.value.code


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ------------------------------------------------------------------------------------------------- refused


def no_study(folder, monkeypatch):
    (folder / "study.yaml").unlink()


def not_yaml(folder, monkeypatch):
    (folder / "study.yaml").write_text("grid: [")


def no_matplotlib(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def not_writable(folder, monkeypatch):  # root may write wherever the disk lets it, and tests may run as root
    monkeypatch.setattr("os.access", lambda path, mode: path != folder)


def file_in_the_way(name):
    return lambda folder, monkeypatch: (folder / name).write_text("mine")


def folder_in_the_way(folder, monkeypatch):
    (folder / "report.html").mkdir()


def nothing(folder, monkeypatch):
    pass


REFUSED = [
    (nothing, [], "missing: FOLDER"),
    (nothing, ["STUDY", "more"], "unrecognized arguments: more"),
    (nothing, ["--folder", "STUDY"], "unknown flag --folder"),
    (nothing, ["STUDY", "--out", "x"], "unknown flag --out"),
    (nothing, ["STUDY/nowhere"], "STUDY/nowhere: there is no such folder; give the --out of a python -m maple.study"),
    (nothing, ["STUDY/study.yaml"], "STUDY/study.yaml: there is no such folder"),
    (nothing, ["STUDY/cells"], "STUDY/cells holds no study: there is no study.yaml in it"),
    (no_study, ["STUDY"], "STUDY holds no study: there is no study.yaml in it; python -m maple.study makes one"),
    (not_yaml, ["STUDY"], "STUDY/study.yaml:2 is not YAML of a study"),
    (no_matplotlib, ["STUDY"], "a report needs matplotlib: pip install -e '.[plots]'"),
    (not_writable, ["STUDY"], "STUDY: nothing can be written in it, and the report would lie there; copy it elsewhere"),
    (file_in_the_way("tables"), ["STUDY"], "STUDY/tables is in the way of the report, which has that name for its own"),
    (file_in_the_way("figures"), ["STUDY"], "STUDY/figures is in the way of the report"),
    (folder_in_the_way, ["STUDY"], "STUDY/report.html is in the way of the report"),
    (nothing, ["x" * 300], "x: File name too long"),
]


@pytest.mark.parametrize(("harm", "words", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_is_refused_is_told_in_one_sentence_and_nothing_is_written(
    study, monkeypatch, capsys, harm, words, message
):
    harm(study, monkeypatch)
    before = content(study)
    assert command(*(word.replace("STUDY", str(study)) for word in words)) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and message.replace("STUDY", str(study)) in told
    assert content(study) == before


# ------------------------------------------------------------------------------------------------- left


def test_it_leaves_a_page_tables_and_pictures_and_the_same_ones_again(study, capsys):
    before = content(study)
    assert command(study) == 0
    left = content(study)
    assert before.items() <= left.items()
    kinds = {name.partition("/")[0] for name in left.keys() - before.keys()}
    assert kinds == {"report.html", "tables", "figures"}
    assert left["report.html"].startswith(b"<!doctype html>")
    assert capsys.readouterr().out.endswith(f"Report: {study / 'report.html'}\n")
    (study / "tables" / "of-another-version.csv").write_text("x")
    assert command(study) == 0
    assert content(study) == left


def unscored(cell_folder):
    """As a cell is before it begins."""
    for path in sorted(cell_folder.rglob("*"), reverse=True):
        if path.name != "cell.json":
            path.rmdir() if path.is_dir() else path.unlink()


def test_a_study_that_has_not_begun_is_a_report_too(study, capsys):
    for cell in (study / "cells").iterdir():
        unscored(cell)
    assert command(study) == 0
    said = capsys.readouterr().out
    assert "6 cells are planned and not begun" in said
    assert "No adapter has scores yet" in (study / "report.html").read_text()
    shutil.rmtree(study / "cells")
    before = (study / "report.html").read_bytes()
    assert command(study) == 0
    assert (study / "report.html").read_bytes() == before


def test_of_many_things_that_are_missing_the_terminal_has_the_first(capsys):
    tell_missing([f"cell {number} failed: \x1b[31m {'x' * 9000}" for number in range(6)])
    said = capsys.readouterr().out
    assert said.count("failed: \\x1b[31m xxx") == 5 and "... and 1 more; the page has all of them." in said
    assert len(said) < 3000


WITHOUT_TORCH = textwrap.dedent("""
    import sys
    from maple import cli
    from maple.report import report, tell_missing
    try:
        cli.main(report, {words})
    except SystemExit as leaving:
        names = ("torch", "lightning", "transformers", "datasets", {more})
        print("CODE", leaving.code, "HEAVY", [name for name in names if name in sys.modules])
""")


@pytest.mark.parametrize(("words", "more"), [(["STUDY"], ()), (["--help"], ("matplotlib", "numpy", "jinja2"))])
def test_it_needs_no_torch(study, words, more):
    words = [word.replace("STUDY", str(study)) for word in words]
    script = WITHOUT_TORCH.format(words=words, more=", ".join(map(repr, more)))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("CODE 0 HEAVY []\n") and result.stderr == ""
