"""Studies of two languages and four steps."""

from pathlib import Path

import yaml

from maple import cli
from maple.cells.grid import plan, read_study
from maple.cells.job import Job
from maple.study import study

FIT = {"max_steps": 4, "batch_tokens": 256, "max_length": 128, "recompute": "none", "device": "cpu", "targets": "qv"}
EVALUATE = {"tasks": "xnli,xquad", "languages": "en,it", "limit": 2}
GRID = {"rank": [1, 4]}


def write(folder: Path, data: str, name: str = "study.yaml", **sections) -> Path:
    """The YAML of a study; `sections` lie over what stands above, fit and evaluate flag by flag."""
    config = {"fit": {"data": data, **FIT}, "grid": GRID, "evaluate": EVALUATE}
    for section, value in sections.items():
        config[section] = config[section] | value if section in ("fit", "evaluate") else value
    path = folder / name
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def run(config: Path | None, out: Path, *flags: str) -> int:
    """Exit code of the command in this process."""
    try:
        cli.main(study, [*(["--config", str(config)] if config else []), "--out", str(out), *flags])
    except SystemExit as leaving:
        return leaving.code


def jobs_in(out: Path) -> list[Job]:
    """The jobs of a study, in their order."""
    settled = plan(read_study(out / "study.yaml"))
    return [Job(out, cell, settled.evaluate, settled.bookkeeping) for cell in settled.cells]


def job_of(out: Path, rank: int) -> Job:
    """The first of a rank; 0 is a base."""
    return next(job for job in jobs_in(out) if job.cell.rank == rank)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files of a folder, and when they were written."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
