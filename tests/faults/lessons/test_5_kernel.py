"""Lesson 5 notices where it no longer tells the truth."""

import sys

import pytest

from tests.lessons import LESSONS, process

LESSON = LESSONS / "5_kernel.py"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        pytest.param(
            "kernels/nf4.py",
            "tl.load(codes_tile + step * (BLOCK_K // 2))",
            "tl.load(codes_tile + step * BLOCK_K // 4)",
            "byte in the kernel is not that of the tile",
            id="the codes of another block",
        ),
        pytest.param(
            "kernels/nf4.py",
            "values[byte >> 4], values[byte & 15]",
            "values[byte & 15], values[byte >> 4]",
            "values in the kernel is not that of the tile",
            id="nibbles swapped",
        ),
        pytest.param(
            "kernels/nf4.py",
            "following = block + tl.minimum(step + 1, last - 1)",
            "following = block + tl.minimum(step, last - 1)",
            "s in the kernel is not that of the tile",
            id="the absmax of the block before",
        ),
        pytest.param(
            "kernels/nf4.py",
            "s[:, None], acc)\n        s = next_s\n    if RESCALE:\n        acc *= unscale[None, :]",
            "s[:, None], acc)\n        s = next_s\n    if RESCALE:\n        acc *= unscale[None, :]\n    acc *= 1.01",
            "y is not the sum over blocks",
            id="scaled once more",
        ),
        pytest.param(
            "benchmarks/points.py",
            '"nf4 double": math.ceil(numel / 2) + blocks',
            '"nf4 double": numel + blocks',
            "4 bits do not move 3.9 times fewer bytes",
            id="a code a byte",
        ),
        pytest.param(
            "benchmarks/points.py",
            "base, lora = 2 * m * n * k,",
            "base, lora = m * n * k,",
            "products decide elsewhere",
            id="multiply and add counted as one",
        ),
    ],
)
def test_it_notices(changed, tmp_path, file, old, new, message):
    done = process([sys.executable, LESSON], changed(file, old, new), tmp_path)
    assert done.returncode == 1 and f"AssertionError: {message}" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(64, Tile(64, 128, 8, 3))", "(64, Tile(64, 32, 8, 3))", "M=64: the weight does not stay in registers"),
        ("(128, Tile(128, 128, 8, 3))", "(128, Tile(128, 128, 4, 3))", "M=128 spills to the stack"),
    ],
    ids=["too few rows of W for wgmma", "too few warps for the registers"],
)
def test_it_notices_a_tile_that_compiles_badly(changed, tmp_path, old, new, message):
    done = process([sys.executable, LESSON], changed("kernels/tiles.py", old, new, compiling=True), tmp_path)
    assert done.returncode == 1 and f"AssertionError: linear nf4 bf16 {message}" in done.stderr, done.stderr
