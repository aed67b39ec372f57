"""How much memory there is, and which flags would make a run fit into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PretrainedConfig

from maple.memory import MicroBatch, predict
from maple.shards import Shards

SMALLEST_RANK = 8  # of the paper's; below it the adapter is no longer what takes the memory
SMALLEST_LENGTH = 128  # tokens; hardly an instruction and its answer fit below that
# name of the memory controller in /proc/self/cgroup -> its folder, and what it calls limit, use and reclaimable cache
CGROUPS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_bytes(device: torch.device) -> int:
    """What a run may take: the free memory of a GPU, or what Linux gives before it swaps or a cgroup ends the run.

    Elsewhere than on Linux all memory of the machine counts as available.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min([available, *_cgroup_rooms(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup"))])


def _cgroup_rooms(membership: str, root: Path) -> Iterator[int]:
    """Bytes left below the limit of each cgroup that this process is in, version 1 and 2, and of those around it.

    In a container the path that the kernel reports may lie outside of what is mounted: then only the root is there.
    """
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in CGROUPS.keys() & set(controllers.split(",")):
            folder, limit, used, cache = CGROUPS[name]
            inner = root / folder / path.lstrip("/")
            for group in (inner, *inner.parents):
                if not (group / limit).is_file() or (text := (group / limit).read_text().strip()) == "max":
                    continue
                statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield int(text) - int((group / used).read_text()) + int(statistics.get(cache, 0))


def advice(
    arguments: dict,
    config: PretrainedConfig,
    micro_batches: list[MicroBatch],
    device: str,
    dtype: torch.dtype,
    shards: Shards | None = None,
) -> str:
    """One sentence: the flags that would lower the memory of a run, and each by how much, the largest first."""
    now = predict(arguments, config, micro_batches, device, dtype, shards).needed
    gains = {}
    for change, batches in _changes(arguments, micro_batches, packed=hasattr(config, "quantization_config")):
        then = predict(arguments | change, config, batches, device, dtype, shards).needed
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in change.items())
        gains[flags] = now - then
    helping = sorted(((gain, flags) for flags, gain in gains.items() if gain > now / 100), reverse=True)
    if not helping:
        return f"no flag would lower it by more than 1 % of {size(now)}; take a smaller model"
    return "what would help: " + ", ".join(f"{flags} (-{size(gain)})" for gain, flags in helping)


def _changes(arguments: dict, micro_batches: list[MicroBatch], packed: bool) -> Iterator[tuple[dict, list[MicroBatch]]]:
    """(flags, what the micro-batches would be with them)."""
    tokens, longest = arguments["batch_tokens"], arguments["max_length"]

    def of(rows: float, length: float) -> list[MicroBatch]:
        return [
            MicroBatch(max(int(b.rows * rows), 1), max(int(b.length * length), 1), int(b.supervised * rows * length))
            for b in micro_batches
        ]

    if tokens // 2 >= longest:
        yield {"batch_tokens": tokens // 2}, of(0.5, 1)
    if longest // 2 >= SMALLEST_LENGTH:
        if tokens // 2 >= longest:
            yield {"max_length": longest // 2}, of(2, 0.5)
        else:  # a row must fit into a micro-batch, so both are halved
            yield {"max_length": longest // 2, "batch_tokens": tokens // 2}, of(1, 0.5)
    if arguments["recompute"] == "none":
        yield {"recompute": "layer"}, micro_batches
    if arguments["bits"] > 4 and not packed:
        yield {"bits": 4}, micro_batches
    if arguments["rank"] // 2 >= SMALLEST_RANK:
        yield {"rank": arguments["rank"] // 2}, micro_batches


def size(count: int) -> str:
    """Bytes for a reader."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
