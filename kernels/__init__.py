"""NF4 and int8 weights, the linear layers that compute with them, and what lies between those layers.

    w = kernels.quantize(weight, bits=4, block_size=64, double_quant=True)
    y = kernels.linear(x, w)
    y = kernels.lora_linear(x, w, a, b, scaling=alpha / rank)
    y = kernels.rms_norm(x, weight, eps)
    q, k = kernels.rotary(q, k, cos, sin)
    y = kernels.swiglu(gate, up)

`packed.py` has the bytes; `naive.py` is the specification in plain PyTorch and what a CPU runs, `gpu.py` the same in
Triton (`nf4.py`, `int8.py`, `lora.py`, `tiles.py`); `ops.py` is what is called, and what autograd and compilers see.
`naive_elementwise.py`, `elementwise.py` and `elementwise_ops.py` are these three for what lies between the linear
layers, `attention.py` is attention over packed samples and `shared_prefix.py` that of texts that begin alike.
"""

from kernels.attention import packed_attention
from kernels.checks import FLOATS
from kernels.elementwise_ops import rms_norm, rotary, swiglu
from kernels.ops import dequantize, linear, lora_linear, lora_linear_grouped, quantize
from kernels.packed import BLOCK_SIZES, Int8Weight, NF4Weight, Weight
from kernels.shared_prefix import Prefixes, shared_prefix_attention

__all__ = [
    "BLOCK_SIZES",
    "FLOATS",
    "Int8Weight",
    "NF4Weight",
    "Prefixes",
    "Weight",
    "dequantize",
    "linear",
    "lora_linear",
    "lora_linear_grouped",
    "packed_attention",
    "quantize",
    "rms_norm",
    "rotary",
    "shared_prefix_attention",
    "swiglu",
]
