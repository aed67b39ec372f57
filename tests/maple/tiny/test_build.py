"""How the embedded base is made, and what lies in the repository."""

import re
from itertools import islice

import pytest
import sentencepiece
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from maple.data.prompts import TEMPLATES
from maple.errors import InputError
from maple.tiny import BASE
from maple.tiny.build import ARCHITECTURE, ROW, batches, build, copy_accuracy
from maple.tiny.language import language
from maple.tiny.text import SHARES, documents


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture
def quick(monkeypatch):
    """A build asks fewer questions at its end, and leaves PyTorch's settings as they were."""
    monkeypatch.setattr("maple.tiny.build.PROBES", 2)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_same_build_gives_the_same_bytes(tmp_path, quick):
    for name in ("one", "two"):
        build((tmp_path / name).as_posix(), steps=3)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in BASE.iterdir())
    for name in set(files) - {"build.log"}:  # which holds the seconds it took
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    build((tmp_path / "three").as_posix(), steps=3, seed=1)
    weights = "model.safetensors"
    assert (tmp_path / "one" / weights).read_bytes() != (tmp_path / "three" / weights).read_bytes()
    assert (tmp_path / "one" / "tokenizer.model").read_bytes() == (BASE / "tokenizer.model").read_bytes()


def test_a_build_writes_into_no_folder_that_holds_something(tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(InputError, match="not empty"):
        build(tmp_path.as_posix())


def test_the_embedded_folder_is_a_small_llama_in_16_bits():
    assert sum(path.stat().st_size for path in BASE.iterdir()) < 12e6
    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert model.config.model_type == "llama" and model.dtype == torch.bfloat16
    assert 1e6 < model.num_parameters() < 6e6
    assert all(getattr(model.config, name) == value for name, value in ARCHITECTURE.items())


def test_the_base_copies_a_fact_it_never_read_from_its_context(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    assert copy_accuracy(model, tokenizer, language("en"), probes=25) > 0.5  # chance is one in eight
    logged = re.findall(r"as stored, in bfloat16: .*", (BASE / "build.log").read_text())
    assert len(logged) == 1 and all(f" {code} " in logged[0] for code in SHARES)


def test_transformers_cuts_plain_text_as_sentencepiece_does(tokenizer):
    original = sentencepiece.SentencePieceProcessor(model_file=str(BASE / "tokenizer.model"))
    for _, text in islice(documents(99), 200):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == original.encode(text)
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["Ǆ œuvre 🍁", "perché è così", "தமிழ்", "a\tb\x00"])
def test_what_the_vocabulary_lacks_becomes_bytes_and_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


def test_the_fixed_phrases_of_a_prompt_are_one_piece_each(tokenizer):
    for pair in TEMPLATES.values():
        for template in pair:
            phrases = [phrase for phrase in re.split(r"{\w+}", template) if phrase]
            assert [len(tokenizer(phrase, add_special_tokens=False)["input_ids"]) for phrase in phrases] == [1] * len(
                phrases
            )


def test_batches_are_packed_documents_that_begin_and_end(tokenizer):
    for batch in islice(batches(tokenizer, seed=5), 3):
        starts = (batch["position_ids"] == 0) & (batch["labels"] >= 0)
        assert batch["input_ids"].shape[1] == ROW and starts.sum() > len(batch["input_ids"])
        assert (batch["input_ids"][starts] == tokenizer.bos_token_id).all()
        assert (batch["labels"] == tokenizer.eos_token_id).sum() == starts.sum()
