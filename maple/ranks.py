"""Which of the processes of a run this is, by what torchrun or SLURM wrote into its environment, and which one speaks.

Nothing heavy is imported here: a typing error is told once, and at once, however many processes there are.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import NamedTuple

from maple.errors import InputError

LAUNCHED = "MAPLE_LAUNCHED"  # set in the processes that `devices.launch` starts, and waits for
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where torchrun's agent looks for the last words of a process
LINGER = 2  # seconds
INTERACTIVE = ("bash", "interactive")  # names of SLURM's jobs in which a user types: no process of it is one of ours


class Rank(NamedTuple):
    """The place of a process among those of a run."""

    number: int  # 0 is the one that writes and shows
    world: int  # how many there are
    local: int  # the number on this machine,
    local_world: int  # and how many there are on it


def here() -> Rank:
    """This process, as torchrun or `srun` says; alone where neither started it."""
    found = os.environ
    if "RANK" in found and "WORLD_SIZE" in found:
        world, local = int(found["WORLD_SIZE"]), int(found.get("LOCAL_RANK", found["RANK"]))
        return Rank(int(found["RANK"]), world, local, int(found.get("LOCAL_WORLD_SIZE", world)))
    if of_slurm():
        world = int(found["SLURM_NTASKS"])
        local_world = int(found.get("SLURM_NTASKS_PER_NODE", world))
        return Rank(int(found["SLURM_PROCID"]), world, int(found["SLURM_LOCALID"]), local_world)
    return Rank(0, 1, 0, 1)


def forget() -> None:
    """Have this process be alone: who started it was one of several, but it is not."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID"):
        os.environ.pop(name, None)


def of_slurm() -> bool:
    """Whether `srun` started this process as one of several."""
    several = int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ
    return several and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def is_first() -> bool:
    """Whether this process writes and shows: all do the same work, and one of them says so."""
    return here().number == 0


def cores() -> int:
    """How many this process may use; where the system does not say, all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_world(arguments: dict) -> None:
    """Fill in --devices. Raises InputError where others were started than are asked for."""
    world, asked = here().world, arguments["devices"]
    if world > 1 and asked not in (None, world):
        starter = "SLURM" if of_slurm() else "torchrun"
        raise InputError(
            f"--devices is {asked}, but {starter} started {world} processes; give {world}, or leave it away"
        )
    if of_slurm() and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise InputError(f"SLURM was asked for --ntasks={world}; ask for --ntasks-per-node, which says where they are")
    arguments["devices"] = asked or world


def check_devices(arguments: dict) -> None:
    """Fill in --devices for training. Raises InputError for what does not go together."""
    check_world(arguments)
    devices, strategy = arguments["devices"], arguments["strategy"]
    if devices == 1 and strategy != "auto":
        raise InputError(f"--strategy {strategy} is for several devices; add --devices, or leave it away")
    if strategy == "fsdp" and arguments["rank"] < devices:
        raise InputError(
            f"--strategy fsdp cannot share A, of --rank {arguments['rank']} rows, among {devices} devices; give a rank "
            f"of {devices} or more, or --strategy ddp"
        )


def is_to_say(message: str) -> bool:
    """Whether this process has to say how the run ends; one does, and where we started them, who started them."""
    if LAUNCHED in os.environ:
        with open(os.environ[ERROR_FILE], "w", encoding="utf-8") as file:
            json.dump({"message": message, "timestamp": int(time.time())}, file)
        return False
    return here().world == 1 or _is_first_to_end()


def _is_first_to_end() -> bool:
    """By a counter in the store through which the processes met; before they do, the first on each machine."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return here().local == 0
    try:
        store = distributed.distributed_c10d._get_default_store()
        first, until = store.add("maple/ended", 1) == 1, time.monotonic() + LINGER
        # The store may be in rank 0's process: the others are to find it, if they end for the same reason.
        while here().number == 0 and store.add("maple/ended", 0) < here().world and time.monotonic() < until:
            time.sleep(0.05)
    except RuntimeError:  # it went with that process, which was killed and said nothing
        return here().number == 1
    return first
