"""Several devices: which process has which, how they find each other, and the few numbers that they tell each other.

Lightning's strategies do the rest: DDP, with a whole model on every device, or FSDP2 (`sharded.py`), with a share.
Every process does the same work in the same order. What it writes or shows, rank 0 does; what it counts is summed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from maple import ranks
from maple.device import check_count
from maple.errors import LostError, first_line
from maple.outputs import claim, how_to_resume

# How long one process waits for another that lives: rank 0 reads and tokenises the data while the others wait. It is
# gloo's default; NCCL's would be 10 minutes.
TIMEOUT = timedelta(minutes=30)
# What gloo and NCCL say when the other end of a connection is gone, or never answers.
LOST = ("Connection", "connection", "gloo", "NCCL", "Broken pipe", "Socket", "TCPStore", "Timed out")


@contextlib.contextmanager
def joined(arguments: dict, verb: str) -> Iterator[Path]:
    """Meet the other processes; the folder of the run, which rank 0 has claimed, for the block."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    rank = ranks.here()
    device = check_count(arguments["device"], rank.local_world)
    if device.type == "cuda":
        torch.cuda.set_device(rank.local)
    cluster = environment()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = cluster.main_address, str(cluster.main_port)
    backend = "nccl" if device.type == "cuda" else "gloo"
    own = torch.device("cuda", rank.local) if device.type == "cuda" else None
    with lost_is_told(arguments, verb):
        dist.init_process_group(backend, timeout=TIMEOUT, world_size=rank.world, rank=rank.number, device_id=own)
        with contextlib.ExitStack() as stack:
            out = [str(stack.enter_context(claim(arguments["out"], arguments["resume"]))) if ranks.is_first() else ""]
            dist.broadcast_object_list(out)
            arguments["out"] = out[0]
            yield Path(out[0])
            dist.barrier()  # rank 0 still has something to write when the others are done
        dist.destroy_process_group()


@contextlib.contextmanager
def lost_is_told(arguments: dict, verb: str) -> Iterator[None]:
    """Turn what a broken connection raises, wherever it is met, into one sentence."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        out = arguments["out"]
        remedy = how_to_resume(Path(out), verb) if out else "start the run again"
        raise LostError(f"another process of the run is gone ({first_line(error)}); {remedy}") from None


def environment() -> ClusterEnvironment:
    """What Lightning asks for the place of this process.

    Of SLURM's without its requeueing: that would write checkpoints of Lightning's, pickled and with the base.
    """
    if ranks.here().world == 1:
        return LightningEnvironment()
    return SLURMEnvironment(auto_requeue=False) if "RANK" not in os.environ else TorchElasticEnvironment()


def strategy(name: str):
    """Lightning's, for `Trainer`."""
    world = ranks.here().world
    if world == 1:
        return "auto"
    if name == "fsdp":
        from lightning.pytorch.strategies import ModelParallelStrategy

        return ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1)
    from lightning.pytorch.strategies import DDPStrategy

    # The only buffers are the rotary frequencies, which are computed alike everywhere.
    return DDPStrategy(broadcast_buffers=False)


def gathered(numbers: list[float]) -> list[list[float]]:
    """Of every rank its numbers, in the order of the ranks. Every rank must ask."""
    if not dist.is_initialized():
        return [numbers]
    mine = torch.tensor(numbers, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    return [tensor.tolist() for tensor in every]


def summed(numbers: list[float]) -> list[float]:
    """The sums of the numbers over all ranks, the same on each. Every rank must ask."""
    return [sum(column) for column in zip(*gathered(numbers), strict=True)]


def most(number: float) -> float:
    """The largest of the ranks' numbers. Every rank must ask."""
    return max(row[0] for row in gathered([number]))


def together(thing: object) -> list:
    """Of every rank such a thing, in the order of the ranks. Every rank must ask."""
    if not dist.is_initialized():
        return [thing]
    things = [None] * dist.get_world_size()
    dist.all_gather_object(things, thing)
    return things


def first_then_others() -> contextlib.AbstractContextManager:
    """A block that rank 0 is done with before the others begin: what it puts into a cache they find there."""

    @contextlib.contextmanager
    def turn():
        if not ranks.is_first():
            dist.barrier()
        yield
        if ranks.is_first():
            dist.barrier()

    return turn() if dist.is_initialized() else contextlib.nullcontext()


class OwnSignals(Callback):
    """Takes SIGTERM back from Lightning, whose handler would broadcast in the middle of whatever is being sent."""

    def __init__(self):
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_validation_start(self, trainer, pl_module) -> None:
        """Behind the place where Lightning took it."""
        if ranks.here().world > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)
