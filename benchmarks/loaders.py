"""One start, in a process of its own: what `load.py` measures of each contestant, printed as a line of JSON.

    python -m benchmarks.loaders maple FOLDER cpu
    python -m benchmarks.loaders transformers FOLDER cpu

Anonymous memory (RssAnon) is what a process has of its own: mapped pages of a file, which the system may take back at
any time, are not in it. A thread samples it, from the end of the imports on.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

SAMPLED = 0.005  # seconds between two looks; a chunk that is quantised takes longer


def maple_loader(folder: str, device: str) -> Callable[[], object]:
    """`maple.load_model` in 4 bits; whether a packed copy is there is the caller's business."""
    import maple.model

    return lambda: maple.model.load_model(folder, bits=4, rank=0, device=device)


def transformers_loader(folder: str, device: str) -> Callable[[], object]:
    """NF4 and double quantisation, as the documentation of transformers has it."""
    import accelerate  # noqa: F401 - with the imports, not in the measured time
    import bitsandbytes  # noqa: F401
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    settings = {"quantization_config": four, "dtype": torch.bfloat16, "device_map": {"": device}}
    return lambda: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **settings)


LOADERS = {"maple": maple_loader, "transformers": transformers_loader}


def anonymous() -> int:
    """Bytes of RssAnon."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure(load: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds, and the memory above what was there before."""
    before, most, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(SAMPLED):
            most = max(most, anonymous())

    thread = threading.Thread(target=watch, daemon=True)  # it would keep a process alive whose loading has failed
    thread.start()
    start = time.perf_counter()
    model = load()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    most = max(most, anonymous())
    gc.collect()
    gpu = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    held = sum(parameter.nbytes for parameter in model.parameters())
    return {"seconds": seconds, "peak": most - before, "stays": anonymous() - before, "gpu_peak": gpu, "held": held}


def main(name: str, folder: str, device: str) -> None:
    """Import, load, print."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if device == "cuda":
        torch.cuda.init()
    print(json.dumps(measure(LOADERS[name](folder, device), torch.device(device))))


if __name__ == "__main__":
    main(*sys.argv[1:])
