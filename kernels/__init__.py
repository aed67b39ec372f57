"""NF4 and int8 weights, and the linear layers that compute with them. Knows PyTorch and nothing of maple.

    w = kernels.quantize(weight, bits=4, block_size=64, double_quant=True)
    y = kernels.linear(x, w)
    y = kernels.lora_linear(x, w, a, b, scaling=alpha / rank)

`packed.py` has the bytes; `naive.py` is the specification in plain PyTorch and what a CPU runs, `gpu.py` the same in
Triton (`nf4.py`, `int8.py`, `lora.py`, `tiles.py`); `ops.py` is what is called, and what autograd and compilers see.
`attention.py` is attention over packed samples.
"""

from kernels.attention import packed_attention
from kernels.checks import FLOATS
from kernels.ops import dequantize, linear, lora_linear, lora_linear_grouped, quantize
from kernels.packed import BLOCK_SIZES, Int8Weight, NF4Weight, Weight

__all__ = [
    "BLOCK_SIZES",
    "FLOATS",
    "Int8Weight",
    "NF4Weight",
    "Weight",
    "dequantize",
    "linear",
    "lora_linear",
    "lora_linear_grouped",
    "packed_attention",
    "quantize",
]
