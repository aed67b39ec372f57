"""Examples from a folder and from the hub; every file that is none is refused with the place of its first fault."""

import hashlib
import io
import json
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import parquet

from maple import tasks
from maple.errors import InputError
from maple.evaluation.data import check_data, read_examples
from tests.fake_hub import COMMIT, Repository

XNLI, XCOPA, XQUAD, MLQA, BELEBELE, XLSUM = map(tasks.find, ("xnli", "xcopa", "xquad", "mlqa", "belebele", "xlsum"))
SQUAD = {"context": "Hier steht es.", "question": "Wo?", "answers": {"text": ["Hier"], "answer_start": [0]}}
ROWS = {
    "xnli": {"premise": "P", "hypothesis": "H", "label": 0},
    "xcopa": {"premise": "P.", "choice1": "A", "choice2": "B", "question": "cause", "label": 0},
    "xquad": SQUAD,
    "mlqa": SQUAD,
    "belebele": {name: "text" for name in ("flores_passage", "question", *(f"mc_answer{i}" for i in range(1, 5)))}
    | {"correct_answer_num": "1"},
    "xlsum": {"title": "", "text": "T", "summary": "S"},
    "alpaca_eval": {"dataset": "koala", "instruction": "I", "output": "O", "generator": "text_davinci_003"},
}


def write(folder, name, *rows):
    """A file of a data folder, by its task and its own name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return path


# --- which languages


def test_usual_languages_come_from_the_hub():
    chosen = check_data([XCOPA, MLQA], None, None)
    assert chosen["xcopa"] == list(XCOPA.languages) and chosen["mlqa"] == ["ar", "de", "en", "es", "hi", "vi", "zh"]
    assert check_data([MLQA], ["zh-vi", "de"], None) == {"mlqa": ["de", "zh-vi"]}


def test_a_task_takes_those_of_the_languages_that_it_has():
    assert check_data([XNLI, XCOPA, XQUAD], ["sw", "it"], None) == {"xnli": ["sw"], "xcopa": ["it", "sw"], "xquad": []}
    assert check_data([XCOPA], ["it"], "tiny") == {"xcopa": ["it"]}  # whatever folder of that name is here


@pytest.mark.parametrize(
    ("task", "code", "remedy"),
    [
        (XNLI, "deu", "did you mean 'de'"),
        (XNLI, "xx", "known: ar, bg"),
        (BELEBELE, "zho_Hans", "its code here is 'zh'"),
        (XLSUM, "burmese", "its code here is 'my'"),
        (MLQA, "de.en", "its code here is 'de-en'"),
    ],
)
def test_an_unknown_language(task, code, remedy):
    with pytest.raises(InputError) as error:
        check_data([XCOPA, task], ["sw", code] if task is not MLQA else [code], None)
    assert str(error.value).startswith(f"--languages: xcopa, {task.name} has no {code!r}; {remedy}")


def test_the_languages_of_a_folder(tmp_path):
    for name in ("xcopa/zh.test", "xcopa/it.test", "belebele/deu_Latn.test", "belebele/zu.test", "xcopa/sw.validation"):
        write(tmp_path, f"{name}.jsonl")
    assert check_data([BELEBELE, XCOPA], None, str(tmp_path)) == {"belebele": ["de", "zu"], "xcopa": ["it", "zh"]}
    assert check_data([BELEBELE, XCOPA], ["zu"], str(tmp_path)) == {"belebele": ["zu"], "xcopa": []}
    assert check_data([XNLI, XCOPA], None, str(tmp_path), named=False) == {"xnli": [], "xcopa": ["it", "zh"]}


def test_files_that_are_not_there(tmp_path):
    (tmp_path / "xnli" / "de.test.jsonl").mkdir(parents=True)
    cases = [
        ([XNLI], None, str(tmp_path / "no"), f"--data-dir {tmp_path}/no: there is no such folder"),
        ([XNLI], None, str(tmp_path), f"--data-dir {tmp_path}: the folder has no xnli/<language>.test.jsonl; without"),
        ([XNLI], ["de"], str(tmp_path), f"--data-dir {tmp_path}: there is no {tmp_path}/xnli/de.test.jsonl; without"),
        ([BELEBELE], ["de"], str(tmp_path), f"{tmp_path}/belebele/deu_Latn.test.jsonl nor {tmp_path}/belebele/de.test"),
    ]
    for wanted, languages, folder, words in cases:
        with pytest.raises(InputError) as error:
            check_data(wanted, languages, folder)
        assert words in str(error.value)
    with pytest.raises(
        InputError, match=r"has no xnli/<language>\.test\.jsonl, xcopa/<language>\.test\.jsonl; without"
    ):
        check_data([XNLI, XCOPA], None, str(tmp_path), named=False)


# --- a folder


@pytest.mark.parametrize("name", tasks.names())
def test_rows_come_with_their_place_and_the_file_with_its_hash(tmp_path, name):
    task, row = tasks.find(name), ROWS[name]
    language = next(iter(task.languages))
    path = write(
        tmp_path, f"{name}/{task.languages[language]}.{task.split}.jsonl", row, b"\n", row | {"more": [1]}, row
    )
    examples, origin = read_examples(task, language, task.split, str(tmp_path))
    assert [example.fields for example in examples] == [row, row | {"more": [1]}, row]
    assert [example.where for example in examples] == [f"{path}:1", f"{path}:3", f"{path}:4"]
    assert {example.language for example in examples} == {language}
    assert origin == f"{path} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert read_examples(task, language, task.split, str(tmp_path), limit=2)[0] == examples[:2]
    for setting in task.settings.values():
        assert setting.ask(examples[0]).target or task.judged


def test_the_task_s_own_name_of_a_language_goes_before_ours(tmp_path):
    ours, own = (write(tmp_path, f"belebele/{code}.test.jsonl", ROWS["belebele"]) for code in ("de", "deu_Latn"))
    assert read_examples(BELEBELE, "de", "test", str(tmp_path))[1].startswith(f"{own} ")
    own.unlink()
    assert read_examples(BELEBELE, "de", "test", str(tmp_path))[1].startswith(f"{ours} ")


BAD = [
    (XNLI, b'{"premise": "P", ', "not JSON ("),
    (XNLI, b'{"premise": "\xff"}\n', "not UTF-8 (byte 13 of the line)"),
    (XNLI, b"[1]\n", "not an object with the fields of xnli"),
    (XNLI, b"[" * 100_000 + b"\n", "not JSON ("),
    (XNLI, {"premise": "P", "hypothesis": "H"}, "the field 'label' is missing; known: hypothesis, premise"),
    (XNLI, ROWS["xnli"] | {"label": -1}, "'label' must be one of 0, 1, 2, found -1"),
    (XNLI, ROWS["xnli"] | {"hypothesis": "\ud800"}, "'hypothesis' holds half of a surrogate pair"),
    (XCOPA, ROWS["xcopa"] | {"question": "why"}, "'question' must be one of 'cause', 'effect', found 'why'"),
    (XCOPA, ROWS["xcopa"] | {"choice2": ""}, "'choice2' is empty, found ''"),
    (XQUAD, SQUAD | {"answers": {"text": ["Hier"], "answer_start": [1]}}, "the answer 'Hier' does not stand in the"),
    (XQUAD, SQUAD | {"answers": "Hier"}, "'answers' must be {'text': [...], 'answer_start': [...]}, found 'Hier'"),
    (MLQA, SQUAD | {"answers": {"text": ["Dort"], "answer_start": [0]}}, "the answer 'Dort' does not stand in the"),
    (BELEBELE, ROWS["belebele"] | {"correct_answer_num": 1}, "'correct_answer_num' must be one of '1', '2', '3', '4'"),
    (
        BELEBELE,
        ROWS["belebele"] | {"correct_answer_num": "5"},
        "'correct_answer_num' must be one of '1', '2', '3', '4'",
    ),
    (XLSUM, ROWS["xlsum"] | {"summary": None}, "'summary' must be text, found None"),
]


@pytest.mark.parametrize(("task", "bad", "reason"), BAD)
def test_a_bad_row_is_named_by_file_and_line_even_behind_the_limit(tmp_path, task, bad, reason):
    good, code = ROWS[task.name], task.languages["de" if "de" in task.languages else "sw"]
    path = write(tmp_path, f"{task.name}/{code}.{task.split}.jsonl", good, good, bad)
    with pytest.raises(InputError) as error:
        read_examples(task, "de" if "de" in task.languages else "sw", task.split, str(tmp_path), limit=1)
    assert str(error.value).startswith(f"{path}:3: {reason}")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file(tmp_path, content):
    path = write(tmp_path, "xnli/de.test.jsonl", content)
    with pytest.raises(InputError) as error:
        read_examples(XNLI, "de", "test", str(tmp_path))
    assert str(error.value) == f"{path}: the file holds no example"


def test_few_shot_examples_that_a_folder_lacks(tmp_path):
    write(tmp_path, "xcopa/it.test.jsonl", ROWS["xcopa"])
    with pytest.raises(InputError) as error:
        read_examples(XCOPA, "it", "validation", str(tmp_path))
    assert f"there is no {tmp_path}/xcopa/it.validation.jsonl; without --data-dir" in str(error.value)


# --- the hub


def packed(rows):
    """As a parquet file."""
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def lines(rows):
    """As JSON Lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def listed(rows):
    """As a JSON list."""
    return json.dumps(rows).encode()


PUBLISHED = [
    (XNLI, "sw", "sw/test-00000-of-00001.parquet", packed),
    (XCOPA, "qu", "qu/test-00000-of-00001.parquet", packed),
    (XQUAD, "ro", "xquad.ro/validation-00000-of-00001.parquet", packed),
    (MLQA, "de-en", "MLQA.de.en/test-00000-of-00001.parquet", packed),
    (BELEBELE, "zh-Hant", "data/zho_Hant.jsonl", lines),
    (XLSUM, "sr-Latn", "serbian_latin/test/0000.parquet", packed),
    (tasks.find("alpaca_eval"), "en", "alpaca_eval.json", listed),
]


def serve(hub, task, files):
    pinned = len(task.hub.revision) == 40
    commit, branch = (task.hub.revision, "main") if pinned else (COMMIT, task.hub.revision)
    hub.repositories[f"datasets/{task.hub.repo}"] = Repository(files, commit=commit, branch=branch)
    return commit


@pytest.mark.parametrize(("task", "language", "file", "form"), PUBLISHED)
def test_rows_from_the_hub_and_again_without_it(hub, task, language, file, form):
    rows = [ROWS[task.name]] * 3
    commit = serve(hub, task, {file: form(rows)})
    examples, origin = read_examples(task, language, task.split, None)
    assert [example.fields for example in examples] == rows
    assert origin == f"{task.hub.repo}@{commit}/{file}"
    assert examples[2].where == f"{task.hub.repo}/{file}:3"
    hub.__exit__()
    assert read_examples(task, language, task.split, None, limit=1) == (examples[:1], origin)


@pytest.mark.parametrize(("task", "language", "file", "form"), PUBLISHED)
def test_a_damaged_file_of_the_cache(hub, task, language, file, form):
    serve(hub, task, {file: form([ROWS[task.name]] * 3)[:-9]})
    with pytest.raises(InputError) as error:
        read_examples(task, language, task.split, None)
    message = str(error.value)
    assert message.startswith(f"{task.hub.repo}/{file}: the copy in the cache is damaged (")
    assert str(hub.cache) in message and message.endswith(" and run again")


@pytest.mark.parametrize("content", [b'{"instruction": "I"}', b"null", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_list(hub, content):
    task = tasks.find("alpaca_eval")
    serve(hub, task, {"alpaca_eval.json": content})
    with pytest.raises(InputError, match=r"^tatsu-lab/alpaca_eval/alpaca_eval\.json: the copy in the cache is damaged"):
        read_examples(task, "en", "eval", None)


def test_a_row_of_the_hub_that_is_none(hub):
    file = "sw/test-00000-of-00001.parquet"
    serve(hub, XNLI, {file: packed([ROWS["xnli"], ROWS["xnli"] | {"label": 5}])})
    with pytest.raises(InputError) as error:
        read_examples(XNLI, "sw", "test", None)
    assert str(error.value) == f"facebook/xnli/{file}:2: 'label' must be one of 0, 1, 2, found 5"


def test_a_hub_without_the_data_set(hub):
    with pytest.raises(InputError, match=r"^--tasks xnli: the hub shows no such repository"):
        read_examples(XNLI, "sw", "test", None)


def test_nothing_heavy_is_imported_before_a_model_is_wanted():
    code = (
        "import sys\n"
        "from maple import languages, tasks\n"
        "from maple.evaluation import data\n"
        "assert all(tasks.find(name) and languages.tasks('en') for name in tasks.names())\n"
        "print(*{'torch', 'transformers', 'lightning', 'datasets', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
