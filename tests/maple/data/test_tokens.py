"""What is supervised and what is cut, with two real tokenizers; and the cache."""

from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from maple.data import tokens
from maple.data.records import Record, read_records
from maple.data.tokens import Limits, cut, tokenize
from maple.errors import InputError

RECORDS = [
    Record('Traduce: "good morning".', "", "Buenos días.", "f:1"),
    Record("¿Qué es?", "Un perro.", "Es un animal </s> y nada más.", "f:2"),
    Record("Nada.", "", "", "f:3"),
]
WIDE = Limits(512, 512)


@pytest.fixture(params=["models/stories260k", "tokenizers/mistral-7b-v0.1"])
def tokenizer(real, request):
    return AutoTokenizer.from_pretrained(real / request.param)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(tokenizer, records=RECORDS, limits=WIDE, template="alpaca"):
    return tokenize("es", records, template, tokenizer, limits)


@pytest.mark.parametrize("template", ["alpaca", "bactrian"])
def test_a_sample_is_bos_prompt_answer_eos(tokenizer, template):
    samples = run(tokenizer, template=template)
    for index, record in enumerate(RECORDS[:1] + RECORDS[2:]):
        ids, prompt_length = samples[index * 2]
        prompt = tokens.render(template, record, tokenizer)[0]
        assert list(ids[:prompt_length]) == tokenizer(prompt)["input_ids"]  # as at inference
        assert list(ids).count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        assert list(ids).count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[prompt_length:], skip_special_tokens=True).strip() == record.output
    ids, prompt_length = samples[2]
    assert len(ids) == prompt_length + 1  # an empty answer still supervises EOS
    assert samples.truncated_percent == 0


def test_the_count_of_supervised_tokens(tokenizer):
    samples = run(tokenizer)
    assert samples.supervised == sum(len(samples[i][0]) - samples[i][1] for i in range(3))
    assert list(samples.lengths) == [len(samples[i][0]) for i in range(3)]


def test_a_long_answer_loses_its_end():
    assert cut([1, 5, 6], [7, 8, 9, 2], Limits(5, 100), 1, "f:1") == ([1, 5, 6, 7, 8], 3)


def test_a_prompt_that_fills_max_length_stops_the_run_with_file_and_line():
    with pytest.raises(InputError, match=r"f:1: no supervised token is left, the prompt alone takes 6 .* 8 would do"):
        cut([1, 5, 6, 7, 8, 9], [3, 2], Limits(6, 100), 1, "f:1")


def test_a_prompt_that_fills_the_window_keeps_its_end_and_leaves_room_for_the_answer():
    prompt = [1, *range(10, 30)]
    assert cut(prompt, [3, 2], Limits(10, 10), 1, "f:1") == ([1, *range(23, 30), 3, 2], 8)
    ids, prompt_length = cut(prompt, [3] * 50, Limits(10, 10), 1, "f:1")
    assert (ids, prompt_length) == ([1, *range(26, 30), *[3] * 5], 5)
    assert cut(prompt[1:], [3, 2], Limits(10, 10), 1, "f:1") == ([*range(22, 30), 3, 2], 8)  # no BOS to keep


def test_every_sample_of_the_real_data_fits_and_is_supervised(real):
    tokenizer = AutoTokenizer.from_pretrained(real / "models/stories260k")
    path = real / "instruct/multialpaca/es.jsonl"
    samples = tokenize("es", read_records(path)[:1000], "alpaca", tokenizer, WIDE)
    prompts = samples.table["prompt_length"][:]
    assert samples.lengths.max() <= 512 and (prompts < samples.lengths).all()
    assert 5 < samples.truncated_percent < 30


def test_the_second_time_comes_from_the_cache(tokenizer, monkeypatch, cache):
    first = run(tokenizer)
    monkeypatch.setattr(tokens, "_samples", lambda *_: pytest.fail("tokenised again"))
    second = run(tokenizer)
    assert all(np.array_equal(first[i][0], second[i][0]) for i in range(3))
    elsewhere = [replace(record, where="elsewhere") for record in RECORDS]
    assert np.array_equal(run(tokenizer, elsewhere)[0][0], first[0][0])
    others = [RECORDS[::-1], [replace(RECORDS[0], input="x"), *RECORDS[1:]]]
    for changed in ({"limits": Limits(100, 512)}, *({"records": records} for records in others)):
        with pytest.raises(pytest.fail.Exception):  # anything that the tokens depend on makes another entry
            run(tokenizer, **changed)
    assert not list(cache.rglob("*.partial"))


def test_a_damaged_cache_is_made_again(tokenizer, cache):
    first = run(tokenizer)
    for file in cache.rglob("*.arrow"):
        file.write_bytes(b"damaged")
    second = run(tokenizer)
    assert np.array_equal(first[0][0], second[0][0])
