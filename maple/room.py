"""How much memory there is, and which flags would make a run fit into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from maple.choices import RECOMPUTE
from maple.memory import MicroBatch, Setting, predict

SMALLEST_RANK = 8  # of the paper's; below it the adapter is no longer what takes the memory
SMALLEST_LENGTH = 128  # tokens; hardly an instruction and its answer fit below that
RESERVE = 0.1  # of the available memory: so much the prediction may be wrong
# name of the memory controller in /proc/self/cgroup -> its folder, and what it calls limit, use and reclaimable cache
CGROUPS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_bytes(device: torch.device, processes: int = 1) -> int:
    """What one of several processes may take: the free memory of its GPU, or on a CPU its part of what Linux gives
    before it swaps or a cgroup ends the run.

    Elsewhere than on Linux all memory of the machine counts as available.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // processes
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    rooms = _cgroup_rooms(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup"))
    return min([available, *rooms]) // processes


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


def advice(setting: Setting) -> str:
    """One sentence: the flags that would lower the memory of a run, and each by how much, the largest first."""
    now = predict(setting).needed
    gains = {}
    for flags, then in _changes(setting):
        written = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in flags.items())
        gains[written] = now - predict(then.changed(**flags)).needed
    helping = sorted(((gain, flags) for flags, gain in gains.items() if gain > now / 100), reverse=True)
    if not helping:
        return f"no flag would lower it by more than 1 % of {size(now)}; take a smaller model"
    return "what would help: " + ", ".join(f"{flags} (-{size(gain)})" for gain, flags in helping)


def _changes(setting: Setting) -> Iterator[tuple[dict, Setting]]:
    """(flags, the setting with the micro-batch that they would make)."""
    arguments, batch = setting.arguments, setting.micro_batch
    tokens, longest = arguments["batch_tokens"], arguments["max_length"]

    def cut(rows: float, length: float) -> Setting:
        shape = max(int(batch.rows * rows), 1), max(int(batch.length * length), 1)
        return replace(setting, micro_batch=MicroBatch(*shape, int(batch.supervised * rows * length), batch.samples))

    if tokens // 2 >= longest:
        yield {"batch_tokens": tokens // 2}, cut(0.5, 1)
    elif longest // 2 >= SMALLEST_LENGTH:  # a row must fit into a micro-batch, so both are halved
        yield {"max_length": longest // 2, "batch_tokens": tokens // 2}, cut(1, 0.5)
    for recompute in RECOMPUTE[RECOMPUTE.index(arguments["recompute"]) + 1 :]:
        yield {"recompute": recompute}, setting
    if arguments["bits"] > 4 and not hasattr(setting.config, "quantization_config"):
        yield {"bits": 4}, setting
    if arguments["rank"] // 2 >= SMALLEST_RANK:
        yield {"rank": arguments["rank"] // 2}, setting


def choose_recompute(setting: Setting, available: int) -> str:
    """The way of --recompute that computes least again among those that fit into `available` bytes; else the last."""
    for recompute in RECOMPUTE[:-1]:
        if predict(setting.changed(recompute=recompute)).needed <= available * (1 - RESERVE):
            return recompute
    return RECOMPUTE[-1]


def size(count: int) -> str:
    """Bytes for a reader."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
