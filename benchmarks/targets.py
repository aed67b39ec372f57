"""What the kernels are meant to reach on an H200, and whether a run of benchmarks.kernels reached it."""

from __future__ import annotations

from benchmarks.points import DOWN, GATE, GATE_UP, SQUARE, Point, convert, linear

OURS, BF16, PEFT = "maple", "cuBLAS bf16", "peft + bitsandbytes"
TRAINED = linear("nf4 double", GATE, 4096, 16, True)

TARGETS = [  # (point, what is measured, its sign and bound)
    (convert("dequantize", "nf4 double", DOWN), (OURS,), "<=", 40),
    (linear("nf4 double", (8192, 8192), 1), (OURS,), "<=", 11),
    (linear("nf4 double", GATE_UP, 1), (OURS,), "<=", 18),
    (linear("nf4 double", SQUARE, 1), (OURS,), "<=", 4.5),
    *(
        (linear("nf4 double", shape, m), (BF16, OURS), ">=", bound)
        for shape in (SQUARE, GATE)
        for m, bound in ((1, 2.5), (16, 2.5), (64, 1.6), (128, 1.1))
    ),
    (linear("nf4 double", GATE, 4096), (OURS, BF16), "<=", 1.06),
    (TRAINED, (OURS, BF16), "<=", 1.10),  # BF16 of a LoRA layer is its base alone: F.linear, and dX
    (TRAINED, (PEFT, OURS), ">=", 2),
]
FLAT = 1.15  # "flat from M = 1 to 16": the bytes grow by 2 to 3 %, the rest allows for 16 columns beside one
ERROR = 2.0e-3  # relative RMS after bf16 output; dequantise + matmul makes 2.3e-3


def judged(micros: dict[tuple[Point, str], float], errors: dict[Point, float]) -> list[tuple[str, str, str, str]]:
    """(target, bound, measured, verdict) from median microseconds and relative errors; empty what was not measured."""
    lines = []
    for point, providers, sign, bound in TARGETS:
        times = [micros.get((point, provider)) for provider in providers]
        found = None if None in times else times[0] if len(times) == 1 else times[0] / times[1]
        what = " / ".join(providers) if len(times) > 1 else "us"
        lines.append((f"{point.name} {point.shape}, {what}", found, sign, bound))
    for shape in (SQUARE, GATE):
        times = [micros.get((linear("nf4 double", shape, m), OURS)) for m in (1, 2, 4, 8, 16)]
        found = None if None in times else max(times) / times[0]
        lines.append((f"linear nf4 double {shape[0]}x{shape[1]}, slowest of M = 1..16 / M = 1", found, "<=", FLAT))
    small = [e for p, e in errors.items() if p.operation == "linear" and p.m <= 16 and not p.rank and not p.train]
    lines.append(("linear, relative RMS error, largest of M = 1..16", max(small, default=None), "<=", ERROR))
    return [
        (what, f"{sign} {bound:g}", "" if found is None else f"{found:.3g}", _verdict(found, sign, bound))
        for what, found, sign, bound in lines
    ]


def _verdict(found: float | None, sign: str, bound: float) -> str:
    if found is None:
        return "not measured"
    return "met" if (found <= bound if sign == "<=" else found >= bound) else "not met"
