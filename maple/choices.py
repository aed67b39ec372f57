"""What may be chosen where more than one command offers it; a Literal is a flag's type and its list of values."""

from typing import Literal, get_args

Bits = Literal[4, 8, 16]
BlockSize = Literal[32, 64, 128, 256, 512, 1024, 2048, 4096]  # kernels.BLOCK_SIZES, without importing torch
Template = Literal["alpaca", "bactrian", "chat"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Recompute = Literal["none", "selective", "layer"]
RECOMPUTE: tuple[str, ...] = get_args(Recompute)  # from the fastest to the smallest
Strategy = Literal["auto", "ddp", "fsdp"]
