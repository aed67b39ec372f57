"""LoRA beside a packed weight by kernel: outputs and gradients by name against float64, masks against naive.py."""

import pytest
import torch
import triton
import triton.language as tl

import kernels
from kernels import gpu, lora, naive
from kernels.tiles import FUSED_ROWS
from tests.reference import assert_within_rounding
from tests.triton import DEVICE, DTYPES

OUTS, RANKS, SCALINGS = [40, 24, 136], [8, 1, 20], [0.5, 2.0, 1.5]


@triton.jit(do_not_specialize=["seed", "threshold"])
def _mask_kernel(out, M, K, seed, threshold, BLOCK: tl.constexpr):
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(out + m * K + k, lora.kept(m, k, seed, threshold).to(tl.uint8), mask=(m < M) & (k < K))


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 5, 2**40 + 3])
@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.75])
def test_the_mask_is_that_of_naive_bit_for_bit(seed, p):
    mask = torch.zeros(33, 172, dtype=torch.uint8, device=DEVICE)
    word, threshold, _ = lora._dropout_arguments(p, seed)
    _mask_kernel[(1, 3)](mask, 33, 172, word, threshold, BLOCK=64)
    assert torch.equal(mask.bool().cpu(), naive.dropout_mask(seed, (33, 172), p))


def operands(groups, rows, columns, dtype, bits=4):
    ws = [torch.randn(out, columns) for out in OUTS[:groups]]
    ws = [w.to(DEVICE) if bits == 16 else kernels.quantize(w, bits, 64, True).to(DEVICE) for w in ws]
    a = [torch.randn(r, columns, device=DEVICE) / columns**0.5 for r in RANKS[:groups]]
    b = [torch.randn(out, r, device=DEVICE) for out, r in zip(OUTS, RANKS[:groups], strict=False)]
    x = torch.randn(rows, columns, device=DEVICE).to(dtype)
    biases = [None, torch.randn(OUTS[1], device=DEVICE), None][:groups]
    return x, ws, biases, a, b


def run(x, ws, biases, a, b, dys, dropout, backend):
    """Outputs and gradients by name."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, *a, *b)]
    x, a, b = leaves[0], leaves[1 : 1 + len(a)], leaves[1 + len(a) :]
    ys = kernels.lora_linear_grouped(x, ws, a, b, SCALINGS[: len(ws)], biases, dropout, 7, backend)
    grads = torch.autograd.grad(ys, leaves, [dy.to(x.dtype) for dy in dys])
    names = [f"y{i}" for i in range(len(ys))] + ["dX"]
    names += [f"dA{i}" for i in range(len(a))] + [f"dB{i}" for i in range(len(b))]
    return dict(zip(names, (*(y.detach() for y in ys), *grads), strict=True))


def sizes(x, ws, a, b, dys, dropout):
    """The size of the sums behind each result: the same computation with every number's absolute value."""
    w = [naive.dequantize(w, torch.float64).abs() for w in ws]
    parts = x.double().abs(), w, [None] * len(ws), [t.double().abs() for t in a], [t.double().abs() for t in b]
    return run(*parts, [dy.double().abs() for dy in dys], dropout, "naive")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("rows", [1, 17, FUSED_ROWS + 3])
@pytest.mark.parametrize(
    ("groups", "columns", "bits"), [(1, 128, 4), (3, 128, 4), (3, 172, 4), (2, 172, 8), (2, 65, 16)]
)
def test_outputs_and_gradients_by_name(groups, columns, bits, rows, dropout, dtype, monkeypatch):
    monkeypatch.setattr(gpu, "SCRATCH", 128 * 256 * 2)
    monkeypatch.setattr(gpu, "FEWEST_TILES", 0)
    x, ws, biases, a, b = operands(groups, rows, columns, dtype, bits)
    dys = [torch.randn(rows, out, device=DEVICE) for out in OUTS[:groups]]
    found = run(x, ws, biases, a, b, dys, dropout, "triton")
    plain = run(x, ws, biases, a, b, dys, dropout, "naive")
    dys = [dy.to(dtype) for dy in dys]
    doubled = [None if bias is None else bias.double() for bias in biases]
    floats = [naive.dequantize(w, torch.float64) for w in ws]
    exact = run(x.double(), floats, doubled, [t.double() for t in a], [t.double() for t in b], dys, dropout, "naive")
    size = sizes(x, ws, a, b, dys, dropout)
    for name, result in found.items():
        assert result.dtype == plain[name].dtype, name
        # XA and G are rounded to the dtype of x between the products, in the kernels as in plain PyTorch
        assert_within_rounding(result, exact[name], size[name].max().item(), plain[name].to(dtype), name)


@pytest.mark.parametrize("rows", [3, FUSED_ROWS + 1])
def test_the_same_input_gives_the_same_bits(rows, monkeypatch):
    monkeypatch.setattr(lora, "splits_for", lambda *_: 3)
    x, ws, biases, a, b = operands(2, rows, 256, torch.float32)
    dys = [torch.randn(rows, out, device=DEVICE) for out in OUTS[:2]]
    one, other = (run(x, ws, biases, a, b, dys, 0.3, "triton") for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("rows", "rank"), [(1, 1), (17, 40), (70, 130)])
def test_the_parts_of_xa_add_up_and_x_is_copied_as_it_is(rows, rank, splits, monkeypatch):
    monkeypatch.setattr(lora, "splits_for", lambda *_: splits)
    x, a = torch.randn(rows, 172, device=DEVICE), torch.randn(rank, 172, device=DEVICE)
    parts = lora.down(x, a, 0.0, None)
    assert parts.shape == (splits, rows, rank)
    torch.testing.assert_close(parts.sum(0), x @ a.T, rtol=1e-4, atol=1e-4)
    wide = torch.full((rows, 176), torch.nan, device=DEVICE)
    lora.down(x, a, 0.5, 3, copy=wide[:, :172])
    assert torch.equal(wide[:, :172], x) and wide[:, 172:].isnan().all()
