"""Lesson 5 tells the truth, and notices where it does not: in processes of its own, as it sets TRITON_INTERPRET."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
import torch

import kernels
from kernels import naive
from tests.maple.lessons.conftest import LESSONS

LESSON = LESSONS / "5_kernel.py"
PROJECT = LESSONS.parents[1]
# In place of benchmarks/codegen.py, where a test is not about what is compiled.
COMPILED = {"registers": 118, "stack": 0, "shared": 24576, "wgmma": 8, "wgmma from registers": 8}
NO_COMPILER = f"print({json.dumps({'targets': {'sm_90': {'linear nf4 bf16 M=16': COMPILED}}})!r})\n"


@pytest.fixture
def changed(tmp_path):
    """Copies what the lesson teaches and changes a text in one of its files; gives the environment to run it in."""

    def change(file="", old="", new="", compiling=False):
        for name in ("kernels", "benchmarks"):
            shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
        if not compiling:
            (tmp_path / "benchmarks" / "codegen.py").write_text(NO_COMPILER)
        if file:
            text = (tmp_path / file).read_text()
            assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
            (tmp_path / file).write_text(text.replace(old, new))
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        return environment | {"PYTHONPATH": str(tmp_path), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}

    return change


def run(command, environment, folder, commands=""):
    return subprocess.run(command, env=environment, cwd=folder, input=commands, capture_output=True, text=True)


def test_it_runs_and_saves_its_picture(changed, tmp_path):
    done = run([sys.executable, LESSON], changed(compiling=True), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "linear nf4 bf16 M=128 " in done.stdout and "wgmma from registers 8" in done.stdout
    assert (tmp_path / "runs" / "lessons" / "5_kernel.png").stat().st_size > 10_000


def test_the_debugger_stops_in_the_kernel_as_it_says(changed, tmp_path):
    environment = changed()
    printed = run([sys.executable, LESSON], environment, tmp_path).stdout.splitlines()[0]
    setting, *command = shlex.split(printed)
    assert setting == "TRITON_INTERPRET=1" and command[:3] == ["python", "-m", "pdb"]
    command = [sys.executable, *command[1:-1], PROJECT / command[-1]]
    lines = LESSON.read_text().splitlines()
    typed = [line.partition("(Pdb) ")[2].split("  ")[0] for line in lines if line.startswith("#     (Pdb) ")]
    assert typed[:1] == ["p byte.handle.data[0, :4]"] and typed[-1] == "c"
    commands = "\n".join([*typed, "p acc.handle.data[0, :3]", "cl 1", "c", "q", ""])
    done = run(command, environment | {"TRITON_INTERPRET": "1"}, tmp_path, commands)
    assert done.returncode == 0 and "Traceback" not in done.stderr + done.stdout, done.stderr
    torch.manual_seed(5)
    w = kernels.quantize(torch.randn(128, 256) / 16, bits=4, block_size=64, double_quant=True)
    codes = w.codes.view(128, 128)[0, :4].int()
    values = torch.tensor(naive.NF4_VALUES)[torch.stack([codes >> 4, codes & 15], dim=1).flatten()].tolist()
    shown = [
        [float(number) for number in text.partition("array([")[2].partition("]")[0].split(",")]
        for text in done.stdout.split("(Pdb) ")
        if text.startswith("array(")
    ]
    assert shown[0] == codes.tolist() and codes[0] == 233  # which the prose takes apart
    assert shown[1] == pytest.approx(values, rel=1e-3)
    assert shown[2] == pytest.approx(naive.dequantize_absmax(w).view(128, 4)[:2, 0].tolist(), rel=1e-6)
    assert shown[3] == [0, 0, 0] and 0 not in shown[4]
    assert "The program finished and will be restarted" in done.stdout


def test_it_refuses_a_triton_that_compiles(changed, tmp_path):
    program = f"import triton, runpy; runpy.run_path({str(LESSON)!r}, run_name='__main__')"
    done = run([sys.executable, "-c", program], changed(), tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "Triton is already imported without its interpreter: start Python anew, with TRITON_INTERPRET=1"
    )


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
    done = run([sys.executable, LESSON], changed(file, old, new), tmp_path)
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
    done = run([sys.executable, LESSON], changed("kernels/tiles.py", old, new, compiling=True), tmp_path)
    assert done.returncode == 1 and f"AssertionError: linear nf4 bf16 {message}" in done.stderr, done.stderr
