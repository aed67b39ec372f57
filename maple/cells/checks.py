"""What `maple.check` finds of the cells of a study, before the first of them is begun.

Cells that differ in nothing that can go wrong are looked at once: the largest rank of each model, data and bits stands
for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from maple.cells.cell import Cell
from maple.cells.grid import defaults_of
from maple.cells.job import Job
from maple.checks import Checks
from maple.fit import fit
from maple.lora import match_targets
from maple.model import empty_model
from maple.quiet import quieten
from maple.weights import linear_shapes

# What may differ between cells that are looked at together: the memory of a step grows with the rank alone.
TOGETHER = ("rank", "alpha", "rslora", "seed", "lr", "schedule", "warmup_steps", "max_steps", "epochs", "dropout")


@dataclass(frozen=True)
class Found:
    """Of a group of cells."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    memory: int = 0  # bytes that a step takes, as predicted; of a GPU where it runs on one
    on_gpu: bool = False
    recompute: str | None = None  # the same for all of the group, so that their speeds can be compared
    per_rank: int = 0  # bytes of an adapter for each of its ranks


def groups(jobs: Sequence[Job]) -> dict[tuple, Job]:
    """The job of each group that stands for it, by `group`."""
    return {group(job.cell): job for job in sorted(jobs, key=lambda job: job.cell.rank) if job.cell.rank}


def group(cell: Cell) -> tuple:
    """All flags but those that differ within one."""
    return tuple((name, value) for name, value in sorted(cell.fit.items()) if name not in TOGETHER)


def look(job: Job) -> Found:
    """Problems with model, data, memory and disk of a group; what is odd about its rank."""
    quieten()
    cell = job.cell
    arguments = defaults_of(fit) | {name: value for name, value in cell.fit.items() if value is not None}
    arguments["out"] = str(job.folder / "of the group")  # which is never made: the disk is looked at, and who may write
    checks = Checks(arguments, quiet=True)
    problems = checks.run()
    warnings = []
    if checks.config is not None and not problems:
        shapes = linear_shapes(empty_model(checks.config))
        smallest = min(min(shapes[path]) for path in match_targets(list(shapes), cell.fit["targets"]))
        if cell.rank > smallest:
            warnings.append(
                f"rank {cell.rank} is more than {smallest}, the smallest dimension of a layer of {cell.fit['model']}: "
                "there a rank of that can change as much"
            )
    memory = checks.predicted.resident if checks.predicted else 0
    per_rank = checks.adapter_bytes // cell.rank
    return Found(problems, warnings, memory, checks.device == "cuda", checks.recompute, per_rank)
