"""What an adapter says of its base, bits and template, and which of it is believed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import maple
from maple.errors import InputError
from maple.origin import find_origin
from tests.maple.test_model import edit, saved


@pytest.fixture
def adapter(tmp_path):
    """An adapter for the folder `base`, trained on 4 bits in blocks of 128 with the template bactrian."""
    saved(tmp_path / "base")
    model = maple.load_model((tmp_path / "base").as_posix(), bits=4, rank=2, block_size=128, double_quant=False)
    maple.save_adapter(model, tmp_path / "adapter", template="bactrian")
    return tmp_path / "adapter"


def test_an_adapter_says_all_that_its_base_was_loaded_with(adapter, tmp_path):
    origin = find_origin(None, str(adapter))
    assert (origin.model, origin.folder) == ((tmp_path / "base").as_posix(), tmp_path / "base")
    assert (origin.base_bits, origin.template) == (4, "bactrian")
    model = maple.load_model(**origin.load_arguments(origin.base_bits), rank=0)
    assert model.maple == {"model": origin.model, "revision": None, "bits": 4, "block_size": 128, "double_quant": False}


def test_a_model_that_moved_is_recognised_by_its_name(adapter, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "base").rename(tmp_path / "elsewhere" / "base")
    assert find_origin(str(moved), str(adapter)).model == str(moved)
    with pytest.raises(InputError, match=r"its base .*/base is not there; give it as --model"):
        find_origin(None, str(adapter))


@pytest.mark.parametrize("folder", ["Mistral-7B", "models--mistralai--Mistral-7B/snapshots/0f3e"])
def test_a_hub_id_may_have_become_a_folder(adapter, tmp_path, folder):
    edit(
        adapter / "adapter_config.json",
        lambda c: c.update(base_model_name_or_path="mistralai/Mistral-7B", revision="x"),
    )
    (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "base").rename(tmp_path / folder)
    origin = find_origin(str(tmp_path / folder), str(adapter))
    assert origin.revision is None  # which a folder does not have


def test_the_folder_one_stands_in_is_no_part_of_a_name(adapter, tmp_path, monkeypatch):
    edit(adapter / "adapter_config.json", lambda c: c.update(base_model_name_or_path="mistralai/Mistral-7B"))
    (tmp_path / "Mistral-7B").mkdir()
    monkeypatch.chdir(tmp_path / "Mistral-7B")
    with pytest.raises(InputError, match="is for the base mistralai/Mistral-7B, --model is tiny"):
        find_origin("tiny", str(adapter))


def test_another_base_is_refused_until_the_adapter_names_it(adapter, tmp_path):
    saved(tmp_path / "other")
    with pytest.raises(
        InputError, match=r"is for the base .*/base, --model is .*/other; if they are the same, write"
    ) as error:
        find_origin(str(tmp_path / "other"), str(adapter))
    assert "\n" not in str(error.value)
    edit(adapter / "adapter_config.json", lambda c: c.update(base_model_name_or_path=str(tmp_path / "other")))
    assert find_origin(str(tmp_path / "other"), str(adapter)).folder == tmp_path / "other"


def test_an_adapter_of_peft_says_neither_bits_nor_template(adapter, tmp_path):
    save_file({"x": torch.ones(1)}, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    origin = find_origin(None, str(adapter))
    assert (origin.bits, origin.base_bits, origin.template) == (None, 16, None)
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    edit(tmp_path / "base" / "config.json", lambda c: c.update(quantization_config=quantization))
    assert find_origin(None, str(adapter)).base_bits == 4


def said(**values):
    def change(folder):
        weights = folder / "adapter_model.safetensors"
        save_file({"x": torch.ones(1)}, weights, metadata={"maple": json.dumps(values)})

    return change


def config(**values):
    return lambda folder: edit(folder / "adapter_config.json", lambda c: c.update(values))


REFUSED = [
    (said(bits=5), r"under 'maple' bits is 5; known: \(4, 8, 16\)"),
    (said(template="\x1b[31m"), "under 'maple' template is"),
    (said(bits=4.0), r"under 'maple' bits is 4.0; known"),
    (said(double_quant=1), r"under 'maple' double_quant is 1; known"),
    (said(block_size=[64]), "under 'maple' block_size is"),
    (lambda f: save_file({}, f / "adapter_model.safetensors", metadata={"maple": "{"}), "metadata: not JSON"),
    (lambda f: save_file({}, f / "adapter_model.safetensors", metadata={"maple": "[]"}), "metadata: not a JSON object"),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b"no"), "not a readable safetensors file"),
    (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
    (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json, so it holds no adapter$"),
    (lambda f: (f / "adapter_config.json").write_text("[1]"), "not a JSON object"),
    (lambda f: (f / "adapter_config.json").write_bytes(b"\xff"), "not UTF-8"),
    (config(base_model_name_or_path=None), "names no base; give it as --model"),
    (config(base_model_name_or_path="é" * 300), "its base é+ is not there; give it as --model"),
    (config(base_model_name_or_path="~nobody/x"), "its base ~nobody/x is not there"),
    (config(base_model_name_or_path=7), "base_model_name_or_path is 7"),
    (config(base_model_name_or_path="a\0b"), r"base_model_name_or_path is 'a\\x00b'"),
]


@pytest.mark.parametrize(("harm", "words"), REFUSED, ids=[words[:30] for _, words in REFUSED])
def test_what_an_adapter_cannot_mean_is_refused(adapter, harm, words):
    harm(adapter)
    with pytest.raises(InputError, match=words) as error:
        find_origin(None, str(adapter))
    assert "\n" not in str(error.value)


def test_the_folder_of_a_run_is_recognised(adapter, tmp_path):
    adapter.rename(tmp_path / "run")
    (tmp_path / "run").rename((tmp_path / "0001").mkdir() or tmp_path / "0001" / "adapter")
    with pytest.raises(InputError, match="did you mean its folder adapter/"):
        find_origin(None, str(tmp_path / "0001"))


def test_neither_model_nor_adapter():
    with pytest.raises(InputError, match="give --model, or an --adapter"):
        find_origin(None, None)
    with pytest.raises(InputError, match=r"--adapter \./nowhere: there is no such folder"):
        find_origin(None, "./nowhere")


def test_a_merged_model_says_its_template_only(tmp_path):
    saved(tmp_path / "base")
    folder = str(Path(tmp_path / "base"))
    edit(tmp_path / "base" / "config.json", lambda c: c.update(maple={"bits": 4, "template": "alpaca"}))
    assert (find_origin(folder, None).base_bits, find_origin(folder, None).template) == (16, "alpaca")
    edit(tmp_path / "base" / "config.json", lambda c: c.update(maple={"template": "nonsense"}))
    with pytest.raises(InputError, match="under 'maple' template is 'nonsense'"):
        find_origin(folder, None)
