"""What the kernels compile to, for chips that need not be here: registers, stack, shared memory, wgmma.

    python -m benchmarks.codegen              compile for every target, print the table
    python -m benchmarks.codegen --keep       and append it to benchmarks/ledger.csv
    python -m benchmarks.codegen --only nf4   only what has nf4 in its name

The wrappers of `kernels` are called on tensors without memory (the meta device) and their launches recorded, so what is
compiled is what a GPU would be sent: types, alignment, constants and all. A kernel that spills to the stack, or whose
weight goes through shared memory instead of registers, is seen here without a GPU, and so is a Triton that does it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import triton
from rich.console import Console
from rich.table import Table
from triton._utils import canonicalize_dtype
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import kernels
from benchmarks.ledger import append
from kernels import elementwise, gpu, lora, tiles
from kernels.packed import without_memory

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Bytes of shared memory one program may have: CUDA C++ programming guide, technical specifications (163 and 227 KB),
# and the CDNA 3 instruction set (64 KB of LDS a work-group).
SHARED_LIMIT = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
UNITS = {"registers": "a thread", "stack": "bytes", "shared": "bytes", "wgmma": "", "wgmma from registers": ""}
METRICS = tuple(UNITS)
PROCESSORS = 132  # of the chip that the split of a sum is decided for: an H200


class Launch(NamedTuple):
    """A kernel as a wrapper launched it: what the compiler is given."""

    name: str
    function: JITFunction
    signature: dict[str, str]
    constants: dict[tuple[int, ...], object]
    attributes: dict[tuple[int, ...], list]
    options: dict[str, object]


# ------------------------------------------------------------------------------------------------------------------
# What is launched
# ------------------------------------------------------------------------------------------------------------------


def nf4(out: int, columns: int, block_size: int = 64, double_quant: bool = True) -> kernels.NF4Weight:
    """A packed weight without memory."""
    return without_memory((out, columns), 4, block_size, double_quant)


def int8(out: int, columns: int) -> kernels.Int8Weight:
    """A packed weight without memory."""
    return without_memory((out, columns), 8)


def x_of(rows: int, columns: int = 4096, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Rows without memory."""
    return torch.empty(rows, columns, dtype=dtype, device="meta")


def pair(rank: int, out: int = 4096, columns: int = 4096) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """[A], [B] in float32, without memory."""
    return [x_of(rank, columns, torch.float32)], [x_of(out, rank, torch.float32)]


def calls() -> dict[str, Callable]:
    """name -> a call of a wrapper; together they launch every kernel, in the dtypes that a GPU computes in."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    found = {
        "dequantize nf4 double bf16": lambda: gpu.dequantize(nf4(4096, 4096), bf16),
        "dequantize nf4 double fp16": lambda: gpu.dequantize(nf4(4096, 4096), fp16),
        "dequantize nf4 double fp32": lambda: gpu.dequantize(nf4(4096, 4096), fp32),
        "dequantize nf4 bf16": lambda: gpu.dequantize(nf4(4096, 4096, 64, False), bf16),
        "dequantize nf4 bf16, block 32": lambda: gpu.dequantize(nf4(4096, 4096, 32), bf16),
        "dequantize nf4 bf16, block 4096": lambda: gpu.dequantize(nf4(4096, 4096, 4096), bf16),
        "dequantize int8 bf16": lambda: gpu.dequantize(int8(4096, 4096), bf16),
        "linear nf4 fp16 M=1": lambda: gpu.linear(x_of(1, dtype=fp16), nf4(4096, 4096), None),
        "linear nf4 plain bf16 M=1": lambda: gpu.linear(x_of(1), nf4(4096, 4096, 64, False), None),
        "linear nf4 bf16 M=1, block 32": lambda: gpu.linear(x_of(1), nf4(4096, 4096, 32), None),
    }
    for most, _ in tiles.FUSED:
        found |= {
            f"linear nf4 bf16 M={most}": lambda m=most: gpu.linear(x_of(m), nf4(28672, 4096), None),
            f"linear nf4 bf16 M={most}, split": lambda m=most: gpu.linear(x_of(m), nf4(4096, 4096), None),
            f"linear int8 bf16 M={most}": lambda m=most: gpu.linear(x_of(m), int8(4096, 4096), None),
            f"lora nf4 bf16 M={most} r=16": lambda m=most: gpu.lora_linear(
                x_of(m), [nf4(4096, 4096)], [None], [1.0], *pair(16), 0.0, None
            ),
            f"lora nf4 bf16 M={most} r=128": lambda m=most: gpu.lora_linear(
                x_of(m), [nf4(4096, 4096)], [None], [1.0], *pair(128), 0.0, None
            ),
        }
    for rank in (16, 128):
        found |= {
            f"x A^T bf16 M=1 r={rank}": lambda r=rank: lora.down(x_of(1), x_of(r), 0.0, None),
            f"x A^T bf16 r={rank}": lambda r=rank: lora.down(x_of(4096), x_of(r), 0.0, None, copy=x_of(4096)),
            f"dropout(x) A^T bf16 r={rank}": lambda r=rank: lora.down(x_of(4096), x_of(r), 0.1, 7, copy=x_of(4096)),
            f"G^T dropout(x) bf16 r={rank}": lambda r=rank: lora.grad_a(x_of(4096, r), x_of(4096), 0.1, 7),
            f"dropout'(G A) bf16 r={rank}": lambda r=rank: lora.grad_x(x_of(4096, r), x_of(r), 0.1, 7),
        }
    heads = [torch.empty(1, 4096, heads, 128, dtype=bf16, device="meta").transpose(1, 2) for heads in (32, 8)]
    angles = torch.empty(1, 4096, 128, dtype=bf16, device="meta")
    return found | {
        "rms norm bf16": lambda: elementwise.rms_norm(x_of(4096), x_of(1)[0], 1e-5),
        "rms norm backward bf16": lambda: elementwise.rms_norm_backward(
            x_of(4096), x_of(4096), x_of(1)[0], torch.empty(4096, device="meta")
        ),
        "rotary bf16": lambda: elementwise.rotary(*heads, angles, angles, 1.0),
        "swiglu bf16": lambda: elementwise.swiglu(x_of(4096, 14336), x_of(4096, 14336)),
        "swiglu backward bf16": lambda: elementwise.swiglu_backward(*(x_of(4096, 14336) for _ in range(3))),
    }


@contextlib.contextmanager
def recorded() -> Iterator[list]:
    """Within it launches are noted in the list that it gives, and not made."""
    seen = []
    note = mock.patch.object(JITFunction, "run", lambda kernel, *args, **kwargs: seen.append((kernel, args, kwargs)))
    with note, mock.patch.object(tiles, "_processors", lambda device: PROCESSORS):
        yield seen


def launches(only: str = "") -> list[Launch]:
    """What `calls` with `only` in their name launch; a call that launches two kernels is named for the last."""
    found = []
    for name, call in calls().items():
        if only not in name:
            continue
        with recorded() as seen:
            call()
        found.append(_launch(name, *seen[-1]))
    return found


def _launch(name: str, kernel: JITFunction, args: tuple, kwargs: dict) -> Launch:
    """The specialisation that Triton would choose for these arguments (its runtime/jit.py)."""
    options = {key: value for key, value in kwargs.items() if key not in (*kernel.arg_names, "grid", "warmup")}
    values = dict(zip(kernel.arg_names, args, strict=False)) | {k: v for k, v in kwargs.items() if k not in options}
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        free = parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1 and not free):
            signature[parameter.name], constants[index,] = "constexpr", value
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        elif isinstance(value, int):
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not free:
                attributes[index,] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "*" + canonicalize_dtype(value.dtype)
            attributes[index,] = [["tt.divisibility", 16]]
    return Launch(name, kernel, signature, constants, attributes, options)


# ------------------------------------------------------------------------------------------------------------------
# What it becomes
# ------------------------------------------------------------------------------------------------------------------


def compiled(launch: Launch, target: str):
    """The kernel in machine code for a target, with all the forms in between."""
    source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
    return triton.compile(source, target=TARGETS[target], options=launch.options)


def resources(kernel, target: str) -> dict[str, int]:
    """The METRICS of a compiled kernel: registers a thread, bytes of stack and shared memory, wgmma in its code."""
    if target.startswith("gfx"):
        text = kernel.asm["amdgcn"]
        registers, stack = (
            int(re.search(rf"\.{key}:\s*(\d+)", text)[1]) for key in ("vgpr_count", "private_segment_fixed_size")
        )
        return {"registers": registers, "stack": stack, "shared": kernel.metadata.shared}
    usage = _cuobjdump(kernel.asm["cubin"])
    found = {"registers": usage["REG"], "stack": usage["STACK"], "shared": kernel.metadata.shared}
    # wgmma's operands: {results}, then the left matrix as {registers} or a descriptor of shared memory, then the right
    products = re.findall(r"wgmma\.mma_async\S+\s*\{[^}]*\},\s*(\{)?", kernel.asm["ptx"])
    if products:
        found |= {"wgmma": len(products), "wgmma from registers": sum(map(bool, products))}
    return found


def _cuobjdump(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        command = [tool, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"\b(REG|STACK):(\d+)", text)}


def measure(target: str, only: str = "") -> dict[str, dict[str, int]]:
    """name of a launch -> its resources on a target."""
    return {launch.name: resources(compiled(launch, target), target) for launch in launches(only)}


def main() -> None:
    """Compile everything, or what is asked for, for every target and print a table for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codegen", description=__doc__.split("\n\n")[0])
    parser.add_argument("--targets", default=",".join(TARGETS), help="some of %(default)s")
    parser.add_argument("--only", default="", metavar="TEXT", help="kernels whose name contains it")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--keep", action="store_true", help="append to benchmarks/ledger.csv")
    arguments = parser.parse_args()
    if not any(arguments.only in name for name in calls()):
        parser.error(f"--only: no kernel's name contains {arguments.only!r}; there are\n  " + "\n  ".join(calls()))
    found = {target: measure(target, arguments.only) for target in arguments.targets.split(",")}
    if arguments.json:
        print(json.dumps({"triton": triton.__version__, "targets": found}))
        return
    for target, kernels_of_target in found.items():
        table = Table(title=f"{target}, Triton {triton.__version__}: {len(kernels_of_target)} kernels")
        for column in ("kernel", *METRICS):
            table.add_column(column, justify="left" if column == "kernel" else "right")
        for name, row in kernels_of_target.items():
            table.add_row(name, *(str(row.get(metric, "")) for metric in METRICS))
            for metric, value in row.items() if arguments.keep else ():
                append(name, f"triton {triton.__version__}", target, metric, UNITS[metric], [value])
        Console(width=110).print(table)


if __name__ == "__main__":
    main()
