"""What an optimizer step does: the exact mean over tokens, the true gradient clipped, the schedule."""

import copy
import math

import pytest
import torch
from lightning.pytorch import Trainer

import maple
from maple.data.packing import IGNORED
from maple.lora import lora_parameters
from maple.module import FineTuning
from tests.maple.test_model import saved


@pytest.fixture
def model(tmp_path):
    saved(tmp_path)
    model = maple.load_model(tmp_path.as_posix(), bits=4, rank=4, dtype=torch.float64)
    for _, parameter in lora_parameters(model):
        parameter.data = torch.randn_like(parameter, dtype=torch.float64) * 0.1
    return model


def micro_batch(supervised, length=12, dtype=torch.int64):
    ids = torch.randint(99, (1, length), dtype=dtype)
    labels = torch.full((1, length), IGNORED)
    labels[0, :supervised] = torch.randint(99, (supervised,))
    return {"input_ids": ids, "position_ids": torch.arange(length)[None], "labels": labels, "tokens": length}


def train(model, batches, accumulate=1, clip=None, **settings):
    """Train with plain SGD of rate 1, so that the parameters move by exactly the gradient; returns the module."""
    defaults = {"lr": 1.0, "schedule": "constant", "warmup_steps": 0, "total_steps": 99, "languages": ["en"]}
    module = FineTuning(model, **defaults | settings)
    parameters = [parameter for _, parameter in lora_parameters(model)]
    module.configure_optimizers = lambda: torch.optim.SGD(parameters, lr=1.0)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=accumulate, gradient_clip_val=clip,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model.train()
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    assert trainer.global_step == math.ceil(len(batches) / accumulate)
    return module


def values(model):
    return torch.cat([parameter.detach().flatten() for _, parameter in lora_parameters(model)])


def one_float64_batch(model, batches):
    """The gradient of the mean over all supervised tokens of the batches, with transformers' own forward."""
    total, count = 0, 0
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        labels = batch["labels"]
        total = total + torch.nn.functional.cross_entropy(logits[0], labels[0], ignore_index=IGNORED, reduction="sum")
        count += (labels != IGNORED).sum()
    gradient = torch.autograd.grad(total / count, [parameter for _, parameter in lora_parameters(model)])
    return torch.cat([g.flatten() for g in gradient])


def assert_same_step(found, expected):
    """To 1e-6 of its length: the norms and rotary angles of transformers are in float32 even in a float64 model."""
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_accumulation_of_ragged_micro_batches_is_one_batch(model):
    batches = [micro_batch(8), micro_batch(1), micro_batch(0)]
    expected = one_float64_batch(model, batches)
    before = values(model)
    train(model, batches, accumulate=3)
    assert_same_step(before - values(model), expected)


def test_a_short_last_group_is_not_divided_by_the_micro_batches_it_lacks(model):
    batches = [micro_batch(8), micro_batch(1), micro_batch(0), micro_batch(5)]
    twin = copy.deepcopy(model)
    before = values(model)
    first = one_float64_batch(twin, batches[:3])
    offset = 0
    for _, parameter in lora_parameters(twin):
        parameter.data -= first[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    second = one_float64_batch(twin, batches[3:])
    train(model, batches, accumulate=3)
    assert_same_step(before - values(model), first + second)


def test_clipping_acts_on_the_true_gradient_and_the_true_norm_is_told(model):
    batches = [micro_batch(8), micro_batch(3)]
    expected = one_float64_batch(model, batches)
    norm, before = expected.norm(), values(model)
    module = train(model, batches, accumulate=2, clip=float(norm) / 2)
    assert module.grad_norm == pytest.approx(float(norm), rel=1e-6)
    assert (before - values(model) - expected / 2).norm() <= 1e-5 * norm


def test_the_loss_of_a_step_is_the_mean_over_its_tokens(model):
    batches = [micro_batch(8), micro_batch(1)]
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(
                model(b["input_ids"]).logits[0], b["labels"][0], ignore_index=IGNORED, reduction="sum"
            )
            for b in batches
        ]
    module = train(model, batches, accumulate=2)
    assert module.step_loss == pytest.approx(float(sum(losses)) / 9, rel=1e-6)


def test_only_lora_is_given_to_adamw_and_weights_do_not_decay(model):
    module = FineTuning(model, lr=1e-3, schedule="cosine", warmup_steps=2, total_steps=10, languages=["en"])
    optimizer = module.configure_optimizers()["optimizer"]
    assert type(optimizer) is torch.optim.AdamW and optimizer.param_groups[0]["weight_decay"] == 0
    given = [p for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in given] == [id(p) for _, p in lora_parameters(model)]
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in given}


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("cosine", {0: 1 / 4, 1: 2 / 4, 3: 1.0, 4: 1.0, 8: 0.5, 12: 0.0, 99: 0.0}),
        ("constant", {0: 1 / 4, 3: 1.0, 4: 1.0, 99: 1.0}),
    ],
)
def test_schedule(schedule, factors):
    module = FineTuning(torch.nn.Module(), lr=1.0, schedule=schedule, warmup_steps=4, total_steps=12, languages=[])
    assert {step: pytest.approx(module.lr_factor(step)) for step in factors} == factors
