"""What a model runs on, what it computes in, and what is said where there was no room on it."""

import gc
from collections.abc import Callable

import torch

from maple import ranks
from maple.errors import InputError, first_line


def choose_device(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """The device and the dtype of the computation. Raises InputError for a GPU that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no GPU on this machine; use --device cpu")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if precision == "auto":
        precision = (
            "bf16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        )
    return chosen, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def check_count(device: str, count: int) -> torch.device:
    """The device of this process. Raises InputError where a machine is to have more of them than there are."""
    chosen, _ = choose_device(device, "fp32")
    if chosen.type == "cuda":
        there, what = torch.cuda.device_count(), "GPU"
    else:
        there, what = ranks.cores(), "core"
    if count > there:
        raise InputError(
            f"{count} devices are asked for on this machine, which has {there} {what}{'s' * (there != 1)}; "
            f"give --devices {there}" + (" or --device cpu" if what == "GPU" else "")
        )
    return chosen


def with_room(work: Callable[[], None], otherwise: Callable[[str], str]) -> None:
    """Do it. Raises InputError with what `otherwise` makes of the allocator's words where memory runs out."""
    reason = ""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    if reason:  # out here the error is gone, and with it the tensors that its stack held
        gc.collect()
        raise InputError(otherwise(reason))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocator had none left: PyTorch's on a GPU or CPU, CUDA's, cuBLAS', Triton's launch, Python's."""
    says = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(text in str(error) for text in says)
