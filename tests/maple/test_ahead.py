"""Reading ahead: in order, one at a time, errors in their place; pages of files that come and go."""

import contextlib
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from maple import ahead as module
from maple.ahead import PIECE, PinnedReceiver, Receiver, Stream, ahead, give_back, make_resident
from maple.shards import Shards

CPU = torch.device("cpu")


def test_items_come_in_order_from_a_thread_that_is_one_ahead():
    made, threads = [], set()

    def source():
        for number in range(5):
            made.append(number)
            threads.add(threading.get_ident())
            yield number

    for number in ahead(source()):
        assert len(made) <= number + 2
    assert made == [0, 1, 2, 3, 4] and threading.get_ident() not in threads


def test_an_error_comes_where_its_item_would_have():
    def source():
        yield 1
        raise OSError("the disk is gone")

    items = ahead(source())
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)


def test_nobody_reads_on_when_no_more_is_wanted():
    before, made = threading.active_count(), []
    with contextlib.closing(ahead(made.append(number) or number for number in range(100))) as items:
        next(items)
    assert len(made) <= 3 and threading.active_count() == before


def mapped(path: Path) -> int:
    """Bytes of a file that are in this process' memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def test_pages_are_there_before_they_are_asked_for_and_gone_when_they_were_used(tmp_path):
    size = 32 << 20
    save_file({name: torch.randn(size // 4) for name in "abc"}, tmp_path / "model.safetensors")
    shards, file = Shards(tmp_path), tmp_path / "model.safetensors"
    tensor = shards.get("a")
    make_resident(tensor)
    assert mapped(file) >= size
    copied = tensor.clone()
    give_back(tensor)
    assert mapped(file) < 0.1 * size
    assert torch.equal(tensor, copied)  # they only come from the file again
    give_back(tensor)
    read = []
    with contextlib.closing(Stream(shards, ["a", "b", "c"], CPU, read.append)) as stream:
        for name in "abc":
            assert torch.equal(stream.take(name)[:9], shards.get(name)[:9])
            assert mapped(file) < 2.1 * size  # one in work, and the next
    assert mapped(file) < 0.1 * size and read == [size] * 3


@pytest.mark.parametrize("count", [0, 1, PIECE, 2 * PIECE + 5])
@pytest.mark.parametrize("pinned", [False, True], ids=["cpu", "gpu, played"])
def test_bytes_arrive_in_their_order(count, pinned, monkeypatch):
    """For a GPU its calls are played: every buffer is waited for before it is filled again."""
    events = [SimpleNamespace(calls=[]) for _ in range(2)]
    for event in events:
        event.synchronize = lambda e=event: e.calls.append("wait")
        event.record = lambda e=event: e.calls.append("record")
    receive = Receiver(CPU)
    if pinned:
        receive = object.__new__(PinnedReceiver)
        receive.device, receive.stream = CPU, SimpleNamespace(record_event=lambda: "done")
        receive.buffers = [(torch.empty(PIECE, dtype=torch.uint8), event) for event in events]
        monkeypatch.setattr(module.torch.cuda, "stream", lambda _: contextlib.nullcontext())
    data = torch.randint(256, (count,), dtype=torch.uint8)
    pieces = iter(data.split(PIECE))
    found, done = receive(count, lambda piece: piece.copy_(next(pieces)))
    assert torch.equal(found, data) and done == ("done" if pinned else None)
    if pinned:
        calls = [event.calls for event in events]
        assert sum(map(len, calls)) == 2 * len(data.split(PIECE))
        assert all(c == ["wait", "record"] * (len(c) // 2) for c in calls)
