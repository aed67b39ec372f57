"""JSON that somebody else wrote: an object, or one sentence that names the file."""

import json

import pytest

from maple import jsonfile
from maple.errors import InputError
from maple.jsonfile import parse_object, read_array, read_object

REFUSED = [
    (b"{,", "not JSON"),
    (b"", "not JSON"),
    (b"[1]", "not a JSON object"),
    (b'{"a": "\xff"}', "not UTF-8 .byte 7"),
    (b'{"a": ' + b"[" * 100_000, "nested too deep"),
    (b'{"a": ' + b"1" * 5000 + b"}", "not JSON .Exceeds the limit"),
    (b'{"weight_map": {"x": "a", "y": "b", "x": "c"}}', "the key 'x' is there twice"),
    (b'{"a\\n\\u202e": 1, "a\\n\\u202e": 2}', r"the key 'a\\n\\u202e' is there twice"),
]


@pytest.mark.parametrize(("content", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_no_object_is_refused_in_one_sentence(tmp_path, content, words):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_object(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_file_that_is_missing_or_no_file(tmp_path):
    for path in (tmp_path / "x.json", tmp_path):
        with pytest.raises(InputError, match="is missing"):
            read_object(path)


def test_its_size_is_checked_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(10**12)  # takes no room on the disk
    with pytest.raises(InputError, match="1000000000000 bytes of JSON"):
        read_object(path)
    names = {
        f"model.layers.{n}.mlp.experts.{m}.up_proj.weight": "model-00001.safetensors"
        for n in range(61)
        for m in range(1500)
    }
    path.write_text(json.dumps({"weight_map": names}))  # as many tensors as the largest model there is
    assert path.stat().st_size < jsonfile.LARGEST and len(read_object(path)["weight_map"]) == 91_500


def test_a_text_is_named_by_whoever_has_it():
    assert parse_object('{"a": [1, null]}', "x") == {"a": [1, None]}
    with pytest.raises(InputError, match="its state: not a JSON object"):
        parse_object(b"3", "its state")


def test_an_array_is_read_like_an_object(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, null]')
    assert read_array(path) == [{"a": 1}, None]
    for content, words in (("{}", "not a JSON array"), ("[", "not JSON"), ('[{"a": 1, "a": 2}]', "is there twice")):
        path.write_text(content)
        with pytest.raises(InputError, match=words) as error:
            read_array(path)
        assert str(error.value).startswith(str(path))
