"""The specification against float64, against autograd, and against its own definition."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import kernels
from kernels import naive
from kernels.packed import BLOCK_SIZES
from tests.reference import assert_within_rounding, float64_reference

ODD_SHAPES = [(1, 1), (1, 17), (3, 64), (17, 172), (172, 64), (5, 4097)]


# ------------------------------------------------------------------------------------------------- quantising


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("double_quant", [False, True])
def test_nf4_picks_the_nearest_of_the_16_values(block_size, double_quant):
    weight = torch.randn(24, 172)
    w = kernels.quantize(weight, 4, block_size, double_quant)
    absmax = naive.dequantize_absmax(w)
    plain = kernels.quantize(weight, 4, block_size)
    scale = plain.absmax.repeat_interleave(block_size)[: weight.numel()]
    table = torch.tensor(naive.NF4_VALUES)
    distance = (weight.reshape(-1, 1) / scale[:, None] - table).abs()
    codes = torch.stack([w.codes >> 4, w.codes & 15], 1).view(-1)[: weight.numel()].long()
    chosen = distance.gather(1, codes[:, None])[:, 0]
    assert torch.all(chosen <= distance.min(1).values + 1e-6)
    # double quantisation: within half a step of the map, whose widest is 0.9 / 64 of the largest deviation
    assert (absmax - plain.absmax).abs().max() <= (plain.absmax - plain.absmax.mean()).abs().max() / 100
    assert torch.equal(
        w.dequantize(torch.float32).view(-1), table[codes] * absmax.repeat_interleave(block_size)[: len(codes)]
    )


def test_bits_per_weight_are_those_of_the_paper():
    weight = torch.randn(512, 2048)
    bits = {
        (b, dq): kernels.quantize(weight, b, 64, dq).nbytes * 8 / weight.numel()
        for b, dq in [(4, False), (4, True), (8, False)]
    }
    assert bits[4, False] == 4.5
    assert bits[4, True] == pytest.approx(4.127, abs=0.01)  # the map's 1 KiB counts in a weight this small
    assert bits[8, False] == pytest.approx(8, abs=0.02)


def test_a_block_of_zeros_stays_zero():
    weight = torch.randn(4, 64)
    weight[1] = 0
    w = kernels.quantize(weight, 4, 64)
    assert w.codes[32:64].eq(0x77).all() and w.absmax[1] == 0
    assert w.dequantize().view(4, 64)[1].eq(0).all()
    assert kernels.quantize(torch.zeros(3, 172), 4, 64, True).dequantize().eq(0).all()
    assert kernels.quantize(torch.zeros(3, 172), 8).dequantize().eq(0).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_refused_with_their_place(bits, bad):
    weight = torch.randn(6, 172)
    weight[4, 171] = bad
    with pytest.raises(ValueError, match=f"the weight holds {bad} at row 4, column 171"):
        kernels.quantize(weight, bits)


def test_the_result_does_not_depend_on_the_chunk(monkeypatch):
    weight, x = torch.randn(96, 172), torch.randn(5, 172)
    whole = [kernels.quantize(weight, 4, 64, True), kernels.quantize(weight, 8)]
    products = [kernels.linear(x, w) for w in whole]
    monkeypatch.setattr(naive, "CHUNK", 4096)  # several chunks of 32 rows
    for w, y in zip(whole, products, strict=True):
        again = (
            kernels.quantize(weight, 4, 64, True) if isinstance(w, kernels.NF4Weight) else kernels.quantize(weight, 8)
        )
        assert all(torch.equal(t, again.tensors()[name]) for name, t in w.tensors().items())
        assert torch.equal(w.dequantize(), again.dequantize())
        torch.testing.assert_close(kernels.linear(x, w), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_weight_itself_is_left_alone(bits, dtype):
    weight = torch.randn(16, 172).to(dtype)
    before = weight.clone()
    kernels.quantize(weight, bits)
    assert torch.equal(weight, before)


def test_int8_is_within_half_a_step_and_reaches_127():
    weight = torch.randn(17, 172).bfloat16()
    w = kernels.quantize(weight, 8)
    assert torch.equal(w.codes.abs().amax(1), torch.full((17,), 127, dtype=torch.int8))
    step = w.absmax / 127
    assert torch.all((w.dequantize() - weight.float()).abs() <= step[:, None] * 0.5001)


# ------------------------------------------------------------------------------------------------- products


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_linear_against_float64(shape, bits, dtype):
    out, columns = shape
    weight, bias = torch.randn(out, columns), torch.randn(out).to(dtype)
    w = (
        weight.bfloat16()
        if bits == 16
        else kernels.quantize(weight, bits, 64, True)
        if bits == 4
        else kernels.quantize(weight, 8)
    )
    x = torch.randn(2, 3, columns).to(dtype).requires_grad_()
    y = kernels.linear(x, w, bias)
    rows, floats = x.detach().view(6, columns), naive.dequantize(w, dtype)
    exact, size = float64_reference(rows, w, bias)
    assert y.dtype == dtype and y.shape == (2, 3, out)
    assert_within_rounding(y.detach().view(6, out), exact, size, rows @ floats.T + bias)
    dy = torch.randn_like(y)
    y.backward(dy)
    exact, size = float64_reference(dy.view(6, out), naive.dequantize(w, torch.float64).T)
    assert_within_rounding(x.grad.view(6, columns), exact, size, dy.view(6, out) @ floats)


def test_linear_takes_a_non_contiguous_x():
    w = kernels.quantize(torch.randn(8, 64), 4)
    x = torch.randn(64, 5).T
    torch.testing.assert_close(kernels.linear(x, w), kernels.linear(x.contiguous(), w), rtol=1e-5, atol=1e-5)


def lora_operands(groups=1, m=5, columns=24, dtype=torch.float64, bits=4):
    ranks, outs = [3, 1, 4][:groups], [6, 10, 7][:groups]
    weights = [torch.randn(out, columns) for out in outs]
    ws = [weight.to(dtype) if bits == 16 else kernels.quantize(weight, bits) for weight in weights]
    a = [torch.randn(r, columns, dtype=dtype, requires_grad=True) for r in ranks]
    b = [torch.randn(out, r, dtype=dtype, requires_grad=True) for out, r in zip(outs, ranks, strict=True)]
    return torch.randn(m, columns, dtype=dtype, requires_grad=True), ws, a, b, [0.5, 2.0, 1.5][:groups]


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_lora_linear_gradcheck(bits, dropout):
    x, (w,), (a,), (b,), (s,) = lora_operands(bits=bits)
    bias = torch.randn(w.shape[0], dtype=torch.float64)
    assert gradcheck(lambda x, a, b: kernels.lora_linear(x, w, a, b, s, bias, dropout, seed=7), (x, a, b))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_grouped_gradcheck(dropout):
    x, ws, a, b, s = lora_operands(groups=3)
    assert gradcheck(
        lambda x, *ab: kernels.lora_linear_grouped(x, ws, ab[:3], ab[3:], s, None, dropout, 7), (x, *a, *b)
    )


def test_lora_linear_is_its_formula():
    x, (w,), (a,), (b,), (s,) = lora_operands()
    formula = x @ w.dequantize(torch.float64).T + s * (x @ a.T) @ b.T
    torch.testing.assert_close(kernels.lora_linear(x, w, a, b, s), formula, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_grouped_equals_one_by_one_with_the_same_seed(dropout):
    x, ws, a, b, s = lora_operands(groups=3)
    together = kernels.lora_linear_grouped(x, ws, a, b, s, None, dropout, seed=7)
    alone = [kernels.lora_linear(x, *one, None, dropout, seed=7) for one in zip(ws, a, b, s, strict=True)]
    grads = [torch.autograd.grad(sum(y.square().sum() for y in ys), [x, *a, *b]) for ys in (together, alone)]
    for one, other in zip([*together, *grads[0]], [*alone, *grads[1]], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_lora_parameters_in_float32_serve_a_16_bit_x():
    x, (w,), (a,), (b,), (s,) = lora_operands(dtype=torch.float32)
    y = kernels.lora_linear(x.bfloat16(), w, a, b, s)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and a.grad.dtype == b.grad.dtype == torch.float32


class Products(TorchDispatchMode):
    """The operators that run, and of the matrix products the shapes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)] if "mm" in function.__name__ else []
        self.seen.append((function.__name__.split(".")[0], *shapes))
        return function(*args, **(kwargs or {}))


def test_nothing_is_computed_twice_and_the_base_output_is_not_copied():
    m, columns, out, r = 5, 24, 10, 3
    w, x = kernels.quantize(torch.randn(out, columns), 4), torch.randn(m, columns)
    a, b = torch.randn(r, columns), torch.randn(out, r)
    with Products() as forward:
        _, xa = naive.lora_linear(x, [w], [None], [0.5], [a], [b], 0.0, None)
    assert [op for op in forward.seen if "mm" in op[0]] == [
        ("mm", (m, columns), (columns, r)),  # XA
        ("mm", (m, columns), (columns, out)),  # x W^T
        ("addmm_", (m, out), (m, r), (r, out)),  # the LoRA part, in place
    ]
    assert "clone" not in {op[0] for op in forward.seen}
    with Products() as backward:
        naive.lora_linear_backward([torch.randn(m, out)], x, xa, [w], [0.5], [a], [b], 0.0, None, needs_dx=True)
    assert [op for op in backward.seen if "mm" in op[0]] == [
        ("mm", (m, out), (out, r)),  # G = dY B, once
        ("mm", (r, m), (m, columns)),  # dA = G^T x
        ("mm", (out, m), (m, r)),  # dB = dY^T XA, from the XA that was saved
        ("mm", (m, r), (r, columns)),  # G A
        ("addmm_", (m, columns), (m, out), (out, columns)),  # + dY W, in place
    ]


# ------------------------------------------------------------------------------------------------- dropout


def test_dropout_keeps_its_share_and_its_mean():
    x = torch.ones(512, 512)
    dropped = naive._dropped(x, naive.dropout_mask(11, x.shape, 0.3), 0.3)
    kept = dropped.ne(0).float()
    # 262,144 draws: the standard error of the share is 0.0009, of a row's 512 draws 0.02
    assert kept.mean().item() == pytest.approx(0.7, abs=0.004)
    assert kept.mean(1).sub(0.7).abs().max() < 0.1 and kept.mean(0).sub(0.7).abs().max() < 0.1
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.006)


def test_masks_of_neighbouring_seeds_rows_and_columns_are_independent():
    masks = [naive.dropout_mask(seed, (256, 256), 0.5).float() * 2 - 1 for seed in range(4)]
    assert torch.equal(masks[0], naive.dropout_mask(0, (256, 256), 0.5).float() * 2 - 1)
    pairs = [(masks[i], masks[j]) for i in range(4) for j in range(i)]
    pairs += [(m[1:], m[:-1]) for m in masks] + [(m[:, 1:], m[:, :-1]) for m in masks]
    for one, other in pairs:  # 65,536 products of independent signs: standard error of the mean 0.004
        assert (one * other).mean().abs() < 0.02


def test_the_mask_is_the_hash_in_plain_integers():
    def mix(h):
        h = ((h ^ (h >> 15)) * 0x2C1B3C6D) % 2**32
        h = ((h ^ (h >> 12)) * 0x297A2D39) % 2**32
        return h ^ (h >> 15)

    seed, p, shape = 2**32 - 5, 0.37, (3, 9)
    expected = [[mix(mix(c) ^ mix(r ^ mix(seed))) >= int(p * 2**32) for c in range(9)] for r in range(3)]
    assert naive.dropout_mask(seed, shape, p).tolist() == expected


def test_memory_kept_from_a_validation_serves_training():
    w, x = kernels.quantize(torch.randn(8, 64), 4), torch.randn(3, 64, requires_grad=True)
    naive._buffers.kept.clear()
    with torch.inference_mode():
        expected = kernels.linear(x, w).clone()
    y = kernels.linear(x, w)
    y.sum().backward()
    assert torch.equal(y, expected)
