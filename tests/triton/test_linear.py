"""Products with a packed weight by kernel, and their gradient, held to float64."""

import pytest
import torch

import kernels
from kernels import gpu, int8, naive, nf4, tiles
from kernels.tiles import FUSED, FUSED_ROWS, Tile, tile_for
from tests.reference import assert_within_rounding, float64_reference
from tests.triton import DEVICE, DTYPES, ON_GPU

SMALL = Tile(16, 64, 4, 3)  # few tiles a test: the interpreter takes milliseconds for each


def packed(bits, *shape, block_size=64, double_quant=True):
    if bits == 16:
        return torch.randn(*shape, device=DEVICE)
    return kernels.quantize(torch.randn(*shape), bits, block_size, double_quant).to(DEVICE)


def check(y, x, w, bias=None):
    floats = naive.dequantize(w, x.dtype)
    exact, size = float64_reference(x, w, bias)
    plain = x @ floats.T if bias is None else x @ floats.T + bias
    assert y.dtype == x.dtype and y.shape == exact.shape
    assert_within_rounding(y, exact, size, plain)


@pytest.fixture
def calls(monkeypatch):
    """Which way a product went: the names of the wrappers called."""
    seen = []
    for module, name in ((nf4, "linear"), (int8, "linear"), (nf4, "dequantize"), (int8, "dequantize")):

        def spy(*args, original=getattr(module, name), module=module, name=name, **kwargs):  # noqa: B008
            seen.append(f"{module.__name__.removeprefix('kernels.')}.{name}")
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, spy)
    return seen


# ------------------------------------------------------------------------------------------------- the fused product


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("block_size", [32, 64, 128, 256, 512, 1024, 2048, 4096])
def test_fused_nf4_of_every_block_size(block_size, double_quant, dtype):
    w = packed(4, 70, block_size, block_size=block_size, double_quant=double_quant)
    x = torch.randn(3, block_size, device=DEVICE).to(dtype)
    check(nf4.linear(x, w, SMALL), x, w)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "out"), [(1, 1), (3, 17), (17, 3), (172, 1), (1, 172), (17, 172), (1, 4097)])
@pytest.mark.parametrize(("bits", "columns"), [(4, 128), (8, 172), (8, 1), (8, 17)])
def test_fused_at_odd_shapes(bits, rows, out, columns, dtype):
    w, module = packed(bits, out, columns), nf4 if bits == 4 else int8
    # Where there are few numbers, plain PyTorch's errors may all happen to be small: so many draws, judged together.
    xs = [torch.randn(rows, columns, device=DEVICE).to(dtype) for _ in range(max(1, 64 // (rows * out)))]
    check(torch.cat([module.linear(x, w, SMALL) for x in xs]), torch.cat(xs), w)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("most", "tile"), FUSED, ids=[str(most) for most, _ in FUSED])
def test_every_tile_of_the_table(most, tile, bits, dtype):
    w = packed(bits, tile.block_n + 1, 192)
    x = torch.randn(most, 192, device=DEVICE).to(dtype)
    bias = torch.randn(tile.block_n + 1, device=DEVICE).to(dtype)
    assert tile_for(most) == tile
    check((nf4 if bits == 4 else int8).linear(x, w, tile, bias), x, w, bias)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("splits", [2, 3, 8])
def test_a_split_sum_is_the_sum_and_the_same_bits_every_time(bits, splits, monkeypatch):
    module = nf4 if bits == 4 else int8
    monkeypatch.setattr(module, "splits_for", lambda *_: splits)
    monkeypatch.setattr(tiles, "CALLS", 1)  # the second call counts where the first one did
    w, x = packed(bits, 100, 704), torch.randn(5, 704, device=DEVICE)
    y = module.linear(x, w, SMALL)
    check(y, x, w)
    assert torch.equal(module.linear(x, w, SMALL), y)  # so the counters were left at zero


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # the interpreter's way to the largest of a row of NaN
def test_float16_tables_serve_rows_far_outside_the_range_of_float16(monkeypatch):
    """What bfloat16 rows go through at M <= 16, here on float32 rows: an exact power of two in, and out again."""
    monkeypatch.setattr(nf4, "rescaled", lambda x, tile: True)
    w = packed(4, 64, 1024)
    sizes = torch.tensor([1e-38, 1e-30, 1.0, 6e4, 1e30, 0.0], device=DEVICE)
    x = torch.randn(6, 1024, device=DEVICE).bfloat16().float() * (2.0 ** sizes.log2().round())[:, None]
    y = nf4.linear(x, w, SMALL).double()
    exact, _ = float64_reference(x, w)
    error = (y - exact)[:5].norm(dim=1) / exact[:5].norm(dim=1)
    assert error.max() < 4e-4  # the table's own rounding: 3.3e-4 at most for a value
    assert y[5].eq(0).all()
    assert nf4.linear(x.fill_(torch.nan), w, SMALL).isnan().all()


if ON_GPU:  # the interpreter computes bfloat16 wrongly

    def test_bfloat16_at_few_rows_is_as_exact_as_its_own_rounding():
        w, x = packed(4, 4096, 4096), torch.randn(16, 4096, device=DEVICE).bfloat16()
        exact, _ = float64_reference(x, w)
        assert (kernels.linear(x, w).double() - exact).norm() / exact.norm() < 2.0e-3


# ------------------------------------------------------------------------------------------------- the way it goes


@pytest.mark.parametrize(
    ("bits", "rows", "columns", "way"),
    [
        (4, 1, 128, ["nf4.linear"]),
        (4, FUSED_ROWS, 128, ["nf4.linear"]),
        (4, FUSED_ROWS + 1, 128, ["nf4.dequantize"]),
        (4, 1, 172, ["nf4.dequantize"]),  # blocks of 64 run across rows of 172: no partial sum has one absmax
        (8, 1, 172, ["int8.linear"]),
        (8, FUSED_ROWS + 1, 172, ["int8.dequantize"]),
        (16, 1, 172, []),
    ],
)
def test_the_shape_decides_which_way_a_product_goes(bits, rows, columns, way, calls):
    w, x = packed(bits, 40, columns), torch.randn(rows, columns, device=DEVICE)
    check(kernels.linear(x, w, backend="triton"), x, w)
    assert calls == way


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("bits", "columns"), [(4, 256), (4, 172), (8, 172), (16, 172)])
def test_many_rows_and_the_gradient_in_pieces_of_the_scratch(bits, columns, bias, dtype, monkeypatch, calls):
    monkeypatch.setattr(gpu, "SCRATCH", 128 * 256 * 4)
    monkeypatch.setattr(gpu, "FEWEST_TILES", 0)
    w = packed(bits, 300, columns)
    x = torch.randn(200, columns, device=DEVICE).to(dtype).requires_grad_()
    bias = torch.randn(300, device=DEVICE).to(dtype) if bias else None
    y = kernels.linear(x, w, bias, backend="triton")
    check(y.detach(), x.detach(), w, bias)
    if bits == 4 and columns == 256:
        assert len(calls) == (3 if dtype == torch.float32 else 2)  # 300 rows, 128 or 256 at a time
    dy = torch.randn_like(y)
    y.backward(dy)
    exact, size = float64_reference(dy, naive.dequantize(w, torch.float64).T)
    assert_within_rounding(x.grad, exact, size, dy @ naive.dequantize(w, dtype))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [3, 200])
def test_a_non_contiguous_x(bits, rows):
    w = packed(bits, 40, 128)
    x = torch.randn(128, rows, device=DEVICE).T
    wide = torch.randn(rows, 200, device=DEVICE)[:, 8:136]
    for rows_apart in (x, wide, wide[:1].expand(rows, 128)):
        check(kernels.linear(rows_apart, w, backend="triton"), rows_apart, w)


def test_no_rows_at_all():
    w = packed(4, 40, 128)
    x = torch.randn(0, 128, device=DEVICE, requires_grad=True)
    a, b = (torch.randn(*shape, device=DEVICE, requires_grad=True) for shape in ((4, 128), (40, 4)))
    for dropout in (0.0, 0.5):
        y = kernels.linear(x, w, backend="triton") + kernels.lora_linear(x, w, a, b, 1.0, None, dropout, 7, "triton")
        assert y.shape == (0, 40)
        dx, da, db = torch.autograd.grad(y.sum(), [x, a, b])
        assert dx.shape == (0, 128) and da.eq(0).all() and db.eq(0).all()


@pytest.mark.parametrize("rows", [3, FUSED_ROWS + 1])
def test_operands_whose_numbers_lie_apart(rows):
    w, x = packed(4, 40, 128), torch.randn(rows, 128, device=DEVICE)
    a, b, bias = (torch.randn(*shape, device=DEVICE) for shape in ((128, 4), (4, 40), (80,)))
    apart = kernels.lora_linear(x, w, a.T, b.T, 0.5, bias[::2], backend="triton")
    together = kernels.lora_linear(x, w, a.T.contiguous(), b.T.contiguous(), 0.5, bias[::2].clone(), backend="triton")
    assert torch.equal(apart, together)
