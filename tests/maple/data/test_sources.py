"""--data and --languages: names, files and folders, and what of them is refused before anything is downloaded."""

import gzip
import io
import json

import pyarrow
import pytest
from pyarrow import parquet

from maple.data.published import BACTRIAN_X, ELEVEN, OURS, PUBLISHED
from maple.data.sources import UNDETERMINED, check_data, open_source
from maple.errors import InputError
from maple.hub import COMMIT as FULL_HASH
from maple.tiny.records import LANGUAGES, SETS, instructions
from tests.fake_hub import COMMIT, Repository

ROWS = [
    {"instruction": "Di sí.", "input": None, "output": "Sí."},
    {"instruction": "¿Qué es?", "input": "Un perro.", "output": ""},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def texts(records):
    return [(record.instruction, record.input, record.output) for record in records]


EXPECTED = [("Di sí.", "", "Sí."), ("¿Qué es?", "Un perro.", "")]


# Files and folders


def test_a_file_and_its_language(tmp_path):
    for name, language in (("sw.jsonl", "sw"), ("instructions.jsonl", UNDETERMINED)):
        (tmp_path / name).write_text(LINES)
        source = open_source(str(tmp_path / name))
        training, validation = source.read(language)
        assert source.languages == [language] and source.data == str(tmp_path / name)
        assert texts(training) == EXPECTED and validation is None
        assert training[1].where == f"{tmp_path / name}:2"


def test_a_folder_with_validation_files_beside_the_training_files(tmp_path):
    for name in ("de.jsonl", "es.jsonl", "es.validation.jsonl", "tr.validation.jsonl"):
        (tmp_path / name).write_text(json.dumps(ROWS[0] | {"output": name}))
    source = open_source(str(tmp_path))
    found = {
        language: tuple(records and [record.output for record in records] for records in source.read(language))
        for language in source.languages
    }
    assert found == {
        "de": (["de.jsonl"], None),
        "es": (["es.jsonl"], ["es.validation.jsonl"]),
        "tr": ([], ["tr.validation.jsonl"]),
    }


def test_the_real_folder(real):
    source = open_source(str(real / "instruct" / "multialpaca"), "pt")
    assert source.languages == ["pt"] and len(source.read("pt")[0]) == 10825


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("de.test.jsonl", "is named by a language's two or three letters, as de.jsonl or de.validation.jsonl"),
        ("german.jsonl", "is named by a language's"),
        (".jsonl", "is named by a language's"),
    ],
)
def test_a_folder_with_a_file_of_another_name(tmp_path, name, words):
    (tmp_path / name).write_text(LINES)
    with pytest.raises(InputError, match=words):
        check_data(str(tmp_path))


def test_files_and_folders_that_hold_no_data(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"ends in \.jsonl"):
        check_data(str(tmp_path / "notes.txt"))
    with pytest.raises(InputError, match="has no <lang>"):
        check_data(str(tmp_path))
    (tmp_path / "de.jsonl").mkdir()
    with pytest.raises(InputError, match="not a file that can be read"):
        check_data(str(tmp_path))


# Names


@pytest.mark.parametrize("path", ["./nowhere", "no/where", "~/nowhere", "nowhere.jsonl"])
def test_a_path_that_is_not_there(path):
    with pytest.raises(InputError, match=r"there is no such file or folder; give a \.jsonl file or a folder"):
        check_data(path)


@pytest.mark.parametrize(
    ("name", "near"),
    [("multialpca", "multialpaca"), ("Alpaca", "alpaca"), ("tinny", "tiny"), ("bactrian-x", "bactrian-x-22")],
)
def test_an_unknown_name_has_its_near_one_named(name, near):
    with pytest.raises(InputError, match=f"--data {name}: .* nor a data set of that name; did you mean '{near}'"):
        check_data(name)


def test_a_name_that_is_near_nothing_lists_them_all():
    with pytest.raises(InputError) as error:
        check_data("x")
    assert all(name in str(error.value) for name in [*PUBLISHED, *SETS]) and "\n" not in str(error.value)


def test_the_languages_of_the_published_sets():
    assert check_data("alpaca") == ["en"]
    assert check_data("multialpaca") == check_data("bactrian-x-11") == list(ELEVEN)
    assert check_data("bactrian-x-22") == sorted(ELEVEN + OURS) and len(set(ELEVEN + OURS)) == 22
    assert len(set(BACTRIAN_X)) == 52 and set(ELEVEN + OURS) < set(BACTRIAN_X)
    assert check_data("bactrian-x-22", "xh,af,en") == ["en", "af", "xh"]


@pytest.mark.parametrize(
    ("data", "languages", "words"),
    [
        ("multialpaca", "de,en", "--languages de,en: multialpaca has no 'en'; known: ar, de, es"),
        ("bactrian-x-11", "sw", "bactrian-x-11 has no 'sw'; known: ar"),
        ("bactrian-x-22", "deu", "bactrian-x-22 has no 'deu'; did you mean 'de'?"),
        ("alpaca", "de", "alpaca has no 'de'; known: en"),
        ("multialpaca", "de,de", "--languages de,de: de is there twice"),
        ("multialpaca", "", "--languages '': a code is missing; give them as de,sw"),
        ("multialpaca", "de,,es", "a code is missing"),
        ("multialpaca", "de es", "has no 'de es'"),
    ],
)
def test_languages_that_the_data_lacks(data, languages, words):
    with pytest.raises(InputError) as error:
        check_data(data, languages)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_blanks_and_the_order_of_the_codes_do_not_matter():
    assert check_data("multialpaca", " vi , de") == check_data("multialpaca", "de,vi") == ["de", "vi"]


def test_the_embedded_sets():
    for name in SETS:
        source = open_source(name)
        assert source.languages == list(LANGUAGES) == check_data(name)
        assert source.read("tr") == instructions(name, "tr") and source.read("tr")[0] == []
        assert source.read("en")[0]
    assert open_source("tiny", "tr").languages == ["tr"]


# From the hub


def served(content, name, language, commit=None):
    data = PUBLISHED[name]
    return {f"datasets/{data.repo}": Repository({data.file.format(language=language): content}, commit or COMMIT)}


def as_parquet(rows):
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([row | {"text": "all of it"} for row in rows]), buffer)
    return buffer.getvalue()


def as_json_list(rows):
    return gzip.compress(json.dumps([row | {"id": "alpaca-1"} for row in rows]).encode())


def as_json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FORMATS = [("alpaca", "en", as_parquet), ("multialpaca", "es", as_json_lines), ("bactrian-x-22", "sw", as_json_list)]


@pytest.mark.parametrize(("name", "language", "encode"), FORMATS)
def test_each_published_format(hub, name, language, encode):
    commit = PUBLISHED[name].revision if FULL_HASH.fullmatch(PUBLISHED[name].revision) else COMMIT
    hub.repositories = served(encode(ROWS), name, language, commit)
    source = open_source(name, language)
    training, validation = source.read(language)
    assert texts(training) == EXPECTED and validation is None
    file = PUBLISHED[name].file.format(language=language)
    assert training[1].where == f"{PUBLISHED[name].repo}/{file}:2"
    hub.__exit__()  # from here on from the cache
    assert texts(open_source(source.data, language).read(language)[0]) == EXPECTED


@pytest.mark.parametrize(("name", "language", "encode"), FORMATS)
def test_a_row_without_an_instruction_or_an_answer_is_left_out(hub, name, language, encode):
    bad = [{"instruction": " ", "input": None, "output": "a"}, {"instruction": "a", "input": "b", "output": None}]
    hub.repositories = served(encode([bad[0], ROWS[0], bad[1], ROWS[1]]), name, language)
    training, _ = open_source(f"{name}@{COMMIT}", language).read(language)
    assert texts(training) == EXPECTED and [record.where[-2:] for record in training] == [":2", ":4"]


@pytest.mark.parametrize(("name", "language", "encode"), FORMATS)
def test_a_damaged_copy_is_refused_and_whole_again_once_it_is_deleted(hub, name, language, encode):
    hub.repositories = served(encode(ROWS), name, language)
    data = f"{name}@{COMMIT}"
    source = open_source(data, language)
    (blob,) = hub.cache.glob("*/blobs/*")
    blob.write_bytes(encode(ROWS)[:-20])
    with pytest.raises(InputError) as error:
        source.read(language)
    assert "the copy in the cache is damaged (" in str(error.value) and f"delete {blob} and" in str(error.value)
    blob.unlink()
    assert texts(open_source(data, language).read(language)[0]) == EXPECTED


def test_a_pinned_set_asks_for_its_commit_and_an_unpinned_one_says_which_it_got(hub):
    hub.repositories = served(as_parquet(ROWS), "alpaca", "en", PUBLISHED["alpaca"].revision)
    assert open_source("alpaca").data == "alpaca"
    assert all(PUBLISHED["alpaca"].revision in request for request in hub.requests)
    hub.repositories = served(as_json_lines(ROWS), "multialpaca", "es")
    assert open_source("multialpaca", "es").data == f"multialpaca@{COMMIT}"
    assert open_source(f"multialpaca@{COMMIT}", "es").data == f"multialpaca@{COMMIT}"


def test_a_language_that_is_not_on_the_hub_and_another_commit(hub):
    hub.repositories = served(as_json_lines(ROWS), "multialpaca", "es")
    with pytest.raises(InputError, match=r"--data multialpaca: .*has no such file .*/de\.jsonl"):
        open_source("multialpaca", "de,es")
    with pytest.raises(InputError, match="has no such revision"):
        open_source(f"multialpaca@{'b' * 40}", "es")
    with pytest.raises(InputError, match="--data alpaca: the hub shows no such repository"):
        open_source("alpaca")


def test_all_languages_come_from_one_commit_though_main_moves(hub):
    files = {f"{language}.jsonl": as_json_lines(ROWS) for language in ("de", "es")}
    hub.repositories["datasets/DAMO-NLP-MT/multialpaca"] = Repository(files)
    source = open_source("multialpaca", "de,es")
    assert [len(source.read(language)[0]) for language in ("de", "es")] == [2, 2]
    asked = [request.split("/resolve/")[1] for request in hub.requests if request.startswith("HEAD")]
    assert asked == ["main/de.jsonl", f"{COMMIT}/es.jsonl"]
