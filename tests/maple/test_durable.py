"""Files and folders that are whole or not there."""

import hashlib
import os

import pytest

from maple.durable import file_sha256, replace_file, sweep, whole_folder, write_file
from maple.errors import InputError


def test_a_file_is_written_in_pieces_and_its_hash_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    found = write_file(path, [b"one", memoryview(b"two"), b""])
    assert path.read_bytes() == b"onetwo"
    assert found == file_sha256(path) == hashlib.sha256(b"onetwo").hexdigest()


def test_a_system_that_takes_a_byte_at_a_time(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:1]))
    write_file(tmp_path / "file", [b"slowly"])
    assert (tmp_path / "file").read_bytes() == b"slowly"


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    replace_file(path, "old")
    replace_file(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["config.yaml"]
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        replace_file(path, "newer")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["config.yaml"]


def test_a_folder_appears_when_it_is_full_in_the_place_of_an_older_one(tmp_path):
    out = tmp_path / "out"
    for content in ("one", "two"):
        with whole_folder(out) as partial:
            (partial / "file").write_text(content)
            assert not out.exists() or (out / "file").read_text() == "one"
    assert (out / "file").read_text() == "two" and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("error", "raised"), [(ValueError("x"), ValueError), (OSError(28, "No space left"), InputError)]
)
def test_a_folder_that_fails_half_way_leaves_nothing_and_the_older_one(tmp_path, error, raised):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(raised), whole_folder(out) as partial:
        (partial / "file").touch()
        raise error
    assert os.listdir(tmp_path) == ["out"] and os.listdir(out) == ["old"]


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    half = tmp_path / "checkpoints" / ".step-00000001.77.partial"
    half.mkdir(parents=True)
    (half / ".SHA256SUMS.78.partial").touch()  # killed while it wrote a file of the folder
    (tmp_path / ".step-00000000.77.discarded").mkdir()
    (tmp_path / ".config.yaml.77.partial").touch()
    (tmp_path / ".lock").touch()
    (tmp_path / "notes.partial").touch()
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock", "checkpoints", "notes.partial"]
    assert not os.listdir(tmp_path / "checkpoints")
