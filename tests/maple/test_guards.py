"""What stops a run that has gone wrong, and who is to blame."""

import math

import pytest
import torch

import maple
from maple.data.packing import collate
from maple.errors import InputError
from maple.guards import ZERO_STEPS, Diverged, Watch, samples
from tests.maple.test_model import saved

BAD = 7  # the token whose embedding is no number


@pytest.fixture
def model(tmp_path):
    saved(tmp_path)
    model = maple.load_model(tmp_path.as_posix(), bits=4, rank=2)
    model.get_input_embeddings().weight.data[BAD] = math.nan
    return model


def batch(*rows):
    """Rows of samples (token ids, prompt length), packed, at the place (0, 3)."""
    pairs = [[(torch.tensor(ids).numpy(), prompt) for ids, prompt in row] for row in rows]
    return collate(pairs, length=16, pad=0) | {"place": (0, 3)}


def test_packed_samples_come_apart_again_without_the_padding():
    packed = batch([([11, 12, 13, 14], 2), ([21, 22, 23], 1)], [([31, 32], 1)])
    found = {place: sample for place, sample in samples([packed])}
    assert list(found) == [((0, 3), 0, 0), ((0, 3), 0, 1), ((0, 3), 1, 0)]
    assert [sample["input_ids"].tolist() for sample in found.values()] == [[[11, 12, 13]], [[21, 22]], [[31]]]
    assert [sample["labels"].tolist() for sample in found.values()] == [[[-100, 13, 14]], [[22, 23]], [[32]]]


def test_a_loss_that_is_no_number_names_the_samples_that_do_it_alone(model):
    packed = batch([([11, 12, 13, 14], 2), ([21, BAD, 23], 1)], [([31, 32, 33], 1)])
    Watch().loss(model, 2.5, 1, packed)
    with pytest.raises(Diverged, match="step 4: the loss is nan") as error:
        Watch().loss(model, math.nan, 4, packed)
    assert error.value.samples == [((0, 3), 0, 1)] and error.value.total == 3


def test_a_gradient_that_is_no_number_looks_at_every_micro_batch_of_the_step(model):
    packed = [batch([([11, 12, 13, 14], 2)]), batch([([BAD, 22, 23], 1)])]
    with pytest.raises(Diverged, match="step 2: the gradient's norm is inf") as error:
        Watch().gradient(model, math.inf, 2, 5, packed)
    assert error.value.samples == [((0, 3), 0, 0)] and error.value.total == 2


def test_a_gradient_of_zero_is_forgiven_but_not_for_long(model):
    watch = Watch()
    for norm, tokens in [*[(0.0, 5)] * (ZERO_STEPS - 1), (1.0, 5), *[(0.0, 5)] * (ZERO_STEPS - 1), (0.0, 0)]:
        watch.gradient(model, norm, 1, tokens, [])
    for step in range(1, ZERO_STEPS):
        watch.gradient(model, 0.0, step, 5, [])
    with pytest.raises(InputError, match=f"the gradient has been zero for {ZERO_STEPS} steps"):
        watch.gradient(model, 0.0, ZERO_STEPS, 5, [])
