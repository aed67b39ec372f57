"""Every kernel compiled for every target, under the installed Triton and under 3.6, without a GPU."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import codegen
from benchmarks.ledger import LEDGER

TRITON_36 = Path(sys.prefix) / "triton-3.6"  # `make test` puts it there, beside the newer one that is installed
VERSIONS = {"installed": None, "3.6": TRITON_36}


@pytest.fixture(scope="module")
def measured():
    """version -> target -> kernel -> resources, each version of Triton in a process of its own."""
    running = {}
    for version, folder in VERSIONS.items():
        if folder is None or folder.is_dir():
            path = os.pathsep.join(filter(None, [str(folder or ""), os.getcwd(), os.environ.get("PYTHONPATH")]))
            command = [sys.executable, "-m", "benchmarks.codegen", "--json"]
            environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
            running[version] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    return {version: json.loads(process.communicate()[0]) for version, process in running.items()}


@pytest.fixture(params=VERSIONS)
def found(request, measured):
    if request.param not in measured:
        pytest.skip(f"needs Triton 3.6 in {TRITON_36}: make test installs it")
    return measured[request.param]


def rows(found, *targets):
    return [(target, name, row) for target in targets for name, row in found["targets"][target].items()]


def test_every_kernel_compiles_for_every_target(found):
    names = {launch.function.__name__ for launch in codegen.launches()}
    packed = {"dequantize_kernel", "linear_kernel", "down_kernel", "grad_a_kernel", "grad_x_kernel"}
    between = {
        "rms_norm_kernel",
        "rms_norm_backward_kernel",
        "rotary_kernel",
        "swiglu_kernel",
        "swiglu_backward_kernel",
    }
    assert names == packed | between
    for target in codegen.TARGETS:
        assert set(found["targets"][target]) == set(codegen.calls())
    assert len(codegen.calls()) <= 40


def test_the_older_triton_is_the_older_one(measured):
    if "3.6" not in measured:
        pytest.skip(f"needs Triton 3.6 in {TRITON_36}: make test installs it")
    assert measured["3.6"]["triton"].startswith("3.6") and not measured["installed"]["triton"].startswith("3.6")


def test_nothing_spills_on_the_chips_that_matter_most(found):
    assert [(target, name) for target, name, row in rows(found, "sm_80", "sm_90") if row["stack"]] == []


def test_elsewhere_nothing_spills_more_than_the_ledger_says(found):
    """`python -m benchmarks.codegen --keep`, looked at, is how a new figure gets there; without it, nothing may."""
    with LEDGER.open(newline="") as file:
        kept = {
            (row["shape"], row["kernel"]): float(row["median"])
            for row in csv.DictReader(file)
            if row["provider"] == f"triton {found['triton']}" and row["metric"] == "stack"
        }
    assert kept, f"the ledger has nothing of Triton {found['triton']}: python -m benchmarks.codegen --keep"
    elsewhere = rows(found, "sm_100", "gfx942")
    assert [(t, name, row["stack"]) for t, name, row in elsewhere if row["stack"] > kept.get((t, name), 0)] == []


def test_shared_memory_is_under_the_limit_of_the_chip(found):
    for target in codegen.TARGETS:
        for _, name, row in rows(found, target):
            assert row["shared"] <= codegen.SHARED_LIMIT[target], (target, name)


def test_on_hopper_every_weight_is_the_register_operand_of_wgmma(found):
    products = [(name, row) for _, name, row in rows(found, "sm_90") if name.startswith(("linear", "lora"))]
    assert products
    for name, row in products:
        assert row["wgmma"] > 0 and row["wgmma from registers"] == row["wgmma"], name


# ------------------------------------------------------------------------------------------------- the code itself


@pytest.fixture(scope="module")
def launches():
    return {launch.name: launch for launch in codegen.launches()}


def test_only_some_kernels_can_be_asked_for(monkeypatch, capsys):
    names = [name for name in codegen.calls() if "rms norm" in name]
    assert [launch.name for launch in codegen.launches("rms norm")] == names and len(names) == 2
    monkeypatch.setattr(sys, "argv", ["codegen", "--targets", "sm_90", "--json", "--only", "rotary"])
    codegen.main()
    assert set(json.loads(capsys.readouterr().out)["targets"]["sm_90"]) == {"rotary bf16"}


def test_only_kernels_that_there_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["codegen", "--only", "linear nf5"])
    with pytest.raises(SystemExit):
        codegen.main()
    error = capsys.readouterr().err
    assert "no kernel's name contains 'linear nf5'; there are" in error and "\n  linear nf4 bf16 M=16\n" in error


def test_what_lies_between_the_products_moves_16_bytes_at_a_time(launches):
    for name in ("rms norm bf16", "rms norm backward bf16", "rotary bf16", "swiglu bf16", "swiglu backward bf16"):
        moves = re.findall(r"(?:ld|st)\.global\S*", codegen.compiled(launches[name], "sm_90").asm["ptx"])
        # all but what the norm has one of for a row: 1 / rms
        assert moves.count("ld.global.v4.b32") + moves.count("st.global.v4.b32") >= len(moves) - 1, (name, moves)


def test_dequantising_reads_a_word_a_thread_and_writes_16_bytes_without_shared_memory(launches):
    for name in ("dequantize nf4 double bf16", "dequantize nf4 double fp16", "dequantize int8 bf16"):
        kernel = codegen.compiled(launches[name], "sm_90")
        ptx = kernel.asm["ptx"]
        stores = re.findall(r"st\.global\S*", ptx)
        assert stores and all(".v4.b32" in store for store in stores), name
        assert "st.shared" not in ptx and "bar.sync" not in ptx, name


def test_no_product_and_sum_become_one_rounding_unless_the_code_says_fma(launches):
    assert "fma." not in codegen.compiled(launches["dequantize nf4 double fp32"], "sm_90").asm["ptx"]
    assert "fma." in codegen.compiled(launches["linear nf4 bf16 M=1, block 32"], "sm_90").asm["ptx"]


def test_addresses_are_computed_in_64_bits(launches):
    """No address comes from a 32-bit product of two numbers known only at run time: such a product can pass 2^31."""
    seen = set()
    for launch in launches.values():
        if launch.function not in seen:
            seen.add(launch.function)
            assert narrow_products(codegen.compiled(launch, "sm_90").asm["ttir"]) == [], launch.name


def test_a_product_in_32_bits_is_found():
    code = """
    %a = tt.get_program_id x : i32
    %c = arith.constant 64 : i32
    %ok = arith.muli %a, %c : i32
    %bad = arith.muli %ok, %stride : i32
    %wide = tt.splat %bad : i32 -> tensor<64xi32>
    %p = tt.addptr %base, %wide : tensor<64x!tt.ptr<f32>>, tensor<64xi32>
    """
    assert narrow_products(code) == ["%bad"]
    assert narrow_products(code.replace("%ok, %stride", "%ok, %c")) == []


def narrow_products(ttir: str) -> list[str]:
    """Names of i32 products of two values that are no constants and that an address is computed from."""
    operations = {}
    for name, operation, rest in re.findall(r"^\s*(%[\w#]+)(?::\d+)? = ([\w.]+) (.*)$", ttir, re.M):
        operations[name] = (operation, re.findall(r"%[\w#]+", rest.split(" loc(")[0]), rest)

    def small(name):
        """A constant, or a program's number along the second and third axis, which is below 65,536, or their sum."""
        operation, operands, rest = operations.get(name, ("argument", [], ""))
        if operation in ("tt.splat", "tt.broadcast", "tt.expand_dims", "arith.extsi", "arith.addi"):
            return all(map(small, operands))
        return operation == "arith.constant" or (operation == "tt.get_program_id" and rest[0] in "yz")

    found, visited = [], set()

    def walk(name):
        if name in visited or name not in operations:
            return
        visited.add(name)
        operation, operands, rest = operations[name]
        if operation == "arith.muli" and "i32" in rest.split(":")[1] and not any(map(small, operands)):
            found.append(name)
        if operation != "tt.load":  # what was loaded is data, not an address
            for operand in operands:
                walk(operand)

    for operation, operands, _ in list(operations.values()):
        if operation == "tt.addptr":
            walk(operands[1])
    return found
