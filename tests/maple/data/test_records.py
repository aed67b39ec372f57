"""Reading records: the real files, and each way a file can be wrong, with its line."""

import pytest

from maple.data.records import Record, read_records
from maple.errors import InputError

GOOD = b'{"instruction": "Say yes.", "input": null, "output": "yes"}\n'


def test_the_real_multialpaca(real):
    folder = real / "instruct" / "multialpaca"
    counts = {language: len(read_records(folder / f"{language}.jsonl")) for language in ("es", "pt")}
    assert counts == {"es": 9958, "pt": 10825}


def test_input_may_be_null_absent_or_text_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "sw.jsonl"
    path.write_bytes(GOOD + b'\n{"instruction": "a", "output": ""}\n{"instruction": "b", "input": "c", "output": "d"}')
    expected = [("Say yes.", "", "yes", 1), ("a", "", "", 3), ("b", "c", "d", 4)]
    assert read_records(path) == [Record(*texts, f"{path}:{line}") for *texts, line in expected]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", ":2: not JSON"),
        (b"[1]", ":2: not an object"),
        (b"[" * 100_000, ":2: not JSON"),
        (b'{"instruction": "\xff"}', ":2: not UTF-8 .byte 17"),
        (b'{"instruction": "a"}', ":2: 'output' must be text, found nothing"),
        (b'{"instruction": 3, "output": "a"}', ":2: 'instruction' must be text, found int"),
        (
            b'{"instruction": "a \\ud83d", "output": "a"}',
            ":2: 'instruction' holds half of a surrogate pair at character 2",
        ),
        (b'{"instruction": " ", "output": "a"}', ":2: 'instruction' is empty"),
        (
            b'{"instruction": "a", "input": ["b"], "output": "a"}',
            ":2: 'input' must be text, null or absent, found list",
        ),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line, words):
    path = tmp_path / "de.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(InputError, match=f"{path}{words}"):
        read_records(path)


def test_a_line_that_is_too_long_is_refused_before_it_is_in_memory(tmp_path):
    path = tmp_path / "de.jsonl"
    with path.open("wb") as file:
        file.write(GOOD)
        file.truncate(10**12)  # zeros that take no room on the disk, and no line break
    with pytest.raises(InputError, match=f"{path}:2: a line of more than 16777216 bytes"):
        read_records(path)


def test_a_file_without_records(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no record"):
        read_records(tmp_path / "empty.jsonl")
