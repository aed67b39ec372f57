"""Rows and labels, and that a packed sample does not feel its neighbours: not in one bit."""

import numpy as np
import pytest
import torch

import maple
from maple.data.packing import IGNORED, collate, pack, plan, row_length
from maple.lora import lora_parameters
from maple.loss import token_loss


def sample(length, prompt_length, start=3):
    return np.arange(start, start + length, dtype=np.int32), prompt_length


def test_labels_are_the_next_token_of_the_same_sample_where_it_is_answer():
    batch = collate([[sample(4, 2), sample(3, 1, start=20)]], length=7, pad=2)
    assert batch["input_ids"].tolist() == [[3, 4, 5, 20, 21, 2, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 5, 6, 21, 22, IGNORED, IGNORED]]
    assert batch["tokens"] == 5


def test_rows_hold_every_sample_once_and_are_nearly_full():
    lengths = np.random.default_rng(0).integers(20, 400, 5000)
    rows = pack(lengths, 512)
    assert sorted(i for row in rows for i in row) == list(range(5000))
    used = [sum(lengths[row]) for row in rows]
    assert max(used) <= 512 and np.mean(used) / 512 > 0.95


def test_short_samples_go_to_short_rows():
    assert [row_length(n, 1024) for n in (10, 16, 17, 64, 65, 256, 257, 1024)] == [
        64,
        64,
        128,
        256,
        512,
        1024,
        1024,
        1024,
    ]
    batches = plan([10] * 30 + [500] * 3, max_length=512, batch_tokens=1024)
    assert {length for length, _ in batches} == {64, 512}
    assert all(length * len(rows) <= 1024 for length, rows in batches)


@pytest.fixture(scope="module")
def model(stories):
    model = maple.load_model(stories.as_posix(), bits=4, rank=8)
    for _, parameter in lora_parameters(model):
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def loss_and_gradients(model, batch):
    model.zero_grad()
    loss, _ = token_loss(model, batch)
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in lora_parameters(model)}


def test_another_packed_sample_changes_no_bit_of_loss_and_gradient(model):
    mine, generator = sample(40, 10, start=100), np.random.default_rng(1)

    def packed_with(neighbour):
        batch = collate([[neighbour, mine, neighbour]], length=128, pad=2)
        batch["labels"][:, :29], batch["labels"][:, 68:] = IGNORED, IGNORED  # only mine is asked about
        return loss_and_gradients(model, batch)

    results = [packed_with((generator.integers(3, 500, 30).astype(np.int32), 5)) for _ in range(3)]
    for loss, gradients in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert all(torch.equal(gradient, results[0][1][name]) for name, gradient in gradients.items())
    assert any(gradient.abs().sum() > 0 for gradient in results[0][1].values())


def test_packed_is_the_sum_of_alone(model):
    samples = [sample(40, 10, 100), sample(25, 3, 200), sample(1 + 1, 1, 30)]
    together = loss_and_gradients(model, collate([samples], length=80, pad=2))
    alone = [loss_and_gradients(model, collate([[one]], length=len(one[0]) - 1, pad=2)) for one in samples]
    torch.testing.assert_close(together[0], sum(loss for loss, _ in alone), rtol=1e-5, atol=0)
    found = torch.cat([gradient.flatten() for gradient in together[1].values()])
    expected = sum(torch.cat([gradient.flatten() for gradient in gradients.values()]) for _, gradients in alone)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_padding_changes_nothing(model):
    rows = [[sample(40, 10, 100)]]
    short, long = (loss_and_gradients(model, collate(rows, length=n, pad=2)) for n in (39, 128))
    torch.testing.assert_close(short[0], long[0], rtol=1e-5, atol=0)
