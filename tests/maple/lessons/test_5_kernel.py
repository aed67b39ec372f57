"""Lesson 5 is run in processes of its own, as it sets TRITON_INTERPRET."""

import shlex
import sys

import pytest
import torch

import kernels
from kernels import naive
from tests.lessons import LESSONS, PROJECT, process

LESSON = LESSONS / "5_kernel.py"


def test_it_runs_and_saves_its_picture(changed, tmp_path):
    done = process([sys.executable, LESSON], changed(compiling=True), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "linear nf4 bf16 M=128 " in done.stdout and "wgmma from registers 8" in done.stdout
    assert (tmp_path / "runs" / "lessons" / "5_kernel.png").stat().st_size > 10_000


def test_the_debugger_stops_in_the_kernel_as_it_says(changed, tmp_path):
    environment = changed()
    printed = process([sys.executable, LESSON], environment, tmp_path).stdout.splitlines()[0]
    setting, *command = shlex.split(printed)
    assert setting == "TRITON_INTERPRET=1" and command[:3] == ["python", "-m", "pdb"]
    command = [sys.executable, *command[1:-1], PROJECT / command[-1]]
    lines = LESSON.read_text().splitlines()
    typed = [line.partition("(Pdb) ")[2].split("  ")[0] for line in lines if line.startswith("#     (Pdb) ")]
    assert typed[:1] == ["p byte.handle.data[0, :4]"] and typed[-1] == "c"
    commands = "\n".join([*typed, "p acc.handle.data[0, :3]", "cl 1", "c", "q", ""])
    done = process(command, environment | {"TRITON_INTERPRET": "1"}, tmp_path, commands)
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
    done = process([sys.executable, "-c", program], changed(), tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "Triton is already imported without its interpreter: start Python anew, with TRITON_INTERPRET=1"
    )
