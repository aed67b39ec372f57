"""The distance between two models' logits, beside PyTorch's own KL divergence."""

import pytest
import torch

from maple import drift


def test_each_number_is_what_it_says():
    one, other = ([torch.randn(5, 30), torch.randn(3, 30)] for _ in range(2))
    found = drift.compare(one, other)
    p, q = torch.cat(one).double(), torch.cat(other).double()
    assert found.largest == (p - q).abs().max().item()
    assert found.mean == pytest.approx((p - q).abs().mean().item())
    assert found.same_token == pytest.approx((p.argmax(1) == q.argmax(1)).double().mean().item())
    expected = torch.nn.functional.kl_div(q.log_softmax(1), p.softmax(1), reduction="batchmean")
    assert found.divergence == pytest.approx(expected.item())


def test_a_model_beside_itself_has_not_moved():
    logits = [torch.randn(4, 9)]
    assert drift.compare(logits, logits) == drift.Drift(largest=0.0, mean=0.0, same_token=1.0, divergence=0.0)


def test_prompts_fit_a_small_window_and_logits_are_those_of_the_last_positions(stories):
    import maple
    from maple.tokenizer import load_tokenizer

    prompts = drift.prompts("alpaca", load_tokenizer(stories), window=40, rows=512)
    assert len(prompts) == len(drift.PROMPTS) and all(len(ids) == 40 for ids in prompts)
    model = maple.load_model(stories.as_posix(), bits=16, rank=0)
    logits = drift.logits(model, prompts)
    assert all(len(some) == drift.POSITIONS for some in logits)
    torch.testing.assert_close(logits[3], model(torch.tensor([prompts[3]])).logits[0, -drift.POSITIONS :])
