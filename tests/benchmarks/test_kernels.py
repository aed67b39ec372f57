"""What can be tested of the kernel benchmark without a GPU: what it counts, whom it measures, what it refuses."""

import csv
import dataclasses
import sys
from types import SimpleNamespace

import pytest
import torch

import kernels as maple_kernels
from benchmarks import correct, elementwise, kernels, ledger, peers, plots, points, targets, timing
from benchmarks.peers import BF16, BNB, OURS, PEFT
from benchmarks.points import Elementwise, Point, convert, linear
from benchmarks.rows import Row

TINY = points.cpu_points(side=64, large=128, m=8)
LIMITS = {"GB/s": 4300.0, "TFLOP/s": 788.0}


# ------------------------------------------------------------------------------------------------- points


def test_the_list_has_at_most_400_points_and_holds_what_the_issue_names():
    chosen = points.gpu_points()
    assert len(chosen) == len(set(chosen)) <= 400
    linears = [p for p in chosen if p.operation == "linear"]
    assert {p.m for p in linears} == {2**i for i in range(14)}
    assert {p.rank for p in linears} == {0, 8, 16, 32, 64, 128}
    assert {p.bits for p in chosen} == {"nf4", "nf4 double", "int8", "16-bit"}
    assert {p.train for p in linears} == {False, True}
    assert set(points.SHAPES) <= {(p.outs[0], p.columns) for p in chosen if isinstance(p, Point)}
    between = {(p.operation, p.train) for p in chosen if isinstance(p, Elementwise)}
    assert between == {(name, train) for name in ("rms norm", "rotary", "swiglu") for train in (True, False)}


def test_every_target_is_among_the_first_points():
    aimed = {target[0] for target in targets.TARGETS}
    aimed |= {linear("nf4 double", shape, m) for shape in (points.SQUARE, points.GATE) for m in (1, 2, 4, 8, 16)}
    assert aimed <= set(points.gpu_points()[:20])


def test_the_full_grid_holds_the_formats_once_and_no_product_with_a_plain_tensor():
    grid = points.full_grid()
    assert len(grid) == len(set(grid))
    assert not [p for p in grid if p.bits == "16-bit" and not p.rank]


@pytest.mark.parametrize("bits", points.BITS)
@pytest.mark.parametrize("shape", [(96, 128), (64, 4096)], ids=str)
def test_weight_bytes_are_those_of_the_packed_weight(bits, shape):
    packed = maple_kernels.quantize(torch.randn(shape), points.BITS[bits][0], 64, points.BITS[bits][1])
    assert convert("dequantize", bits, shape).weight_bytes(bits) == packed.nbytes


def test_bytes_and_flop_by_hand():
    # 128 x 256 in int8: 32,768 + 4 * 128 = 33,280; in bf16 65,536
    assert convert("dequantize", "int8", (128, 256)).bytes() == 33_280 + 65_536
    assert convert("dequantize", "int8", (128, 256)).flop == 0
    forward = linear("int8", (128, 256), 10)
    assert forward.bytes() == 33_280 + 2 * 10 * 256 + 2 * 10 * 128
    assert forward.bytes("16-bit") == 65_536 + 5_120 + 2_560
    assert forward.bytes(size=4) == 33_280 + 10_240 + 5_120
    assert forward.flop == 2 * 10 * 128 * 256
    # and back: the weight again, dY and dX
    trained = linear("int8", (128, 256), 10, 0, True)
    assert trained.bytes() == 2 * forward.bytes() and trained.flop == 2 * forward.flop
    # A 4 x 256 and B 128 x 4 in float32: 6,144 bytes; 2 * 10 * 4 * (256 + 128) = 30,720 operations
    lora = linear("int8", (128, 256), 10, 4)
    assert lora.bytes() == forward.bytes() + 6_144 and lora.flop == forward.flop + 30_720
    # backward: A and B read, dA and dB written, x read again; G, dA, dB and dX cost twice the forward
    both = linear("int8", (128, 256), 10, 4, True)
    assert both.bytes() == trained.bytes() + 6_144 + 2 * 6_144 + 5_120
    assert both.flop == trained.flop + 3 * 30_720
    # several projections share x: it counts once, the A of each counts
    group = Point("linear", "int8", (128, 64), 256, 10, 4)
    assert group.bytes() == (33_280 + 16_640) + 4 * 4 * (2 * 256 + 192) + 2 * 10 * (256 + 192)


def test_bytes_between_the_linear_layers_by_hand():
    norm, rotary, swiglu = points.elementwise(10, 64, 32, 96, 16, False)
    assert norm.bytes() == 2 * (2 * 640 + 64)  # x, y and the weight
    assert rotary.bytes() == 2 * (2 * 960 + 160)  # q and k, in and out; half of cos and of sin
    assert swiglu.bytes(size=4) == 4 * 3 * 960
    norm, rotary, swiglu = points.elementwise(10, 64, 32, 96, 16, True)
    assert norm.bytes() == 2 * (5 * 640 + 2 * 64)  # and dY, x, the weight, dX
    assert rotary.bytes() == 2 * 2 * (2 * 960 + 160)
    assert swiglu.bytes() == 2 * 8 * 960  # and dY, gate, up, dGate, dUp
    assert (rotary.name, rotary.shape) == ("rotary forward + backward", "64+32 M=10 head=16")


def test_a_row_computes_its_rates_and_a_dense_one_counts_no_lora():
    point = linear("nf4 double", (4096, 4096), 4096, 16, True)
    row = Row(point, OURS, point.bits, [300.0, 200.0, 250.0], "graph")
    assert row.median == 250 and row.tflops == pytest.approx(point.flop / 250e-6 / 1e12)
    dense = Row(point, BF16, "16-bit", [250.0], "graph")
    assert dense.base.flop == 4 * 4096**3 and dense.bytes == 2 * (2 * 4096**2 + 2 * 2 * 4096**2)
    assert " 250.00" in row.line(LIMITS) and "graph" in row.line(LIMITS)


# ------------------------------------------------------------------------------------------------- peers


CASES = [
    linear("nf4", (64, 128), 5),
    linear("nf4 double", (64, 128), 5, 0, True),
    linear("int8", (64, 128), 5, 0, True),
    linear("nf4 double", (64, 128), 5, 4, True),
    Point("linear", "nf4", (64, 32, 32), 128, 5, 4, True),
    convert("dequantize", "nf4 double", (64, 128)),
    convert("dequantize", "int8", (64, 128)),
]


@pytest.mark.parametrize("point", CASES, ids=lambda p: f"{p.name} {p.shape}")
def test_peers_compute_what_we_compute(point):
    o = peers.operands(point, "cpu")
    providers, _ = peers.available("cpu")
    ours = peers.maple(point, o, 2)[1]()
    compared = 0
    for name in (BNB, PEFT):
        calls = providers[name](point, o, 2)
        if calls is None:
            continue
        compared += 1
        assert len(calls) == 2
        for found, expected in zip(calls[1](), ours, strict=True):  # float32; nested absmax may be a code apart
            torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())
    assert compared == 1


BETWEEN = [point for train in (False, True) for point in points.elementwise(20, 64, 32, 96, 16, train)]


@pytest.fixture
def uncompiled(monkeypatch):
    """torch.compile as far as dynamo: a compiler of C++ would take half a minute."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend="eager", **options))


@pytest.mark.parametrize("point", BETWEEN, ids=lambda p: p.name)
def test_transformers_computes_what_we_compute_between_the_linear_layers(point, uncompiled):
    o = elementwise.operands(point, "cpu")
    ours = elementwise.maple(point, o, 2)[1]()
    assert len(ours) == len(o.dys) + point.train * len(o.inputs)
    for provider in (elementwise.eager, elementwise.compiled):
        calls = provider(point, o, 2)
        assert len(calls) == 2
        for found, expected in zip(calls[1](), ours, strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("point", BETWEEN, ids=lambda p: p.name)
def test_right_results_between_the_linear_layers_pass_and_wrong_ones_do_not(point, dtype):
    o = elementwise.Operands(*([t.to(dtype) for t in ts] for ts in elementwise.operands(point, "cpu")))
    results = elementwise.maple(point, o, 1)[0]()
    fault, error = elementwise.wrong(point, o, results)
    assert fault == "" and error < (1e-6 if dtype == torch.float32 else 6e-3)
    for i, result in enumerate(results):
        spoilt = [*results[:i], result * 1.05, *results[i + 1 :]]
        assert elementwise.wrong(point, o, spoilt)[0].startswith(f"result {i + 1} of {len(results)} is off by")


def test_the_dense_peer_does_the_base_alone_and_torchao_is_named_where_it_is_missing(monkeypatch):
    point = linear("int8", (64, 128), 5, 4, True)
    o = peers.operands(point, "cpu")
    y, dx = peers.dense(point, o, 1)[0]()
    assert torch.equal(y, o.x @ o.weights[0].float().T) and dx.shape == o.x.shape
    monkeypatch.setattr(peers, "_importable", lambda module: module != "peft")
    found, missing = peers.available("cpu")
    assert PEFT not in found and missing == [f"{PEFT} is left out: peft not installed"]


def test_copies_are_distinct_and_exceed_the_cache():
    point = linear("nf4 double", (64, 128), 1)
    w = peers.packed(64, 128, "cpu", "nf4 double")
    clone = peers._clone(w)
    assert all(clone.tensors()[k].data_ptr() != t.data_ptr() for k, t in w.tensors().items())
    n = timing.copies(point.weight_bytes(point.bits), "cpu")
    assert n * point.weight_bytes(point.bits) >= 3 * timing.CPU_CACHE
    assert timing.copies(1 << 40, "cpu") == 2


# ------------------------------------------------------------------------------------------------- correctness


def with_dtype(o, dtype):
    return dataclasses.replace(o, x=o.x.to(dtype), dys=[dy.to(dtype) for dy in o.dys], weights=o.weights, a=o.a, b=o.b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("point", [*CASES, convert("quantize", "nf4", (64, 128))], ids=lambda p: f"{p.name} {p.shape}")
def test_right_results_pass_and_wrong_ones_do_not(point, dtype):
    o = with_dtype(peers.operands(point, "cpu"), dtype)
    results = peers.maple(point, o, 1)[0]()
    fault, error = correct.wrong(point, o, results)
    assert fault == ""
    if point.operation == "linear":
        assert error < (1e-6 if dtype == torch.float32 else 6e-3)
    for i, result in enumerate(results):
        spoilt = [r.clone() for r in results]
        spoilt[i] = result + 1 if point.operation == "quantize" else result * 1.05
        assert correct.wrong(point, o, spoilt)[0]
        if result.is_floating_point():
            spoilt[i].view(-1)[0] = torch.nan
            assert correct.wrong(point, o, spoilt)[0]


def test_of_a_wrong_result_no_time_is_reported(monkeypatch):
    point = linear("int8", (64, 128), 5)

    def spoilt(point, o, n):
        return [lambda call=call: [1.05 * t for t in call()] for call in peers.maple(point, o, n)]

    rows, notes = kernels.measure(point, "cpu", {OURS: spoilt, BNB: peers.bitsandbytes}, {})
    assert rows == [] and notes[0].startswith("maple is wrong, no time is reported: result 1 of 1 is off by")


def test_a_peer_that_fails_leaves_the_others_and_ours_that_fails_leaves_nothing():
    def failing(point, o, n):
        raise RuntimeError("no such\nkernel")

    point = linear("int8", (64, 128), 5)
    rows, notes = kernels.measure(point, "cpu", {OURS: peers.maple, BNB: failing}, {})
    assert [row.provider for row in rows] == [OURS] and notes == [f"{BNB} failed: RuntimeError: no such kernel"]
    assert kernels.measure(point, "cpu", {OURS: failing, BNB: peers.bitsandbytes}, {}) == (
        [],
        ["maple failed: RuntimeError: no such kernel"],
    )


# ------------------------------------------------------------------------------------------------- timing


def test_taking_turns_rotates_and_throws_the_first_round_away():
    seen = []
    calls = {"a": [lambda: seen.append("a0"), lambda: seen.append("a1")], "b": [lambda: seen.append("b")]}
    times = timing.taking_turns(calls, seconds=0)
    assert seen[:6] == ["a0", "b", "a1", "b", "a0", "b"]
    assert {len(values) for values in times.values()} == {timing.LEAST}
    assert timing.paired_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2


class FakeGPU:
    """As much of torch.cuda as timing calls: a clock that runs 10 us a kernel, graphs that hold what was captured."""

    def __init__(self, monkeypatch, capturable=True):
        self.micros, self.capturing, self.capturable, self.log = 0.0, None, capturable, []
        names = "synchronize graph_pool_handle current_device set_sync_debug_mode current_stream Stream Event CUDAGraph"
        for name in [*names.split(), "stream", "graph"]:
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *a: self.log.append("ended"), raising=False)
        timing._side_stream.cache_clear()

    synchronize = graph_pool_handle = current_device = lambda self: 0

    def set_sync_debug_mode(self, mode):
        self.log.append(mode)

    def current_stream(self):
        return SimpleNamespace(wait_stream=lambda other: None)

    Stream = current_stream

    def kernel(self):
        if self.capturing is not None:
            if not self.capturable:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.capturing.append(1)
        else:
            self.micros += 10

    def Event(self, enable_timing):
        event = SimpleNamespace(synchronize=lambda: None, at=0)
        event.record = lambda: setattr(event, "at", self.micros)
        event.elapsed_time = lambda stop: (stop.at - event.at) / 1e3
        return event

    def CUDAGraph(self):
        graph = SimpleNamespace(held=[])
        graph.replay = lambda: setattr(self, "micros", self.micros + 8 * len(graph.held))
        return graph

    def stream(self, stream):
        import contextlib

        return contextlib.nullcontext()

    def graph(self, graph, pool, stream):
        import contextlib

        @contextlib.contextmanager
        def capture():
            self.capturing = graph.held
            try:
                yield
            finally:
                self.capturing = None

        return capture()


def test_on_gpu_times_a_graph_a_call_of_it(monkeypatch):
    gpu = FakeGPU(monkeypatch)
    micros, how = timing.on_gpu([gpu.kernel] * 5)
    assert how == "graph" and timing.LEAST <= len(micros) <= timing.MOST
    assert micros == pytest.approx([8.0] * len(micros))
    assert gpu.log == ["error", "default"]
    timing._side_stream.cache_clear()


def test_on_gpu_falls_back_where_a_call_cannot_be_captured(monkeypatch):
    gpu = FakeGPU(monkeypatch, capturable=False)
    micros, how = timing.on_gpu([gpu.kernel] * 3)
    assert how == "eager" and micros == pytest.approx([10.0] * len(micros)) and gpu.log[-1] == "ended"

    def waiting():
        gpu.kernel()
        if gpu.log[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    gpu.log.append("default")
    assert timing.on_gpu([waiting] * 3)[1] == "eager" and gpu.log[-1] == "default"
    timing._side_stream.cache_clear()


def test_on_a_gpu_cublas_is_measured_once_for_all_formats(monkeypatch):
    timed = []
    monkeypatch.setattr(
        timing, "on_gpu", lambda calls: (timed.append(calls) or ([c() for c in calls] and [3.0]), "graph")
    )
    monkeypatch.setattr(timing, "copies", lambda nbytes, device: 2)
    providers, dense = {OURS: peers.maple, BF16: peers.dense, BNB: peers.bitsandbytes}, {}
    for bits in ("nf4 double", "int8"):
        point = linear(bits, (64, 128), 5)
        rows, notes = kernels._on_gpu(point, peers.operands(point, "cpu"), providers, dense)
        assert [row.provider for row in rows] == [OURS, BF16, BNB] and not notes
        assert {row.point for row in rows} == {point} and rows[1].bits == "16-bit"
    assert len(timed) == 5 and len(dense) == 1


def test_the_report_of_a_gpu_ends_with_the_targets(monkeypatch):
    def on_this_cpu(point, device):
        return with_dtype(peers.operands(point, "cpu"), torch.bfloat16)

    def on_gpu(calls):
        for call in calls:
            assert all(t.dtype in (torch.bfloat16, torch.float32) for t in call())
        return [5.0, 4.0, 6.0], "graph"

    monkeypatch.setattr(kernels, "operands", on_this_cpu)
    monkeypatch.setattr(timing, "on_gpu", on_gpu)
    monkeypatch.setattr(timing, "copies", lambda nbytes, device: 2)
    monkeypatch.setattr(timing, "limits", lambda device: LIMITS)
    chosen = [linear("nf4 double", (64, 128), 1), linear("nf4 double", (64, 128), 5, 4, True)]
    rows, _, lines, red = kernels.report(chosen, "cuda", 60)
    assert red == 0 and not [line for line in lines if "failed" in line]
    assert [row.provider for row in rows] == [OURS, BF16, BNB, OURS, BF16, PEFT]
    assert [row.ratio for row in rows] == [None, 1, 1, None, 1, 1]
    at = lines.index("targets")
    assert len(lines[at + 1 : -1]) == len(targets.TARGETS) + 3 and "not measured" in lines[at + 1]
    assert lines[-2].endswith("met") and "relative RMS error" in lines[-2]


# ------------------------------------------------------------------------------------------------- output


def test_targets_are_judged_and_what_was_not_measured_stays_empty():
    lines = targets.judged({}, {})
    assert len(lines) == len(targets.TARGETS) + 3 and {line[2:] for line in lines} == {("", "not measured")}
    square = linear("nf4 double", (4096, 4096), 1)
    trained = linear("nf4 double", (14336, 4096), 4096, 16, True)
    micros = {(square, OURS): 4.0, (square, BF16): 8.0, (trained, OURS): 109.0, (trained, BF16): 100.0}
    micros |= {(trained, PEFT): 200.0}
    found = {what: (bound, value, verdict) for what, bound, value, verdict in targets.judged(micros, {square: 1.7e-3})}
    assert found["linear nf4 double 4096x4096 M=1, us"] == ("<= 4.5", "4", "met")
    assert found["linear nf4 double 4096x4096 M=1, cuBLAS bf16 / maple"] == (">= 2.5", "2", "not met")
    name = f"{trained.name} {trained.shape}"
    assert found[f"{name}, maple / cuBLAS bf16"] == ("<= 1.1", "1.09", "met")
    assert found[f"{name}, peft + bitsandbytes / maple"] == (">= 2", "1.83", "not met")
    assert found["linear, relative RMS error, largest of M = 1..16"] == ("<= 0.002", "0.0017", "met")


def made_up_rows():
    rows = []
    for i, point in enumerate(points.gpu_points()):
        for provider, bits in ((OURS, point.bits), (BF16, "16-bit"), (BNB, point.bits)):
            if point.operation == "linear" or provider != BF16:
                rows.append(Row(point, provider, bits, [1.0 + i, 2.0 + i], "graph", 1024, error=1e-3))
    return rows


def test_both_pictures_are_drawn(tmp_path):
    written = plots.draw(made_up_rows(), LIMITS, "a made-up GPU", tmp_path)
    assert written == [f"wrote {tmp_path / name}" for name in ("roofline.png", "speedup.png")]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("roofline.png", "speedup.png"))
    assert plots.draw(made_up_rows()[:2], LIMITS, "a made-up GPU", tmp_path) == []  # nothing multiplies


def test_without_matplotlib_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    assert plots.draw([], LIMITS, "", tmp_path) == [
        "no pictures: matplotlib is not installed; pip install -e '.[plots]'"
    ]


def test_the_ledger_gets_the_time_of_every_row_and_all_of_a_target(tmp_path):
    path = tmp_path / "ledger.csv"
    rows = made_up_rows()
    kernels.keep(rows, LIMITS, ["a table"], "cpu", tmp_path)
    with path.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len([row for row in written if row["metric"] == "time"]) == len(rows)
    assert {row["kernel"] for row in written if row["provider"] == "PyTorch"} == {"limit"}
    first = rows[0]
    of_first = {r["metric"]: r for r in written if (r["kernel"], r["shape"]) == (first.point.name, first.point.shape)}
    assert set(of_first) == {"time", "bandwidth", "share of bandwidth limit", "bytes moved", "workspace"} | {
        "relative RMS error"
    }
    assert float(of_first["bandwidth"]["median"]) > 0 and of_first["time"]["unit"] == "us"
    assert (tmp_path / "kernels.txt").read_text() == "a table\n"
    assert len(written) < 2000


def test_versions_leave_out_what_is_not_installed(monkeypatch):
    def version(name):
        if name == "bitsandbytes":
            raise ledger.importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(ledger.importlib.metadata, "version", version)
    assert "torch 1" in ledger.versions() and "bitsandbytes" not in ledger.versions()


def test_the_command_runs_on_a_cpu_and_keeps_everything_in_the_folder(tmp_path, monkeypatch, capsys, uncompiled):
    monkeypatch.setattr(points, "cpu_points", lambda: TINY)
    monkeypatch.setattr(timing, "CPU_CACHE", 1 << 12)
    monkeypatch.setattr(timing, "limits", lambda device: LIMITS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["kernels", "--out", str(tmp_path)])
    before = ledger.LEDGER.read_bytes()
    kernels.main()
    out = capsys.readouterr().out
    assert all(f"{point.name} {point.shape}" in out for point in TINY) and "failed" not in out and "wrong" not in out
    assert "bitsandbytes: quantize_4bit(nf4, blocksize 64)" in out  # settings are printed
    assert out.count("  transformers  ") == out.count("  transformers, compiled  ") == 3
    assert {path.name for path in tmp_path.iterdir()} == {"kernels.txt", "ledger.csv", "roofline.png", "speedup.png"}
    assert ledger.LEDGER.read_bytes() == before


def test_what_the_budget_leaves_out_is_named_and_red_points_fail_the_command(monkeypatch, capsys):
    monkeypatch.setattr(timing, "limits", lambda device: LIMITS)
    rows, _, lines, red = kernels.report(TINY, "cpu", seconds=-1)
    assert rows == [] and red == 0
    assert f"left out, because -1 seconds are over: {len(TINY)} of {len(TINY)} points" in lines
    assert f"  {TINY[-1].name} {TINY[-1].shape}" in lines
    monkeypatch.setattr(correct.naive, "dequantize", lambda w, dtype: torch.zeros(w.shape, dtype=dtype))
    monkeypatch.setattr(points, "cpu_points", lambda: [linear("int8", (64, 64), 3)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["kernels", "--dry"])
    with pytest.raises(SystemExit, match="1 of 1 points are wrong or failed"):
        kernels.main()


def test_the_full_grid_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["kernels", "--full"])
    with pytest.raises(SystemExit) as stop:
        kernels.main()
    assert stop.value.code == 2 and "--full needs a GPU" in capsys.readouterr().err
