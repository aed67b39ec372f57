"""The command: everything that it refuses, what it leaves, and what it finds with real models on real data."""

import json
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import yaml

from maple import cli
from maple.evaluate import evaluate
from maple.outputs import own_flags
from tests.maple.test_chat import make_adapter, nameless
from tests.maple.test_model import saved

XNLI = {"premise": "It rained.", "hypothesis": "It was wet.", "label": 0}
XQUAD = {"context": "Lily is here.", "question": "Who?", "answers": {"text": ["Lily"], "answer_start": [0]}}
XCOPA = {"premise": "It rained.", "choice1": "It was wet.", "choice2": "It was dry.", "question": "effect", "label": 0}
ALPACA = {"dataset": "koala", "instruction": "Say", "output": "A", "generator": "other"}


def write(path, *rows):
    """A file of a data folder; bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))


def command(*flags):
    """Exit code of the command in this process."""
    with pytest.raises(SystemExit) as leaving:
        cli.main(evaluate, list(map(str, flags)), under=own_flags)
    return leaving.value.code


def content(folder):
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def scores(out, metric=None):
    """The rows of scores.json, or of one metric its values by task and language."""
    rows = json.loads((out / "scores.json").read_text())
    return rows if metric is None else {(r["task"], r["language"]): r["value"] for r in rows if r["metric"] == metric}


def predictions(out, name):
    return [json.loads(line) for line in (out / "predictions" / f"{name}.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------- refused


def rows(file, *content):
    """Harm that puts these rows into a file of the data folder."""
    return lambda at: write(at.data / file, *content)


def adapter(**options):
    return lambda at: make_adapter(at.model, at.adapter, **options)


def peft_adapter(at):
    nameless(make_adapter(at.model, at.adapter))


def adapter_of_another(at):
    saved(at.other, vocab_size=512)
    make_adapter(at.other, at.adapter)


def occupied(at):
    write(at.out / "notes.txt", b"mine")


def empty_folder(at):
    at.out.mkdir()


ON_DATA = "--model MODEL --data-dir DATA --tasks"
XNLI_FILE = "DATA/xnli/en.test.jsonl"
LONG = "many words " * 300  # more tokens than the window of 512
UNTORCHED = [
    ("--model MODEL --tasks xnly", "--tasks: there is no task 'xnly'; did you mean 'xnli'?"),
    ("--model tiny --tasks xnly", "--tasks: the embedded world has no task 'xnly'; did you mean 'xnli'?"),
    (f"{ON_DATA} zzz", "there is no task 'zzz'; known: alpaca_eval, belebele"),
    (f"{ON_DATA} xnli,xnli", "--tasks xnli,xnli: xnli is there twice"),
    (f"{ON_DATA} xnli,", "--tasks 'xnli,': a name is missing; give them as one,two"),
    (f"{ON_DATA} xnli --languages en,en", "--languages en,en: en is there twice"),
    (f"{ON_DATA} xnli --languages eng", "--languages: xnli has no 'eng'; did you mean 'en'?"),
    (f"{ON_DATA} xnli --languages qq", "--languages: xnli has no 'qq'; known: ar, bg"),
    (f"{ON_DATA} xnli --setting meta", "--setting meta: xnli has none of that name; did you mean 'mega'?"),
    ("--model tiny --setting mega", "--setting mega: no task has it; known: tiny"),
    (f"{ON_DATA} xnli --setting mega", "there is no DATA/xnli/en.validation.jsonl; without --data-dir"),
    (f"{ON_DATA} xnli --shots 1", "there is no DATA/xnli/en.validation.jsonl"),
    (f"{ON_DATA} xnli --judge-style alpaca_eval_gpt4", "--judge-style alpaca_eval_gpt4 belongs to a --judge that is a"),
    (f"{ON_DATA} xnli --template llama", "--template is llama, expected one of"),
    (f"{ON_DATA} xnli --limit 0", "--limit is 0, must be at least 1"),
    (f"{ON_DATA} xnli --shots -1 --batch-size 0", "--shots is -1, must be at least 0 and below 2147483648; --batch-s"),
    (f"{ON_DATA} xnli --max-tokens 0", "--max-tokens is 0"),
    (f"{ON_DATA} xnli --seed -1", "--seed is -1"),
    (f"{ON_DATA} xnli --devices 0", "--devices is 0"),
    (f"{ON_DATA} xnli --bits 5", "--bits is 5, expected one of 4, 8, 16"),
    (f"{ON_DATA} xnli --adaptor x", "unknown flag --adaptor; did you mean '--adapter'?"),
    (f"{ON_DATA} xnli --judge longest", "--judge longest: none of the tasks is judged; alpaca_eval is"),
    (f"{ON_DATA} xnli --judge-model gpt", "--judge-model gpt belongs to a --judge that is a URL"),
    (f"{ON_DATA} alpaca_eval --judge longest --judge-model gpt", "--judge-model gpt belongs to a --judge that is a"),
    (f"{ON_DATA} alpaca_eval --judge http://127.0.0.1:9/v1", "needs --judge-model, the name of the model that judges"),
    (f"{ON_DATA} alpaca_eval --judge nowhere.json", "--judge nowhere.json: neither 'longest', nor an annotations.json"),
    (f"{ON_DATA} alpaca_eval --judge {XNLI_FILE}", "en.test.jsonl"),
    (f"{ON_DATA} alpaca_eval --judge http://h/v1 --judge-model m --judge-style x", "--judge-style is x, expected one"),
    ("--model MODEL --data-dir ./nowhere", "--data-dir ./nowhere: there is no such folder"),
    (f"{ON_DATA} mlqa", "the folder has no mlqa/<language>.test.jsonl; without --data-dir the hub's are read"),
    (f"{ON_DATA} xnli --languages sw", "there is no DATA/xnli/sw.test.jsonl; without --data-dir the hub's is read"),
    ("--data-dir DATA --tasks xnli", "give --model, or an --adapter that names its base"),
    ("--model ./nowhere", "--model ./nowhere: there is no such folder"),
    (f"{ON_DATA} xnli --adapter ./nowhere", "--adapter ./nowhere: there is no such folder"),
    (f"{ON_DATA} xnli --adapter MODEL", "has no adapter_config.json, so it holds no adapter"),
    (f"{ON_DATA} xnli --out DATA", "--out DATA is not empty; give a new folder"),
    ("--resume", "--resume needs --out, the folder of the run to go on with"),
    (f"{ON_DATA} xnli --resume --out DATA", "--resume: DATA holds no run, so there is nothing to resume"),
]
REFUSED = [
    *((None, *row) for row in UNTORCHED),
    (occupied, f"{ON_DATA} xnli", "is not empty; give a new folder"),
    (occupied, f"{ON_DATA} xnli --resume", "holds no run, so there is nothing to resume; start one without --resume"),
    (empty_folder, f"{ON_DATA} xnli --languages en --max-tokens 9 --device cuda", "--device cuda"),
    (rows("xnli/en.test.jsonl", {"premise": "P", "label": 0}), f"{ON_DATA} xnli", f"{XNLI_FILE}:1: the field 'hypo"),
    (rows("xnli/en.test.jsonl", XNLI, XNLI | {"label": 3}), f"{ON_DATA} xnli", f"{XNLI_FILE}:2: 'label' must be one"),
    (rows("xnli/en.test.jsonl", XNLI, XNLI | {"label": 3}), f"{ON_DATA} xnli --limit 1", f"{XNLI_FILE}:2: 'label'"),
    (rows("xnli/en.test.jsonl", XNLI | {"label": True}), f"{ON_DATA} xnli", "must be one of 0, 1, 2, found True"),
    (rows("xnli/en.test.jsonl", XNLI | {"premise": " "}), f"{ON_DATA} xnli", f"{XNLI_FILE}:1: 'premise' is empty"),
    (rows("xnli/en.test.jsonl"), f"{ON_DATA} xnli", "the file holds no example"),
    (rows("xnli/en.test.jsonl", XNLI, b'{"premise": '), f"{ON_DATA} xnli", f"{XNLI_FILE}:2"),
    (rows("xnli/en.test.jsonl", XNLI, b"\xff\xfe{}\n"), f"{ON_DATA} xnli", f"{XNLI_FILE}:2"),
    (rows("xnli/en.test.jsonl", XNLI, [1]), f"{ON_DATA} xnli", f"{XNLI_FILE}:2: not an object with the fields of xnli"),
    (
        rows("xquad/en.validation.jsonl", XQUAD, XQUAD | {"context": "Tom is here."}),
        f"{ON_DATA} xquad --max-tokens 8",
        "DATA/xquad/en.validation.jsonl:2: the answer 'Lily' does not stand in the context",
    ),
    (
        rows("xnli/en.validation.jsonl", XNLI, XNLI | {"label": 7}),
        f"{ON_DATA} xnli --shots 1",
        "DATA/xnli/en.validation.jsonl:2: 'label' must be one of 0, 1, 2, found 7",
    ),
    (
        rows("xquad/en.validation.jsonl", XQUAD),
        f"{ON_DATA} xquad --max-tokens 512",
        "--tasks xquad: an answer of 512 tokens alone does not fit the model's window of 512; give a smaller --max-tok",
    ),
    (None, f"{ON_DATA} alpaca_eval", "--tasks alpaca_eval: an answer of 2048 tokens alone does not fit"),
    (
        rows("xcopa/it.test.jsonl", XCOPA, XCOPA | {"choice2": LONG}),
        f"{ON_DATA} xcopa",
        "DATA/xcopa/it.test.jsonl:2: an answer of",
    ),
    (None, f"{ON_DATA} xnli --template chat", "this tokenizer has no chat template; use --template alpaca"),
    (adapter_of_another, f"{ON_DATA} xnli --adapter ADAPTER", "is for the base OTHER, --model is MODEL"),
    (peft_adapter, f"{ON_DATA} xnli --adapter ADAPTER", "does not say which prompt template it was trained with; give"),
]  # fmt: skip


@pytest.fixture
def at(tmp_path, monkeypatch, stories):
    """Where the model, an adapter, the data and the run are; what is asked is asked from an empty folder beside."""
    data = tmp_path / "data"
    write(data / "xnli" / "en.test.jsonl", XNLI)
    write(data / "alpaca_eval" / "en.eval.jsonl", ALPACA)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = {"adapter": tmp_path / "adapter", "other": tmp_path / "other", "out": tmp_path / "out"}
    return SimpleNamespace(model=stories, data=data, **names)


def named(text, at):
    for name in ("model", "adapter", "data", "other"):
        text = text.replace(name.upper(), str(getattr(at, name)))
    return text


@pytest.mark.parametrize(("harm", "flags", "words"), REFUSED, ids=[f"{words[:50]}" for *_, words in REFUSED])
def test_wrong_input_is_one_sentence_and_exit_code_2(at, capsys, harm, flags, words):
    if harm:
        harm(at)
    before = content(at.out.parent), at.out.exists()
    flags = named(flags, at).split()
    out = [] if "--out" in flags or flags == ["--resume"] else ["--out", at.out]
    capsys.readouterr()
    assert command(*flags, *out) == 2
    said = capsys.readouterr().err
    assert named(words, at) in said and "Traceback" not in said
    assert said.startswith("error: ") and said.count("\n") == 1
    assert (content(at.out.parent), at.out.exists()) == before
    assert not at.out.exists() or not [path for path in at.out.iterdir() if path.is_dir()]


def test_help_and_whatever_needs_no_torch_answer_without_it(at):
    cases = [("--help", "--judge-style"), *((named(flags, at), named(words, at)) for flags, words in UNTORCHED)]
    script = textwrap.dedent(f"""
        import io, sys
        from contextlib import redirect_stderr, redirect_stdout
        from maple import cli
        from maple.evaluate import evaluate
        from maple.outputs import own_flags
        for flags, words in {cases!r}:
            with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
                try:
                    cli.main(evaluate, flags.split(), under=own_flags)
                except SystemExit as leaving:
                    assert leaving.code == (0 if flags == "--help" else 2), flags
            heavy = {{"torch", "lightning", "transformers", "datasets", "numpy"}} & sys.modules.keys()
            assert not heavy, (flags, heavy)
            assert words in said.getvalue(), (words, said.getvalue())
        print("all", len({cases!r}))
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == f"all {len(cases)}\n", done.stderr


# ------------------------------------------------------------------------------------------------- what it leaves

SMALL = {"model": "tiny", "tasks": "xnli,xquad", "languages": "en,it", "limit": 10}
SETTINGS = {
    *("model", "adapter", "bits", "template", "batch_size", "seed", "revision", "trained_bits", "rank"),
    *("adapter_sha256", "limit", "precision", "decoding", "ours", "setting", "source", "shots", "max_new_tokens"),
    *("split", "data", "shots_data", "prompts_sha256", "fingerprint", "versions"),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of the embedded model on two tasks in two languages. Not to be changed."""
    out = tmp_path_factory.mktemp("small") / "run"
    evaluate(**SMALL, out=str(out))
    return out


def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def test_what_a_run_leaves(small):
    names = {f"predictions/{task}.{code}.jsonl" for task in ("xnli", "xquad") for code in ("en", "it")}
    assert set(content(small)) == {"config.yaml", "scores.json"} | names
    found = scores(small)
    assert all(row.keys() == {"task", "language", "metric", "value", "stderr", "n", "settings"} for row in found)
    places = list(dict.fromkeys((row["task"], row["language"]) for row in found))
    assert places == [("xnli", "en"), ("xnli", "it"), ("xquad", "en"), ("xquad", "it")]
    counted = ["prompts_cut", "shots_kept", "tokens_per_character"]
    assert [row["metric"] for row in found[:5]] == ["acc", "acc_norm", *counted]
    assert [row["metric"] for row in found[-5:]] == ["exact_match", "f1", *counted]
    for row in found:
        assert row["settings"].keys() == SETTINGS and row["n"] == 10
        assert len(row["settings"]["prompts_sha256"]) == 64
        assert set(row["settings"]["ours"]) < SETTINGS
        assert (row["stderr"] is None) == (row["metric"] in counted)
    assert len({row["settings"]["prompts_sha256"] for row in found}) == 4


@pytest.mark.parametrize("name", ["xnli.en", "xquad.it"])
def test_the_lines_of_the_predictions(small, name):
    lines, (task, language) = predictions(small, name), name.split(".")
    assert [line["number"] for line in lines] == list(range(10))
    chosen = {"choices", "log_likelihoods"} if task == "xnli" else {"answers"}
    always = {"number", "prompt", "output", "target", "score", "shots", "cut", "prompt_sha256", "asked_sha256"}
    assert all(line.keys() == always | chosen for line in lines)
    metric = "acc" if task == "xnli" else "f1"
    mean = sum(line["score"][metric] for line in lines) / len(lines)
    assert scores(small, metric)[task, language] == pytest.approx(mean)
    for line in lines:
        if task == "xnli":
            likeliest = max(zip(line["log_likelihoods"], line["choices"], strict=True))[1]
            assert line["output"] == likeliest and line["target"] in line["choices"]
            assert line["score"]["acc"] == (line["output"] == line["target"])
        else:
            assert line["target"] == line["answers"][0] and line["target"] in line["prompt"] and not line["cut"]


def test_the_written_configuration_runs_again_to_the_same_bytes(small, tmp_path):
    config = yaml.safe_load((small / "config.yaml").read_text())
    assert "out" not in config and "resume" not in config and config["bits"] == 16 and config["template"] == "plain"
    assert command("--config", small / "config.yaml", "--out", tmp_path / "again") == 0
    assert content(tmp_path / "again") == content(small)


def test_a_run_without_out_gets_a_numbered_folder_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    evaluate(model="tiny", tasks="xcopa", languages="de", limit=2)
    assert (tmp_path / "runs" / "0001" / "scores.json").is_file()
    said = capsys.readouterr().out
    assert said.startswith("Scoring tiny in 16 bits; loading") and "Scores and predictions: runs/0001" in said
    assert "xcopa de: acc" in said


# ------------------------------------------------------------------------------------------------- resumed


def half(small, tmp_path, units=2):
    """A run that ended behind so many tasks and languages; and a started file of the next."""
    run = copied(small, tmp_path)
    rows = scores(run)
    left = list(dict.fromkeys((row["task"], row["language"]) for row in rows))[units:]
    (run / "scores.json").write_text(
        json.dumps([r for r in rows if (r["task"], r["language"]) not in left], indent=1, ensure_ascii=False) + "\n"
    )
    for task, language in left:
        (run / "predictions" / f"{task}.{language}.jsonl").unlink()
    return run


def test_a_resume_goes_on_behind_what_is_there(small, tmp_path, capsys):
    run = half(small, tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in (run / "predictions").iterdir()}
    (run / "predictions" / ".xquad.en.jsonl.123.partial").write_text("half of a file")
    (run / "predictions" / "xquad.it.jsonl").write_text("not in scores.json")
    assert command("--resume", "--out", run) == 0
    said = capsys.readouterr().out
    assert "xnli" not in said.split("Scores, with")[0] and "xquad en: " in said and "xquad it: " in said
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert content(run) == content(small)


def test_a_finished_run_is_shown_again_and_nothing_is_loaded(small, tmp_path, capsys, monkeypatch):
    run = copied(small, tmp_path)
    monkeypatch.setattr("maple.evaluation.run.Run.load", None)
    assert command("--resume", "--out", run) == 0
    assert "Scores, with" in capsys.readouterr().out and content(run) == content(small)


def test_a_prediction_file_that_is_gone_is_made_again(small, tmp_path):
    run = copied(small, tmp_path)
    (run / "predictions" / "xnli.it.jsonl").unlink()
    assert command("--resume", "--out", run) == 0
    found, expected = content(run), content(small)
    order = lambda row: (row["task"], row["language"], row["metric"])  # noqa: E731 - the rows of xnli it came last
    assert sorted(json.loads(found.pop("scores.json")), key=order) == sorted(
        json.loads(expected.pop("scores.json")), key=order
    )
    assert found == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--limit 9", "--resume: xnli in en was scored with limit 10 and not 9; go on with the same, or give another"),
        ("--bits 4", "xnli in en was scored with bits 16 and not 4"),
        ("--shots 1", "was scored with shots 0 and not 1"),
        ("--seed 1 --batch-size 2", "was scored with seed 0 and not 1; go on"),
        ("--template alpaca", "was scored with template 'plain' and not 'alpaca'"),
        ("--max-tokens 3", "xquad in en was scored with max_new_tokens 20 and not 3"),
    ],
)
def test_a_resume_with_other_settings_is_refused(small, tmp_path, capsys, flags, words):
    run = copied(small, tmp_path)
    assert command("--resume", "--out", run, *flags.split()) == 2
    assert words in capsys.readouterr().err and content(run) == content(small)


ROW = {"task": "xnli", "language": "en", "metric": "acc", "value": 0.5, "stderr": None, "n": 1, "settings": {}}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("{", "not JSON"),
        ("\x00", "not JSON"),
        ("[" * 100_000, "nested too deep"),
        ("null", "not a JSON array"),
        ("[[]]", "not the scores of an evaluation ('task' of row 1)"),
        *((json.dumps([ROW, ROW | {name: [1]}]), f"({name!r} of row 2)") for name in ROW),
        *((json.dumps([{n: v for n, v in ROW.items() if n != name}]), f"({name!r} of row 1)") for name in ROW),
    ],
)
def test_damaged_scores_are_named(small, tmp_path, capsys, damage, words):
    run = copied(small, tmp_path)
    (run / "scores.json").write_text(damage)
    assert command("--resume", "--out", run) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {run}/scores.json: ") and words in said
    assert said.endswith("; delete it to score again\n") and (run / "scores.json").read_text() == damage


def test_data_that_changed_since_is_named(at, capsys):
    flags = named(f"{ON_DATA} xnli", at).split()
    assert command(*flags, "--out", at.out) == 0
    write(at.data / "xnli" / "en.test.jsonl", XNLI | {"label": 1})
    capsys.readouterr()
    assert command("--resume", "--out", at.out) == 2
    assert "xnli in en was scored with data" in capsys.readouterr().err


def test_a_resume_may_ask_for_more_languages(small, tmp_path):
    run = copied(small, tmp_path)
    assert command("--resume", "--out", run, "--languages", "en,it,de") == 0
    assert scores(run, "acc").keys() == {("xnli", "en"), ("xnli", "it"), ("xnli", "de")}
    assert {n: c for n, c in content(run).items() if n in content(small)}["predictions/xnli.en.jsonl"]
