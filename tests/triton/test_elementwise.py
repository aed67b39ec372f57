"""RMSNorm, rotary embedding and SwiGLU by kernel: results and gradients by name against float64, and odd layouts."""

import pytest
import torch

import kernels
from kernels import elementwise
from tests.elementwise import CASES, call, held_to_float64
from tests.triton import DEVICE, DTYPES


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_results_and_gradients_by_name(name, shape, dtype):
    held_to_float64(call(name, shape, dtype, DEVICE), "triton")


@pytest.mark.parametrize("columns", [1, 128, 2048, 2049, 5000])
def test_a_row_is_always_whole(columns):
    block_m, options = elementwise._whole_rows(columns)
    assert options["BLOCK_N"] >= columns and options["num_warps"] <= elementwise.MOST_WARPS
    assert block_m * options["BLOCK_N"] == max(elementwise.TILE, options["BLOCK_N"])
    held_to_float64(call("rms_norm", (block_m + 1, columns), torch.float32, DEVICE), "triton")


def test_more_heads_than_a_tile_holds():
    held_to_float64(call("rotary", (1, 40, 33, 2, 130, 1), torch.float32, DEVICE), "triton")


def wide(*shape):
    """A matrix that is columns of a wider one, whose other numbers are NaN."""
    matrix = torch.full((*shape[:-1], shape[-1] + 24), torch.nan, device=DEVICE)
    matrix[..., 8:-16] = torch.randn(shape, device=DEVICE)
    return matrix[..., 8:-16]


def copies(*tensors):
    return [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]


def same(function, *tensors):
    """Views give the bits that copies of them give, results and gradients."""
    both = []
    for operands in (tensors, copies(*tensors)):
        leaves = [tensor.detach().requires_grad_() for tensor in operands]
        ys = function(*leaves)
        ys = [ys] if isinstance(ys, torch.Tensor) else list(ys)
        dys = [torch.linspace(-1, 1, y.numel(), device=DEVICE).view(y.shape) for y in ys]
        both.append([*ys, *torch.autograd.grad(ys, leaves, dys)])
        both.append(torch.autograd.grad(function(*leaves)[0].sum(), leaves, allow_unused=True))  # dy of stride 0
    for found, expected in ((both[0], both[2]), (both[1], both[3])):
        assert all(map(torch.equal, found, expected))


def test_operands_whose_rows_lie_apart():
    weight = torch.randn(2, 172, device=DEVICE).T[:, 0]
    same(lambda x: kernels.rms_norm(x, weight, 1e-6, "triton"), wide(5, 172))
    same(lambda gate, up: kernels.swiglu(gate, up, "triton"), wide(5, 172), wide(5, 172))
    same(lambda gate, up: kernels.swiglu(gate, up, "triton"), wide(172, 5).T, wide(5, 172))


def test_heads_as_columns_of_one_projection():
    """q and k of [batch, tokens, (q heads + k heads) head_dim]; heads outside; numbers of a head apart."""
    cos, sin = torch.randn(2, 2, 3, 16, device=DEVICE).repeat(1, 1, 1, 2)
    projected = wide(2, 3, 6 * 32)
    q, k = (x.unflatten(2, (-1, 32)).transpose(1, 2) for x in projected.split([4 * 32, 2 * 32], dim=2))
    outside = torch.randn(2, 4, 3, 32, device=DEVICE)
    apart = torch.randn(2, 4, 32, 3, device=DEVICE).transpose(2, 3)
    for one in (q, outside, apart):
        same(lambda q, k: kernels.rotary(q, k, cos, sin, "triton"), one, k)
        turned = kernels.rotary(one, k, cos.transpose(0, 1).contiguous().transpose(0, 1), sin, "triton")
        assert torch.equal(turned[0], kernels.rotary(one, k, cos, sin, "triton")[0])


def test_the_norm_is_rounded_where_transformers_rounds():
    x, weight = torch.randn(64, 256, device=DEVICE).half(), torch.randn(256, device=DEVICE).half()
    found, expected = (kernels.rms_norm(x, weight, 1e-5, backend) for backend in ("triton", "naive"))
    assert (found != expected).float().mean() < 1e-3  # 1 / rms may differ in its last bit and so decide a rounding


def test_turning_back_is_the_inverse():
    one = call("rotary", (2, 4, 2, 7, 16, 1), torch.float32, DEVICE)
    q, k = one.inputs.values()
    turned = torch.ops.maple.rotary(q, k, *one.others, 1.0, "triton")
    for found, expected in zip(torch.ops.maple.rotary(*turned, *one.others, -1.0, "triton"), (q, k), strict=True):
        torch.testing.assert_close(found, expected)


def test_no_rows_at_all():
    x = torch.randn(0, 128, device=DEVICE, requires_grad=True)
    heads = torch.randn(2, 4, 0, 16, device=DEVICE, requires_grad=True)
    angles = torch.randn(1, 0, 16, device=DEVICE)
    y = kernels.rms_norm(x, torch.ones(128, device=DEVICE), 1e-6, "triton") + kernels.swiglu(x, x, "triton")
    q, _ = kernels.rotary(heads, heads, angles, angles, "triton")
    dx, dq = torch.autograd.grad([y.sum(), q.sum()], [x, heads])
    assert dx.shape == x.shape and dq.shape == heads.shape


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # to inf, whose reciprocal is the 0 that is meant
def test_extremes_are_neither_nan_nor_lost():
    gate = torch.tensor([[-200.0, -88.0, 0.0, 88.0, 200.0]], device=DEVICE, requires_grad=True)
    y = kernels.swiglu(gate, torch.ones(1, 5, device=DEVICE), "triton")
    torch.testing.assert_close(y, torch.nn.functional.silu(gate))
    assert torch.autograd.grad(y.sum(), gate)[0].isfinite().all()
    rows = torch.tensor([[0.0] * 4, [1e-30] * 4, [1e4] * 4], device=DEVICE)
    y = kernels.rms_norm(rows, torch.ones(4, device=DEVICE), 1e-6, "triton")
    assert y[0].eq(0).all() and y.isfinite().all() and torch.allclose(y[2], torch.ones(4, device=DEVICE))
    nan = torch.full((1, 4), torch.nan, device=DEVICE)
    assert kernels.rms_norm(nan, torch.ones(4, device=DEVICE), 1e-6, "triton").isnan().all()
