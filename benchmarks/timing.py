"""How long a call takes, when every call finds its weight in memory and not in a cache.

On a GPU a call of a few microseconds drowns in the cost of launching it from Python, and the L2 keeps the weight of the
call before. So the caller hands over one call for each of several copies of the weight; these are captured in one CUDA
graph, whose replays are timed with events. What cannot be captured is timed from Python, and said so.

On a CPU the providers take turns, round by round: on a machine whose speed drifts, only neighbours in time can be
compared.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable

import torch

INTERVAL_MS = 1.0  # at least, between two events: a thousand times what an event resolves, and the gap before a replay
SECONDS = 0.04  # of replays for one provider of one point
LEAST, MOST = 7, 40  # timed intervals, whatever the time: 20 % quantiles need a few, more than 40 add nothing
ROTATION = 3  # copies of a weight exceed the cache this many times
CPU_CACHE = 32 << 20  # what two cores can expect of a shared last-level cache

_spoilt = []  # graphs whose capture failed: the allocator may still ask them, so they must stay


def copies(nbytes: int, device: str) -> int:
    """Of a weight of `nbytes`, so that each is out of the cache when its turn comes again."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device == "cuda" else CPU_CACHE
    return max(2, -(-ROTATION * cache // nbytes))


def taking_turns(calls: dict[str, list[Callable]], seconds: float = 2.5) -> dict[str, list[float]]:
    """Microseconds of each provider in rounds in which all take turns; the first round is thrown away."""
    micros, begin, turn = {name: [] for name in calls}, time.perf_counter(), 0
    while turn <= LEAST or (turn <= MOST and time.perf_counter() - begin < seconds):
        for name, rotation in calls.items():
            start = time.perf_counter()
            rotation[turn % len(rotation)]()
            micros[name].append(1e6 * (time.perf_counter() - start))
        turn += 1
    return {name: times[1:] for name, times in micros.items()}


def paired_ratio(theirs: list[float], ours: list[float]) -> float:
    """The median of the ratios of the rounds: above 1 we are faster."""
    return statistics.median(their / our for their, our in zip(theirs, ours, strict=True))


@functools.cache
def _side_stream():
    return torch.cuda.Stream()  # one for all: cuBLAS keeps a workspace for each stream


def on_gpu(calls: list[Callable]) -> tuple[list[float], str]:
    """(microseconds a call, "graph" or "eager")."""
    stream = _side_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # also puts the stream back where a failed capture leaves it
        for call in [calls[0], *calls]:  # kernels are compiled and tuned here, libraries make their handles
            call()
        graph = _capture(calls, stream)
        micros = _replays([graph.replay] if graph else calls, len(calls))
    torch.cuda.current_stream().wait_stream(stream)
    return micros, "graph" if graph else "eager"


def _capture(calls: list[Callable], stream) -> torch.cuda.CUDAGraph | None:
    """One graph that makes all calls, or None where a call waits for the GPU, which no graph can hold."""
    torch.cuda.synchronize()
    # Asked before, because a capture that fails leaves the allocator of the whole process in the middle of one.
    torch.cuda.set_sync_debug_mode("error")
    try:
        calls[0]()
    except RuntimeError:
        return None
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            for call in calls:
                call()
    except RuntimeError:
        _spoilt.append(graph)
        # What the end of a capture does and a failed one does not reach; an error says that this one did.
        with contextlib.suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        return None
    return graph


def _replays(run: list[Callable], calls: int) -> list[float]:
    """Microseconds a call of `calls` made by all of `run`, one value an interval between two events."""

    def interval(times: int) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for function in run * times:
            function()
        stop.record()
        return start, stop

    def milliseconds(pair) -> float:
        pair[1].synchronize()
        return pair[0].elapsed_time(pair[1])

    once = max(milliseconds(interval(1)), 1e-3)
    inner = max(1, round(INTERVAL_MS / once))
    count = min(MOST, max(LEAST, int(1e3 * SECONDS / (inner * once))))
    pairs = [interval(inner) for _ in range(count)]
    return [1e3 * milliseconds(pair) / inner / calls for pair in pairs]


def workspace(call: Callable) -> int | None:
    """Bytes of GPU memory that one call needs at its peak beside its operands and its results; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = call()
    torch.cuda.synchronize()
    return max(0, torch.cuda.max_memory_allocated() - before - sum(tensor.nbytes for tensor in results))


def limits(device: str) -> dict[str, float]:
    """What this machine reaches now: "GB/s" of a large copy, read and written, and "TFLOP/s" of a large product."""
    gpu = device == "cuda"
    side, dtype, numel = (8192, torch.bfloat16, 1 << 29) if gpu else (2048, torch.float32, 1 << 26)
    source = torch.randn(numel, device=device).to(torch.bfloat16)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    work = {"GB/s": lambda: target.copy_(source), "TFLOP/s": lambda: torch.mm(a, b, out=out)}
    if gpu:
        micros = {name: on_gpu([call])[0] for name, call in work.items()}
    else:
        micros = taking_turns({name: [call] for name, call in work.items()})
    amount = {"GB/s": 2 * source.nbytes / 1e9, "TFLOP/s": 2 * side**3 / 1e12}
    return {name: amount[name] / (1e-6 * statistics.median(times)) for name, times in micros.items()}
