"""Which module computes: `naive`, plain PyTorch for every device, or `gpu`, the Triton kernels."""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings

import torch

from kernels import naive

TRITON_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
OLDEST = (8, 0)  # compute capability (A100): what the kernels are compiled for in the tests, and has bfloat16


def interpreting() -> bool:
    """Whether Triton kernels run in Python on CPU tensors, where a debugger can step through them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def choose(asked: str, device: torch.device, dtype: torch.dtype):
    """The module whose functions run: `naive` or `gpu`."""
    if asked == "naive":
        return naive
    reason = _why_not_triton(device, dtype)
    if asked == "triton" and reason:
        raise ValueError(f"backend 'triton' cannot run here: {reason}")
    if reason:
        return naive
    from kernels import gpu

    return gpu


def _why_not_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype not in TRITON_FLOATS:
        return f"x is {dtype}; the kernels take {', '.join(map(str, TRITON_FLOATS))}"
    if device.type == "cpu" and not interpreting():
        return "x lies on the CPU; there the kernels run only under TRITON_INTERPRET=1"
    if device.type == "cpu" and dtype == torch.bfloat16:
        return "x is torch.bfloat16, which Triton's interpreter computes wrongly"
    return _too_old(device) if device.type == "cuda" else None  # nothing is launched on meta tensors


@functools.cache
def _too_old(device: torch.device) -> str | None:
    """Why this GPU runs plain PyTorch, said once."""
    if importlib.util.find_spec("triton") is None:
        reason = "triton is not installed"
    elif torch.version.hip is None and torch.cuda.get_device_capability(device) < OLDEST:
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        reason = f"{torch.cuda.get_device_name(device)} has compute capability {found}; the kernels need 8.0"
    else:
        return None
    warnings.warn(f"{reason}: weights are dequantised by plain PyTorch, which is slower", stacklevel=2)
    return reason
