"""A signature as a command line, and what answers without torch."""

import inspect
import subprocess
import sys
import textwrap
import typing
from typing import Literal

import pytest

from maple import cli
from maple.errors import InputError, refuse_kernels_distribution


def verb(model: str, bits: Literal[4, 8, 16] = 4, max_steps: int | None = None, rslora: bool = False) -> None:
    """Do something.

    model: a name
    bits: of the weights
    max_steps: how far
    rslora: or not
    """


def test_defaults_flags_and_yaml(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("model: m\nmax_steps: 7\nbits: 8\n")
    expected = {"model": "m", "bits": 8, "max_steps": 9, "rslora": False}
    assert cli.parse(verb, ["--config", str(file), "--max-steps", "9"]) == expected
    assert cli.parse(verb, ["--model=m"]) == {"model": "m", "bits": 4, "max_steps": None, "rslora": False}


def test_the_printed_config_runs_again(tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.parse(verb, ["--model", "m", "--max-steps", "3", "--print_config"])
    assert leaving.value.code == 0
    file = tmp_path / "c.yaml"
    file.write_text(capsys.readouterr().out)
    assert cli.parse(verb, ["--config", str(file)]) == cli.parse(verb, ["--model", "m", "--max-steps", "3"])


WRONG = [
    (["--modle", "x"], "unknown flag --modle; did you mean '--model'?"),
    (["--model", "x", "--max_steps", "3"], "unknown flag --max_steps; did you mean '--max-steps'?"),
    (["--model", "x", "--max", "3"], "unknown flag --max"),
    (["--model", "x", "--bits", "5"], "--bits is 5, expected one of 4, 8, 16"),
    (["--model", "x", "--max-steps", "many"], "--max-steps is many, expected int"),
    ([], "missing: --model"),
    (["--model", "x", "stray"], "stray"),
    (["--model", "x", "--rslora", "maybe"], "--rslora is maybe, expected bool"),
    (["--model"], "--model: expected one argument"),
    (["--config", "nowhere.yaml"], "nowhere.yaml"),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_a_wrong_command_line_is_one_sentence(argv, words):
    with pytest.raises(InputError) as error:
        cli.parse(verb, argv)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("modle: x", "unknown key 'modle'; did you mean 'model'?"),
        ("model: x\nbits: four", "--bits is four"),
        ("model: [x", "c.yaml"),
        ("- 1", "c.yaml"),
        ("\x00", "c.yaml"),
        ("model: m\nrslora: null", "--rslora is null, but it needs a value"),
        ("a: &a [*a]", "c.yaml"),
        ("max_steps: !!float x", "c.yaml"),
    ],
)
def test_a_wrong_config_file_is_one_sentence(tmp_path, content, words):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(InputError) as error:
        cli.parse(verb, ["--config", str(file)])
    assert words in str(error.value) and "\n" not in str(error.value)


def on_a_folder(folder: str, /, bits: Literal[4, 8, 16] = 4) -> None:
    """Do something with a folder.

    folder: where
    bits: of the weights
    """
    print(folder, bits)


def test_a_positional_parameter_is_a_word_without_a_flag(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(on_a_folder, ["some where", "--bits", "8"])
    assert capsys.readouterr().out == "some where 8\n"
    file = tmp_path / "c.yaml"
    file.write_text("folder: there\n")
    assert cli.parse(on_a_folder, ["--config", str(file)]) == {"folder": "there", "bits": 4}
    for argv, words in [
        ([], "missing: FOLDER"),
        (["a", "b"], "unrecognized arguments: b"),
        (["--folder", "a"], "unknown flag --folder; known: --bits, "),
    ]:
        with pytest.raises(InputError, match=words):
            cli.parse(on_a_folder, argv)
    assert "FOLDER  " in cli.build_parser(on_a_folder).format_help()


def leave_with(function, capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(function, [])
    return leaving.value.code, capsys.readouterr().err


def test_exit_codes(capsys):
    def fine() -> None:
        """Nothing."""

    def wrong() -> None:
        """Nothing."""
        raise InputError("the file\x1b[31m is wrong")

    def interrupted() -> None:
        """Nothing."""
        raise KeyboardInterrupt

    def terminated() -> None:
        """Nothing."""
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)

    def unreadable() -> None:
        """Nothing."""
        open("x" * 300)  # noqa: SIM115

    def lightning_after_ctrl_c() -> None:
        """Nothing."""
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    assert leave_with(fine, capsys) == (0, "")
    assert leave_with(wrong, capsys) == (2, "error: the file\\x1b[31m is wrong\n")
    assert leave_with(unreadable, capsys) == (2, f"error: {'x' * 300}: File name too long\n")
    assert leave_with(interrupted, capsys)[0] == leave_with(lightning_after_ctrl_c, capsys)[0] == 130
    assert leave_with(terminated, capsys)[0] == 143


WITHOUT_TORCH = textwrap.dedent("""
    import sys
    from maple import cli
    from maple.fit import fit
    try:
        cli.main(fit, {argv})
    except SystemExit as leaving:
        heavy = [name for name in ("torch", "lightning", "transformers", "datasets", "numpy") if name in sys.modules]
        print("CODE", leaving.code, "HEAVY", heavy)
""")


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--help"], 0, "--batch-tokens"),
        (["--rnak", "3"], 2, "unknown flag --rnak; did you mean '--rank'?"),
        (["--model", "m", "--data", "d", "--bits", "5"], 2, "--bits is 5"),
        (
            ["--model", "a/b", "--data", "d", "--rank", "0", "--lr", "-1"],
            2,
            "--rank is 0, must be at least 1; --lr is -1.0",
        ),
        (["--model", "./nowhere", "--data", "d"], 2, "no such folder"),
        (["--model", "a/b", "--data", "./nowhere.jsonl"], 2, "no such file or folder"),
        (["--model", "a/b", "--data", __file__], 2, "ends in .jsonl"),
        (["--revision", "v2"], 2, "--revision v2: tiny is on this disk"),
        (["--data", "tinny"], 2, "did you mean 'tiny'?"),
        (["--languages", "fr"], 2, "--languages fr: tiny has no 'fr'"),
        (["--data", "multialpaca", "--languages", "en"], 2, "multialpaca has no 'en'; known: ar, de"),
        (["--english-share", "1.5"], 2, "--english-share is 1.5, must be from 0 to 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_it_answers_without_importing_torch(argv, code, words):
    script = WITHOUT_TORCH.format(argv=argv)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"CODE {code} HEAVY []" in result.stdout
    assert words in (result.stdout if code == 0 else result.stderr)
    assert "Traceback" not in result.stderr


def test_importing_maple_imports_nothing_heavy():
    script = "import sys, maple; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        __import__("maple").load_modle  # noqa: B018


def test_the_distribution_called_kernels_is_refused(tmp_path, monkeypatch):
    refuse_kernels_distribution()
    info = tmp_path / "kernels-0.12.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.12.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"'kernels' 0\.12\.0 is installed.*pip uninstall kernels"):
        refuse_kernels_distribution()
    import maple

    with pytest.raises(InputError, match="pip uninstall kernels"):
        maple.load_model  # noqa: B018


def test_every_flag_of_fit_has_its_help():
    from maple.fit import fit

    text = cli.build_parser(fit).format_help()
    flags = [name.replace("_", "-") for name in inspect.signature(fit).parameters]
    assert all(f"--{flag} " in text for flag in flags)


def test_choices_that_are_written_without_torch_are_those_of_the_code():
    from kernels.packed import BLOCK_SIZES
    from maple import choices
    from maple.data.prompts import TEMPLATES

    assert typing.get_args(choices.BlockSize) == tuple(BLOCK_SIZES)
    assert typing.get_args(choices.Template) == (*TEMPLATES, "chat")
