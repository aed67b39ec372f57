"""Packed samples attend to themselves alone, backwards in time, in every dtype and on every device."""

import pytest
import torch
from torch.library import opcheck
from torch.nn.functional import scaled_dot_product_attention

import kernels
from kernels.attention import attend, attend_backward

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = [1, 7, 64, 33, 1, 2, 20]
# (heads, kv heads, dim): all alike, two and four heads to one, a head that is no power of two
HEADS = [(4, 4, 64), (4, 2, 32), (8, 2, 16), (3, 1, 40)]
SCALE = 0.3


def inputs(heads, kv_heads, dim, dtype=torch.float32, lengths=LENGTHS):
    """q, k, v with gradients, boundaries, dY."""
    tokens = sum(lengths)
    q, k, v = (torch.randn(tokens, n, dim, dtype=dtype, device=DEVICE) for n in (heads, kv_heads, kv_heads))
    ends = torch.tensor([0, *lengths]).cumsum(0).to(DEVICE, torch.int32)
    return [t.requires_grad_() for t in (q, k, v)], ends, torch.randn_like(q)


def reference(tensors, dy, lengths, window=None):
    """Y, dQ, dK, dV by PyTorch's attention in float64 with a mask, each sample for itself."""
    tensors = [t.detach().double().requires_grad_() for t in tensors]
    ys = []
    for parts in zip(*(t.split(lengths) for t in tensors), strict=True):
        n, one = len(parts[0]), [part.transpose(0, 1)[None] for part in parts]
        distance = torch.arange(n)[:, None] - torch.arange(n)
        mask = (distance >= 0) & (distance < (window or n))
        y = scaled_dot_product_attention(*one, attn_mask=mask.to(DEVICE), scale=SCALE, enable_gqa=True)
        ys.append(y[0].transpose(0, 1))
    y = torch.cat(ys)
    return y, *torch.autograd.grad(y, tensors, dy.double())


def assert_close(found, expected, dtype):
    """Within 32 roundings of the largest element: scores reach 10, and their exponential has ten times their error."""
    for name, ours, theirs in zip(("y", "dq", "dk", "dv"), found, expected, strict=True):
        error, most = (ours.double() - theirs).abs().max().item(), theirs.abs().max().item()
        assert error <= 32 * torch.finfo(dtype).eps * max(most, 1), (name, error, most)


@pytest.mark.parametrize("shape", HEADS, ids=str)
@pytest.mark.parametrize("window", [None, 5, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_result_and_gradients(shape, window, dtype):
    tensors, ends, dy = inputs(*shape, dtype)
    y = kernels.packed_attention(*tensors, ends, SCALE, longest=max(LENGTHS), window=window)
    assert y.dtype == dtype
    found = y, *torch.autograd.grad(y, tensors, dy)
    assert_close(found, reference(tensors, dy, LENGTHS, window), dtype)


@pytest.mark.parametrize("shape", HEADS, ids=str)
@pytest.mark.parametrize("window", [0, 5])
def test_the_written_out_form(shape, window):
    (q, k, v), _, dy = inputs(*shape, torch.float64, [29])
    one = [t.detach().transpose(0, 1) for t in (q, k, v)]
    y, logsumexp = attend(*one, SCALE, window)
    grads = attend_backward(dy.transpose(0, 1), *one, y, logsumexp, SCALE, window)
    found = [t.transpose(0, 1) for t in (y, *grads)]
    assert_close(found, reference((q, k, v), dy, [29], window), torch.float64)


def test_no_sample_sees_another():
    tensors, ends, dy = inputs(4, 2, 32)
    with torch.no_grad():
        for tensor in tensors:
            tensor[8:72] = torch.nan  # the third sample
    y = kernels.packed_attention(*tensors, ends, SCALE, longest=64)
    for result in (y, *torch.autograd.grad(y, tensors, dy)):
        assert result[8:72].isnan().all() and not result[:8].isnan().any() and not result[72:].isnan().any()


def test_views_of_one_projection_are_taken_as_they_are():
    (q, k, v), ends, _ = inputs(4, 4, 32)
    joined = torch.cat([q, k, v], dim=1).detach()
    views = joined.split(4, dim=1)
    assert not views[1].is_contiguous()
    torch.testing.assert_close(
        kernels.packed_attention(*views, ends, SCALE, longest=64),
        kernels.packed_attention(q, k, v, ends, SCALE, longest=64),
    )


def test_the_operators_do_what_they_say():
    tensors, ends, _ = inputs(4, 2, 32, lengths=[3, 5])
    opcheck(torch.ops.maple.packed_attention.default, (*tensors, ends, SCALE, 5, 0))


def test_one_graph_for_any_number_of_samples():
    attend_all = torch.compile(kernels.packed_attention, fullgraph=True, backend="eager")
    for lengths in ([3, 5], [2, 2, 4], LENGTHS):
        tensors, ends, dy = inputs(4, 2, 32, lengths=lengths)
        y = attend_all(*tensors, ends, SCALE, longest=64)
        assert_close((y, *torch.autograd.grad(y, tensors, dy)), reference(tensors, dy, lengths), torch.float32)


Q, ENDS = torch.zeros(4, 6, 8), torch.tensor([0, 4], dtype=torch.int32)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ((Q, Q[:, :4], Q[:, :4], ENDS), "heads a multiple"),
        ((Q, Q[:3], Q[:3], ENDS), "q, k and v are .4, 6, 8., .3, 6, 8."),
        ((Q, Q, Q[:, :3], ENDS), "q, k and v are"),
        ((Q[0], Q[0], Q[0], ENDS), "q, k and v are"),
        ((Q, Q, Q, ENDS.long()), "boundaries are .2. of torch.int64"),
    ],
)
def test_shapes_that_do_not_go_together(call, words):
    with pytest.raises(ValueError, match=words):
        kernels.packed_attention(*call, SCALE, longest=4)
