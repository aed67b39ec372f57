# %% [markdown]
# # 5. A dequantise-matmul kernel, line by line
#
# Triton compiles a kind of Python for GPUs; the head of kernels/nf4.py has it in a few lines: read those first. For few
# rows of x, y = x W^T with a 4-bit W is its linear_kernel: W is decoded in registers, never stored anywhere as floats.
#
#     y[m, n] = sum over blocks i of  absmax[n, i] * (sum over the columns j of block i of  value[n, j] * x[m, j])
#
# With TRITON_INTERPRET=1 Triton runs a kernel as Python, one program after the other, on NumPy arrays: slow, and open
# to a debugger. That is decided when triton is imported, hence before anything else:

# %%
import json
import os
import subprocess
import sys
from pathlib import Path

if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
    sys.exit("Triton is already imported without its interpreter: start Python anew, with TRITON_INTERPRET=1")
os.environ["TRITON_INTERPRET"] = "1"

import torch

import kernels
from kernels import naive, nf4
from maple.lessons.picture import panels, save
from maple.reporting.style import COLOURS, MARKS

# %% [markdown]
# ## Stop inside it
#
# W has 128 rows, one tile, and 256 columns, four blocks of 64: one program (SPLIT_K 1), four steps of its loop. RESCALE
# and SCALE_VALUES are False here. Run this lesson once, then the command that it prints: it stops at the product.
#
#     (Pdb) p byte.handle.data[0, :4]         the first four bytes of row 0; 233 = 16 * 14 + 9 is two codes
#     (Pdb) p values.handle.data[0, :8]       the eight values that they stand for
#     (Pdb) p s.handle.data[:2]               the absmax of this block in rows 0 and 1
#     (Pdb) p acc.handle.data[0, :3]          y so far, for row 0 and the three rows of x: zeros
#     (Pdb) c                                 to the next step, where acc is not zero; cl 1 and c: to the end; then q
#
# A variable is a tl.tensor, what it holds the NumPy array `.handle.data`. A debugger is a function that Python calls at
# each line (sys.settrace); the one below notes the variables whenever the kernel comes to that line.

# %%
torch.manual_seed(5)
M, OUT, IN, BLOCK = 3, 128, 256, 64
w = kernels.quantize(torch.randn(OUT, IN) / IN**0.5, bits=4, block_size=BLOCK, double_quant=True)
x = torch.randn(M, IN, dtype=torch.float16)
stop = Path(nf4.__file__).read_text().partition("acc = tl.fma(tl.dot(values, rows.T")[0].count("\n") + 1
print(f'TRITON_INTERPRET=1 python -m pdb -c "b {nf4.__file__}:{stop}" -c c maple/lessons/5_kernel.py')
y = kernels.linear(x, w)
seen = {"byte": [], "values": [], "s": [], "rows": [], "acc": []}


def trace(frame, event, _):
    for name in seen if event == "line" and frame.f_lineno == stop else ():
        seen[name].append(torch.tensor(frame.f_locals[name].handle.data))
    return trace if frame.f_code.co_name == "linear_kernel" else None


debugger = sys.gettrace()  # if there is one
sys.settrace(trace)
kernels.linear(x, w)
sys.settrace(debugger)
seen = {name: torch.stack(found, dim=1) for name, found in seen.items()}  # [row, step, ...]

# %% [markdown]
# ## What a step does
#
#     byte    [128, 32]   the codes of a block in each row: element 2j in the high nibble of byte j, 2j + 1 in the low
#     table   [256]       for each byte one 32-bit word: its two float16 values, the first in the lower half
#     values  [128, 64]   the halves of table[byte], in order: one lookup decodes two weights, without arithmetic
#     rows    [16, 64]    the block's columns of x; a product takes 16 rows at least, so past M they are zeros
#     s       [128]       the absmax of the block in each row, in float32, loaded one step ahead
#     acc     [128, 16]   += s * (values rows^T), float32; y^T, so that the decoded weight is the left side (registers)
#
# absmax comes after the product: values * absmax would be rounded to float16 for each weight, s * sum in float32 is
# not. y differs from "what was seen" by its own rounding to float16, from the decoded weight by the table's as well.

# %%
codes, table = w.codes.view(OUT, -1, BLOCK // 2), torch.tensor(naive.NF4_VALUES).half()
nibbles = torch.stack([codes >> 4, codes & 15], dim=3).flatten(2).int()
expected = {"byte": codes, "values": table[nibbles], "s": naive.dequantize_absmax(w).view(OUT, -1)}
word = nf4.pair_table(torch.float16, x.device)[codes[0, 0, 0].int()].item() & 0xFFFFFFFF
print(f"byte {codes[0, 0, 0]:#04x} -> word {word:#010x} -> values {seen['values'][0, 0, :2].tolist()}")
summed = torch.einsum("nk,nkj,mkj->mn", *(seen[name].double() for name in ("s", "values", "rows")))[:M]
errors = [((y - right).norm() / right.norm()).item() for right in (summed, x.double() @ w.dequantize().double().T)]
print(f"relative difference of y to what was seen {errors[0]:.1e}, to x and the decoded weight {errors[1]:.1e}")

# %% [markdown]
# ## What the compiler makes of it
#
# Compiling for an H200 (sm_90) needs no GPU, but a process without the interpreter. Its matrix instruction, wgmma,
# takes the left operand from registers, where the decoded values are: hence y^T = W x^T. Printed: a thread's registers,
# bytes of stack (what had no room there) and of memory that threads share, all wgmma; M: the most rows of x for a tile.

# %%
project = Path(kernels.__file__).parents[1]
command = [sys.executable, "-m", "benchmarks.codegen", "--json", "--targets=sm_90", "--only=linear nf4 bf16 M="]
text = subprocess.check_output(command, cwd=project, env=os.environ | {"TRITON_INTERPRET": "0"})
compiled = json.loads(text)["targets"]["sm_90"]
for name, found in compiled.items():
    print(f"{name:30}", ", ".join(f"{metric} {value:,}" for metric, value in found.items()))

# %% [markdown]
# ## Where 4 bits help, and where they cannot
#
# The roofline: a call takes at least the time of its bytes, and at least the time of its products,
#
#     time >= max(bytes / bandwidth, flop / peak)          an H200: 4.8 TB/s, 989 TFLOP/s dense bfloat16 (data sheet)
#
# With few rows nearly all bytes are the weight's, and 4 bits make them fewer; with many rows the products decide, and
# they are the same. These are limits: nothing here was measured on a GPU.

# %%
sys.path.insert(0, str(project))  # benchmarks lies beside kernels in the project, and is not installed with it
from benchmarks.points import GATE, linear  # noqa: E402

BANDWIDTH, PEAK, SHOWN = 4.8e12, 989e12, (1, 4, 16, 64, 128, 512, 4096)
FORMATS, ROWS = {"bf16": "16-bit", "NF4": "nf4 double"}, range(1, 8193)
calls = {name: {m: linear(bits, GATE, m) for m in ROWS} for name, bits in FORMATS.items()}
times = {n: {m: max(c.bytes() / BANDWIDTH, c.flop / PEAK) for m, c in of.items()} for n, of in calls.items()}
crossing = {n: next(m for m, c in of.items() if times[n][m] == c.flop / PEAK) for n, of in calls.items()}
gain = {m: times["bf16"][m] / times["NF4"][m] for m in ROWS}
print(f"products decide from M = {crossing}; NF4 can be faster by", {m: round(gain[m], 2) for m in SHOWN})
figure, (axis,) = panels("The most an H200 can do: M rows x W^T, W 14336 x 4096")
axis.plot([1, PEAK / BANDWIDTH, 4000], [BANDWIDTH / 1e12, PEAK / 1e12, PEAK / 1e12], color="grey", label="roof")
for (name, of), colour, mark, up in zip(calls.items(), COLOURS, MARKS, (-17, 9), strict=False):
    for m in SHOWN:
        spot = of[m].flop / of[m].bytes(), of[m].flop / times[name][m] / 1e12
        axis.plot(*spot, mark, color=colour, mfc="none", mew=2, ms=8, label=f"{name}, M beside it" if m == 1 else None)
        axis.annotate(m, spot, (0, up), textcoords="offset points", ha="center", color=colour)
axis.set(xscale="log", yscale="log", ylim=(2, 3000), xlabel="flop / byte", ylabel="TFLOP/s at most")
figure.legend(loc="outside lower center", ncols=3)
save(figure, "5_kernel")

# %% [markdown]
# ## What this lesson claims

# %%
for name, right in expected.items():
    assert (seen[name] == right).all(), f"{name} in the kernel is not that of the tile"
assert max(errors) < 1e-3, f"y is not the sum over blocks: {errors}"
for name, found in compiled.items():
    assert found["stack"] == 0, f"{name} spills to the stack: {found}"
    assert 0 < found.get("wgmma", 0) == found["wgmma from registers"], f"{name}: the weight does not stay in registers"
assert 3.7 < gain[1] < 4 and gain[16] > 3.6, f"4 bits do not move 3.9 times fewer bytes: {gain[1]}"
assert 50 < crossing["NF4"] < 65 and 210 < crossing["bf16"] < 230, f"products decide elsewhere: {crossing}"
