"""Lesson 7 notices where it no longer tells the truth."""

import pytest
import torch

import maple.loss
import maple.module
from maple.data import packing
from maple.data.packing import IGNORED
from maple.module import FineTuning


def test_it_notices_rows_of_one_sample(run, monkeypatch):
    monkeypatch.setattr(packing, "pack", lambda lengths, capacity: [[number] for number in range(len(lengths))])
    with pytest.raises(AssertionError, match="does not save the padding"):
        run("7_packing")


def test_it_notices_labels_that_cross_into_the_next_sample(run, monkeypatch):
    collate = packing.collate

    def along_the_row(rows, length, pad):
        """Shifted along the row: a sample's last place expects the first token of the next."""
        batch = collate(rows, length, pad)
        labels, begins = batch["labels"], batch["position_ids"] == 0
        before = begins.roll(-1, dims=1) & (labels != IGNORED)
        labels[before] = batch["input_ids"].roll(-1, dims=1)[before]
        return batch

    monkeypatch.setattr(packing, "collate", along_the_row)
    with pytest.raises(AssertionError, match="not the answers of its samples"):
        run("7_packing")


def test_it_notices_boundaries_that_forget_where_a_sample_begins(run, monkeypatch):
    boundaries = maple.loss.boundaries

    def forgets(position_ids):
        found = boundaries(position_ids)
        return torch.cat([found[..., :1], found[..., 2:]], dim=-1)

    monkeypatch.setattr(maple.loss, "boundaries", forgets)
    with pytest.raises(AssertionError, match="its own past and nothing else"):
        run("7_packing")


def test_it_notices_positions_that_run_on(run, monkeypatch):
    collate = packing.collate

    def running_on(rows, length, pad):
        batch = collate(rows, length, pad)
        return batch | {"position_ids": torch.arange(length).expand(len(rows), length)}

    monkeypatch.setattr(packing, "collate", running_on)
    with pytest.raises(AssertionError, match="its own past and nothing else"):
        run("7_packing")


def test_it_notices_states_that_depend_on_the_length_of_the_row(run, monkeypatch):
    states = maple.loss.hidden_states

    def scaled(model, batch):
        return states(model, batch) * batch["input_ids"].shape[1]

    monkeypatch.setattr(maple.loss, "hidden_states", scaled)
    with pytest.raises(AssertionError, match="not those of the sample alone"):
        run("7_packing")


def test_it_notices_a_step_that_divides_by_micro_batches(run, monkeypatch):
    loss = maple.module.token_loss

    def mean(model, batch):
        total, tokens = loss(model, batch)
        return total / tokens, tokens

    def lightnings_own(self, optimizer):
        self.window, self.window_loss, self.window_tokens = [], 0.0, 0

    monkeypatch.setattr(maple.module, "token_loss", mean)
    monkeypatch.setattr(FineTuning, "on_before_optimizer_step", lightnings_own)
    with pytest.raises(AssertionError, match="not the mean over its tokens"):
        run("7_packing")


def test_it_notices_a_loss_per_place_instead_of_per_supervised_token(run, monkeypatch):
    loss = maple.loss.token_loss

    def per_place(model, batch):
        total, _ = loss(model, batch)
        return total, batch["labels"].numel()

    monkeypatch.setattr(maple.loss, "token_loss", per_place)
    with pytest.raises(AssertionError, match="not the mean over its tokens"):
        run("7_packing")
