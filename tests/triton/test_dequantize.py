"""Dequantising by kernel gives the bits of naive.py: whole weights, pieces of them, rows that lie apart."""

import numpy as np
import pytest
import torch

import kernels
from kernels import gpu, naive
from kernels.packed import BLOCK_SIZES
from tests.triton import DEVICE, DTYPES, ON_GPU

SHAPES = [(1, 1), (3, 1), (17, 172), (1, 4097), (4097, 1), (130, 64)]


def packed(bits, *shape, block_size=64, double_quant=True):
    return kernels.quantize(torch.randn(*shape), bits, block_size, double_quant).to(DEVICE)


def assert_same_bits(found, expected):
    """Equal, and -0.0 is not 0.0."""
    integers = {2: torch.int16, 4: torch.int32}[found.element_size()]
    assert torch.equal(found.contiguous().view(integers), expected.contiguous().view(integers))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_nf4_of_every_block_size(block_size, double_quant, dtype):
    w = packed(4, 24, 172, block_size=block_size, double_quant=double_quant)
    assert_same_bits(kernels.dequantize(w, dtype, "triton"), naive.dequantize(w, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_odd_shapes(shape, bits, dtype):
    w = packed(bits, *shape)
    assert_same_bits(kernels.dequantize(w, dtype, "triton"), naive.dequantize(w, dtype))


def test_nothing_is_written_past_the_end():
    w = packed(4, 3, 64)
    out = torch.full((5, 64), torch.nan, device=DEVICE)
    gpu._fill(w, out[:3])
    assert out[:3].isfinite().all() and out[3:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_piece_of_rows_and_columns_into_a_wider_matrix(bits, dtype):
    w = packed(bits, 40, 256)
    wide = torch.full((9, 160), torch.nan, dtype=dtype, device=DEVICE)
    gpu._fill(w, wide[:, :128], slice(11, 20), slice(64, 192))
    assert_same_bits(wide[:, :128], naive.dequantize(w, dtype)[11:20, 64:192])
    assert wide[:, 128:].isnan().all()


if not ON_GPU:  # relies on memory of zeros that takes no room until it is written to

    def test_a_block_whose_offset_is_past_2_31_bytes():
        rows, columns = 2**18, 2**15  # 2^33 elements, 4 GiB of codes, of which only the last page exists
        codes = torch.from_numpy(np.zeros(rows * columns // 2, dtype=np.uint8))
        absmax = torch.from_numpy(np.zeros(rows * columns // 4096, dtype=np.float32))
        codes[-2048:], absmax[-1] = 0xF0, 2.0
        w = kernels.NF4Weight(codes, absmax, (rows, columns), 4096)
        row = gpu._fill(w, torch.empty(1, columns), slice(rows - 1, rows))
        assert row[0, -4096:].tolist() == [2.0, -2.0] * 2048 and row[0, :-4096].eq(0).all()
