"""The tokenizer of a folder is read once, and again when its files have changed."""

import json
import shutil

import pytest

from maple.errors import InputError
from maple.tiny import BASE
from maple.tokenizer import load_tokenizer


@pytest.fixture
def folder(tmp_path):
    for path in BASE.glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_the_same_folder_gives_the_same_tokenizer(folder):
    assert load_tokenizer(folder) is load_tokenizer(folder)


def test_a_changed_file_is_read_again(folder):
    before, settings = load_tokenizer(folder), folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"eos_token": "maple"}))
    assert load_tokenizer(folder).eos_token == "maple" != before.eos_token


def test_one_that_is_gone_is_not_remembered(folder):
    load_tokenizer(folder)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(InputError, match="neither tokenizer"):
        load_tokenizer(folder)


def test_a_link_that_leads_nowhere_is_no_matter(folder):
    (folder / "model.safetensors").symlink_to(folder / "a blob that was deleted")
    assert load_tokenizer(folder).eos_token
