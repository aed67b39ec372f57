"""Attention of prefixes and their branches, beside one softmax over all that a token sees."""

from itertools import accumulate

import pytest
import torch

import kernels
from kernels import shared_prefix
from tests.conftest import SEED

TEXTS = {  # tokens of each prefix, and of each of its branches
    "several": [(7, [3, 1, 5]), (1, [2]), (12, [4, 4]), (5, [])],
    "no branches": [(4, []), (9, [])],
    "one": [(3, [6])],
    "long": [(130, [40, 70]), (65, [1])],
}


def packed(texts):
    """(whose each token is: text and branch, -1 for the prefix; positions; boundaries; which are prefixes)."""
    owners = [(text, -1) for text, (prefix, _) in enumerate(texts) for _ in range(prefix)]
    owners += [(text, place) for text, (_, some) in enumerate(texts) for place, n in enumerate(some) for _ in range(n)]
    lengths = [prefix for prefix, _ in texts] + [n for _, some in texts for n in some]
    prefixes, branches = [prefix for prefix, _ in texts], [sum(some) for _, some in texts]
    positions = [i for prefix in prefixes for i in range(prefix)]
    positions += [prefix + i for prefix, some in texts for n in some for i in range(n)]
    shared = kernels.Prefixes(ends(prefixes), ends(branches), sum(prefixes), max(prefixes), max(branches))
    return owners, positions, ends(lengths), shared, max(lengths)


def ends(lengths):
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def dense(q, k, v, owners, positions, scale, window=None):
    """One softmax, in float64."""
    sees = [[mine == theirs or (mine[0] == theirs[0] and theirs[1] == -1) for theirs in owners] for mine in owners]
    distance = torch.tensor(positions)[:, None] - torch.tensor(positions)
    sees = torch.tensor(sees) & (distance >= 0)
    if window is not None:
        sees &= distance < window
    q, k, v = (t.double().transpose(0, 1) for t in (q, k, v))
    k, v = (t.repeat_interleave(len(q) // len(t), 0) for t in (k, v))
    scores = (q @ k.mT * scale).masked_fill(~sees, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1)


def drawn(tokens, heads, kv_heads, dtype, dim=16):
    return [torch.randn(tokens, n, dim, dtype=dtype) * 2 for n in (heads, kv_heads, kv_heads)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)], ids=str)
@pytest.mark.parametrize("name", TEXTS)
def test_each_token_sees_its_text_and_no_other_branch(name, heads, dtype):
    owners, positions, boundaries, shared, longest = packed(TEXTS[name])
    q, k, v = drawn(len(owners), *heads, dtype)
    found = kernels.shared_prefix_attention(q, k, v, boundaries, shared, 0.25, longest)
    expected = dense(q, k, v, owners, positions, 0.25)
    limit = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=limit, atol=limit)
    assert found.dtype == dtype


def test_what_a_gpu_without_flash_attention_computes_is_the_same():
    torch.manual_seed(SEED)
    q, k, v = (t[None].transpose(1, 2) for t in drawn(9, 6, 2, torch.float64))
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k[:, :, :4], v[:, :, :4], scale=0.3)
    written = shared_prefix._written_out(q, k[:, :, :4], v[:, :, :4], scale=0.3)
    for one, other in zip(flash, written, strict=True):
        torch.testing.assert_close(one, other)


def test_a_text_alone_may_exceed_the_window():
    owners, positions, boundaries, shared, longest = packed([(20, []), (5, [2, 2])])
    q, k, v = drawn(len(owners), 4, 2, torch.float64)
    found = kernels.shared_prefix_attention(q, k, v, boundaries, shared, 0.25, longest, window=8)
    expected = dense(q, k, v, owners, positions, 0.25, window=8)
    torch.testing.assert_close(found, expected)
