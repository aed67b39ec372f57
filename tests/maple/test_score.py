"""Validation scores: what greedy decoding would answer to the letter, read off one packed forward pass."""

import numpy as np
import pytest
import torch

import maple
from maple.data.packing import collate
from maple.loss import Score, score, token_loss
from tests.maple.test_model import saved


@pytest.fixture
def model(tmp_path):
    saved(tmp_path)
    return maple.load_model(tmp_path.as_posix(), bits=16, rank=0)


def greedy(model, prompt, tokens):
    ids = torch.tensor([prompt])
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(ids, max_new_tokens=tokens, **options)[0].tolist()


def test_a_sample_matches_where_greedy_decoding_writes_its_answer(model):
    prompts = [torch.randint(3, 99, (length,)).tolist() for length in (5, 3, 8, 4)]
    right = [greedy(model, prompt, 6) for prompt in prompts]
    wrong_end = [*right[2][:-1], (right[2][-1] + 1) % 99]  # everything but the last token
    wrong_start = [*right[3][:4], (right[3][4] + 1) % 99, *right[3][5:]]  # only the first token of the answer
    samples = [(np.array(ids), len(p)) for ids, p in zip([*right[:2], wrong_end, wrong_start], prompts, strict=True)]
    batch = collate([samples[:3], samples[3:]], 48, pad=0)
    found = score(model, batch)
    assert (found.matches, found.samples) == (2, 4)
    assert found.exact_match == 0.5


def test_the_loss_is_that_of_training(model):
    samples = [(np.array(torch.randint(99, (length,))), 2) for length in (9, 5)]
    batch = collate([samples], 16, pad=0)
    found, (loss, tokens) = score(model, batch), token_loss(model, batch)
    assert found.tokens == tokens == 10
    assert found.mean_loss == pytest.approx(loss.item() / 10)


def test_scores_add_up():
    total = Score(2.0, 4, 1, 2) + Score(4.0, 2, 0, 1) + Score()
    assert total.mean_loss == 1.0 and total.exact_match == pytest.approx(1 / 3)
