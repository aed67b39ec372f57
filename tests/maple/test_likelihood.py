"""Likelihoods of choices beside those of whole texts, each read alone by transformers' model."""

import pytest
import torch

import maple
from maple.errors import InputError
from maple.likelihood import score_choices
from maple.lora import lora_layers
from tests.maple.test_model import random_model

# prefixes of 9, 1 and 20 tokens; choices of one token, of several, equal ones, one that begins like another
ITEMS = [
    (list(range(9)), [[3], [4], [5, 6, 7]]),
    ([50], [[1, 2], [1, 2], [1, 3, 4, 5, 6, 7, 8, 9]]),
    (list(range(30, 50)), [[7]]),
    (list(range(60, 66)), [[8, 9], [98]]),
    ([50], [[1, 2, 3, 4, 5], [1, 2, 3, 6], [1, 2, 3, 6, 7]]),
    ([51, 52], [[1, 2, 3], [1, 2, 3], [1, 2]]),
]
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {},
}


def loaded(folder, family="llama", bits=16, **more):
    """A random model in float64, with adapters that change something."""
    random_model(family, dtype=torch.float32, **FAMILIES[family], **more).save_pretrained(folder)
    model = maple.load_model(folder.as_posix(), bits=bits, rank=4, dtype=torch.float64)
    model.generation_config.eos_token_id = None
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_b, std=0.1)
    return model


@torch.no_grad()
def alone(model, prefix, choice):
    """(log-probability, whether every token is the likeliest) from the logits of the whole text."""
    logits = model(torch.tensor([prefix + choice]), use_cache=False).logits[0, len(prefix) - 1 : -1]
    targets = torch.tensor(choice)
    chosen = logits.log_softmax(1)[torch.arange(len(choice)), targets]
    return chosen.sum().item(), bool((logits.argmax(1) == targets).all())


def flat(scores):
    return [likelihood.log_probability for item in scores for likelihood in item]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_choice_is_scored_as_in_its_text_alone(tmp_path, family):
    model = loaded(tmp_path, family)
    scores = score_choices(model, ITEMS)
    for (prefix, choices), likelihoods in zip(ITEMS, scores, strict=True):
        for choice, likelihood in zip(choices, likelihoods, strict=True):
            expected, greedy = alone(model, prefix, choice)
            assert likelihood.log_probability == pytest.approx(expected, rel=1e-9)
            assert (likelihood.tokens, likelihood.greedy) == (len(choice), greedy)


@pytest.mark.parametrize("batch_tokens", [1, 7, 21, 40])
def test_the_size_of_a_pass_changes_nothing(tmp_path, monkeypatch, batch_tokens):
    model = loaded(tmp_path, bits=4)
    expected = flat(score_choices(model, ITEMS))
    monkeypatch.setattr("maple.likelihood.CHUNK", 2)
    passes = []
    model.base_model.register_forward_pre_hook(lambda _, __, given: passes.append(given["input_ids"]), with_kwargs=True)
    assert flat(score_choices(model, ITEMS, batch_tokens)) == pytest.approx(expected, rel=1e-9)
    assert len(passes) > 1
    assert all(ids.numel() <= batch_tokens or len(ids) == 1 for ids in passes)


def test_every_prefix_is_read_once_and_the_last_token_of_a_choice_never(tmp_path):
    model, read = loaded(tmp_path), []
    model.base_model.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"]), with_kwargs=True)
    score_choices(model, ITEMS[:1])
    assert [ids.tolist() for ids in read] == [[[*range(9), 5, 6]]]


def test_what_all_choices_begin_with_is_read_once(tmp_path):
    model, read = loaded(tmp_path), []
    model.base_model.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"]), with_kwargs=True)
    score_choices(model, ITEMS[4:5])
    assert [ids.tolist() for ids in read] == [[[50, 1, 2, 3, 4, 6]]]


def test_what_greedy_decoding_writes_is_greedy(tmp_path):
    model = loaded(tmp_path)
    prefix = list(range(12))
    ids = torch.tensor([prefix])
    settings = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    written = model.generate(ids, max_new_tokens=6, **settings)
    written = written[0, len(prefix) :].tolist()
    other = [*written[:5], (written[5] + 1) % 99]
    assert [likelihood.greedy for likelihood in score_choices(model, [(prefix, [written, other])])[0]] == [True, False]


def test_16_bit_logits_are_summed_in_float32(tmp_path):
    random_model(dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = maple.load_model(tmp_path.as_posix(), bits=16, rank=0, dtype=torch.bfloat16)
    scores = flat(score_choices(model, ITEMS))
    exact = flat(score_choices(maple.load_model(tmp_path.as_posix(), bits=16, rank=0), ITEMS))
    assert scores == pytest.approx(exact, rel=0.05)
    assert any(score != torch.tensor(score).bfloat16().item() for score in scores)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (([], [[1]]), "item 1 has no prefix.*BOS"),
        (([1], [[2], []]), "choice 1 of item 1 has no token"),
        (([1] * 100, [[2], [3] * 30]), "choice 1 of item 1 takes 30 tokens and its prefix 100.*window has 128"),
        (([1], [[99]]), "id 99, the model's embedding has 99 rows"),
    ],
)
def test_refused(tmp_path, item, words):
    with pytest.raises(InputError, match=words):
        score_choices(loaded(tmp_path), [ITEMS[0], item])


def test_a_text_may_fill_the_window_and_a_row_exceed_it(tmp_path):
    model = loaded(tmp_path)
    prefix, choices = [1] * 100, [[2] * 29, [3] * 29]  # the last token is predicted and not read
    scores = score_choices(model, [(prefix, choices)])[0]
    assert [s.log_probability for s in scores] == pytest.approx([alone(model, prefix, c)[0] for c in choices], rel=1e-9)
