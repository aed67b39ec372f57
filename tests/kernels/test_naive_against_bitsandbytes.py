"""Our bytes and values beside those of the real bitsandbytes on a CPU."""

import pytest
import torch

import kernels
from kernels import naive
from kernels.packed import BLOCK_SIZES

bnb = pytest.importorskip("bitsandbytes.functional", reason="needs the peers extra")

SHAPES = [(1, 64), (172, 64), (64, 172), (33, 33), (40, 4096), (300, 1000)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def example(shape, dtype):
    weight = torch.randn(shape, dtype=torch.float32)
    weight[0, : min(64, shape[1])] = 0  # an all-zero block where the shape allows it
    weight[-1] *= 1e-3
    return weight.to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_nf4_bytes_and_values(shape, dtype, block_size):
    weight = example(shape, dtype)
    codes, state = bnb.quantize_4bit(weight, blocksize=block_size, quant_type="nf4")
    w = kernels.quantize(weight, 4, block_size)
    assert torch.equal(w.codes, codes.view(-1))
    assert torch.equal(w.absmax, state.absmax)
    if block_size <= shape[1]:
        assert torch.equal(w.dequantize(dtype), bnb.dequantize_4bit(codes, state))
    else:  # a block over several rows: its AVX-512 path reads the wrong absmax there (errors 2x those of NF4), ours not
        error = (w.dequantize() - weight.float()).abs().view(-1)
        scale = w.absmax.repeat_interleave(block_size)[: len(error)]
        assert torch.all(error <= 0.1520 * scale)  # half the widest gap of the table, -1 to -0.6962


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_double_quantised_absmax(dtype):
    weight = torch.randn(1000, 1000).to(dtype)
    codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    w = kernels.quantize(weight, 4, 64, double_quant=True)
    assert torch.equal(w.codes, codes.view(-1))
    assert torch.equal(w.nested_map, state.state2.code)
    assert torch.equal(w.nested_absmax, state.state2.absmax)
    assert torch.equal(w.nested_offset, state.offset)
    # The codes are where its CPU path approximates, by a table of 65,536 bins over [-1, 1]: ours are the nearest in the
    # map (next test), its are those, a neighbour, or another of the several codes that share a bin around zero.
    apart = (w.absmax.int() - state.absmax.int()).abs()
    distance = (w.nested_map[w.absmax.int()] - w.nested_map[state.absmax.int()]).abs()
    assert torch.all((apart <= 1) | (distance <= 2 / 65536))
    assert apart.eq(0).float().mean() >= 0.995
    # Its bytes, dequantised by us, are its values bit for bit.
    theirs = kernels.NF4Weight(
        codes.view(-1), state.absmax, (1000, 1000), 64, state.state2.absmax, state.state2.code, state.offset
    )
    assert torch.equal(theirs.dequantize(dtype), bnb.dequantize_4bit(codes, state))


def test_nested_codes_are_the_nearest_in_the_map():
    absmax = torch.rand(5000) * 3
    parts = naive.quantize_absmax(absmax)
    scaled = (absmax - absmax.mean()) / parts["nested_absmax"].repeat_interleave(256)[:5000]
    distance = (scaled[:, None] - parts["nested_map"]).abs()
    chosen = distance.gather(1, parts["absmax"].long()[:, None])[:, 0]
    assert torch.all(chosen <= distance.min(1).values + 1e-7)


def test_dynamic_map_is_theirs():
    assert torch.equal(naive.dynamic_map(), bnb.create_dynamic_map())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_int8_bytes_and_values(shape, dtype):
    weight = torch.randn(shape).to(dtype)  # a row of zeros is undefined there: 0 * inf
    codes, absmax, _ = bnb.int8_vectorwise_quant(weight)
    w = kernels.quantize(weight, 8)
    assert torch.equal(w.codes, codes) and torch.equal(w.absmax, absmax)
    # it multiplies by the rounded 1 / 127 where we divide: two roundings apart at most
    torch.testing.assert_close(w.dequantize(), bnb.int8_vectorwise_dequant(codes, absmax), rtol=2**-22, atol=0)
