"""Everything that can go wrong is found before a run, and all of it at once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import maple
from maple import checks, cli, fit, packed_copy, tiny
from maple.check import check
from maple.room import _cgroup_rooms
from maple.trips import differences

ROOT = Path(__file__).resolve().parents[2]
RECORD = {"instruction": "Nora lives in Rome. Where does Nora live?", "input": "", "output": "In Rome."}
SMALL = ["--batch-tokens", "512", "--max-length", "256"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Runs and caches of the test go to its own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path) -> Path:
    """A copy of the embedded model, to be damaged."""
    return Path(shutil.copytree(tiny.BASE, tmp_path / "model"))


@pytest.fixture
def data(tmp_path) -> Path:
    """Two languages of thirty records."""
    folder = tmp_path / "data"
    folder.mkdir()
    for language in ("en", "de"):
        write(folder / f"{language}.jsonl", [RECORD | {"input": str(number)} for number in range(30)])
    return folder


def write(path: Path, records: list) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def run(capsys, *argv: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `python -m maple.check`."""
    with pytest.raises(SystemExit) as leaving:
        cli.main(check, [*map(str, argv)])
    printed = capsys.readouterr()
    return leaving.value.code, printed.out, printed.err


def test_a_run_that_would_work(model, data, capsys, monkeypatch):
    monkeypatch.setattr("maple.shards.Shards.get", lambda *_: pytest.fail("a weight was read"))
    before = sorted(Path().iterdir())
    code, out, err = run(capsys, "--model", model, "--data", data, *SMALL)
    assert (code, err) == (0, "")
    assert out.count("✓") == 9 and "✗" not in out and "–" not in out
    for words in ("llama, 4 layers of 128", "38 tensors", "60 records in 2 languages: de en", "«In Rome.</s>»"):
        assert words in out
    for part in ("packed base", "LoRA", "optimizer", "activations", "loss", "all tensors", "available"):
        assert part in out
    assert out.endswith("Nothing stands in the way.\n")
    assert sorted(Path().iterdir()) == sorted([*before, Path("cache")])  # nothing but the cache of tokens


def test_its_flags_are_those_of_fit():
    assert cli.parse(check, ["--rank", "8"]) == cli.parse(fit.fit, ["--rank", "8"])


def test_help_needs_no_torch():
    script = (
        "import sys; from maple import cli; from maple.check import check\n"
        "try: cli.main(check, ['--help'])\n"
        "finally: print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT).stdout
    assert "before a weight is read" in " ".join(printed.split()) and "peak learning rate of AdamW" in printed
    assert printed.endswith("[]\n")


def truncate(model, data):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_header(model, data):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:8] + b"x" + path.read_bytes()[9:])


def drop_a_tensor(model, data):
    tensors = load_file(model / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def change_config(model, **changes):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))


def remove_tokenizer(model, data):
    for path in model.glob("tokenizer*"):
        path.unlink()


def break_a_line(model, data):
    with (data / "de.jsonl").open("a") as file:
        file.write('{"instruction": "x"\n')


def lengthen_a_prompt(model, data):
    write(data / "de.jsonl", [RECORD | {"input": "Rome " * 400}] * 3)


FOUND = {
    "a cut file of weights": (truncate, [], "not a readable safetensors file"),
    "a damaged header": (damage_header, [], "not a readable safetensors file"),
    "a missing tensor": (drop_a_tensor, [], "model.norm.weight is missing"),
    "shapes of another config": (
        lambda model, data: change_config(model, intermediate_size=400),
        [],
        "the model has [400, 128] there",
    ),
    "a family that is not supported": (
        lambda model, data: change_config(model, model_type="gpt2"),
        [],
        "'gpt2' is not supported",
    ),
    "a config that is no JSON": (lambda model, data: (model / "config.json").write_text("{"), [], "config.json"),
    "no tokenizer": (remove_tokenizer, [], "neither tokenizer.json nor tokenizer.model"),
    "a wrong line": (break_a_line, [], "de.jsonl:31: not JSON"),
    "a prompt that leaves no room": (lengthen_a_prompt, ["--max-length", "200"], "de.jsonl:1: no supervised token"),
    "a target that is not there": (None, ["--targets", "q_prij"], "did you mean 'q_proj'"),
    "more than the window": (None, ["--max-length", "4096"], "more than the 512 positions"),
    "a row too long for a micro-batch": (None, ["--batch-tokens", "100"], "less than one row"),
    "a number out of range": (None, ["--rank", "0"], "--rank is 0, must be at least 1"),
    "a GPU that is not there": (None, ["--device", "cuda"], "PyTorch finds no GPU"),
    "a folder that is taken": (None, ["--out", "data"], "--out data is not empty"),
    "no chat template": (None, ["--template", "chat"], "no chat template"),
    "a language that is not there": (None, ["--languages", "sw"], "no 'sw'"),
}


@pytest.mark.parametrize(("damage", "flags", "words"), FOUND.values(), ids=FOUND)
def test_one_problem_is_one_sentence(model, data, capsys, monkeypatch, damage, flags, words):
    if "cuda" in flags:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if damage:
        damage(model, data)
    code, out, err = run(capsys, "--model", model, "--data", data, *SMALL, *flags)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and words in err, err
    assert "problems" not in err, err
    assert "✗" in out and "Nothing stands" not in out and not Path("runs").exists()


def test_the_disk_must_hold_the_packed_copy_that_the_first_start_keeps(model, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packed_copy, "WORTH", 0)
    _, out, _ = run(capsys, "--model", model, "--data", data, *SMALL)
    assert f"0.4 MiB for a packed copy of the model in {tmp_path / 'cache' / 'maple' / 'packed'}" in out
    assert not packed_copy.cache_root().exists()
    _, out, _ = run(capsys, "--model", model, "--data", data, *SMALL, "--bits", 16)
    assert "packed copy" not in out
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 7 * 10**5))
        _, out, _ = run(capsys, "--model", model, "--data", data, *SMALL, "--bits", 4)
    assert "for a packed copy of the model: every start will pack the weights again" in out
    maple.load_model(str(model))
    _, out, _ = run(capsys, "--model", model, "--data", data, *SMALL)
    assert "packed copy" not in out


def test_all_problems_are_told_at_once(model, data, capsys, monkeypatch):
    truncate(model, data)
    break_a_line(model, data)
    write(data / "en.jsonl", [{"instruction": 3}])
    monkeypatch.setattr(checks, "available_bytes", lambda *_: 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    flags = ["--max-length", 4096, "--batch-tokens", 100, "--rank", 5000, "--targets", "nothing", "--out", "data"]
    code, _, err = run(capsys, "--model", model, "--data", data, *flags)
    assert code == 2 and err.count("\n") == 1
    for words in (
        "--rank is 5000, must be at most 4096",
        "not a readable safetensors file",
        "no linear layer is called 'nothing'",
        "de.jsonl:31: not JSON",
        "en.jsonl:1: 'instruction' must be text",
        "more than the 512 positions",
        "--batch-tokens 100 is less than one row",
        "--out data is not empty",
        "free, 15.4 MiB needed",
        "the run needs",
        "what would help: ",
        "--max-length 256 --batch-tokens 256 (-",
    ):
        assert words in err, (words, err)
    assert err.startswith("error: 9 problems: (1) ") and "(9) " in err


def test_lines_of_each_language_are_looked_at_even_where_one_is_wrong(model, data, capsys):
    write(data / "de.jsonl", [RECORD | {"input": "Rome " * 400}] * 3)
    write(data / "en.jsonl", [RECORD | {"input": "Rome " * 400}] * 3)
    _, _, err = run(capsys, "--model", model, "--data", data, *SMALL)
    assert "2 problems: (1) " in err and "de.jsonl:1" in err and "en.jsonl:1" in err


def test_text_of_the_data_cannot_command_the_terminal(model, data, capsys):
    evil = RECORD | {"instruction": "\x1b[31m[bold]red[/bold] [/]", "output": "\x1b]0;title\x07 [link=x]y"}
    write(data / "en.jsonl", [evil] * 30)
    _, out, _ = run(capsys, "--model", model, "--data", data, "--languages", "en", *SMALL)
    assert "\x1b" not in out and "\x07" not in out and "[bold]red[/bold]" in out and "[link=x]" in out


def test_what_is_cut_is_counted(model, data, capsys):
    write(data / "de.jsonl", [RECORD | {"output": "Rome " * 300}] * 10 + [RECORD] * 10)
    _, out, _ = run(capsys, "--model", model, "--data", data, "--languages", "de", *SMALL)
    assert "50.0 %" in out


class Tokenizer:
    """Knows the letters that it is given."""

    unk_token_id = 0

    def __init__(self, letters: str):
        self.letters = letters

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [1 + self.letters.find(letter) for letter in text]}

    def decode(self, ids, clean_up_tokenization_spaces):
        return "".join(self.letters[i - 1] for i in ids)


@pytest.mark.parametrize(
    ("text", "letters", "lost", "respelt"),
    [
        ("abc", "abc", 0, 0),
        ("ab cab", "abc", 0, 1),
        ("aßc", "abc", 1, 0),
        ("漢字", "abc", 2, 0),
        ("", "abc", 0, 0),
    ],
)
def test_what_a_tokenizer_loses(text, letters, lost, respelt):
    found = differences(Tokenizer(letters), [text])
    assert (found.lost, found.respelt, found.texts) == (lost, respelt, 1)
    assert bool(found.example) == bool(lost)


def test_a_script_that_the_tokenizer_cannot_write_is_a_problem(model, data, capsys, monkeypatch):
    monkeypatch.setattr(checks, "differences", lambda tokenizer, texts: differences(Tokenizer("In "), texts))
    code, _, err = run(capsys, "--model", model, "--data", data, *SMALL)
    assert code == 2 and "2 problems" in err and "characters of de, as 'R' in 'In Rome.'" in err


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (
            "0::/user/one\n",
            {"user/memory.max": "1000", "user/memory.current": "900", "user/one/memory.max": "max"},
            [150],
        ),
        (
            "4:memory:/job\n0::/\n",
            {"memory/job/memory.limit_in_bytes": "500", "memory/job/memory.usage_in_bytes": "100"},
            [450],
        ),
        ("0::/elsewhere\n", {"memory.max": "1000", "memory.current": "100"}, [950]),
        ("0::/\n", {}, []),
    ],
    ids=["version 2, the group around ours", "version 1", "a path outside of what is mounted", "none"],
)
def test_what_a_cgroup_leaves(tmp_path, membership, files, expected):
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
        (root / name).with_name("memory.stat").write_text("inactive_file 50\ntotal_inactive_file 50\n")
    assert list(_cgroup_rooms(membership, root)) == expected
