"""Run a grid of ranks, bits, data sets and models: train every cell and score it on the tasks.

    python -m maple.study --config configs/study-tiny.yaml --out runs/study
    python -m maple.study --status runs/study
    python -m maple.study --config configs/study-paper.yaml --out study --engine ray --address auto

The same command again goes on with what is not finished, and so does one whose file has another rank, task or language
in it. What a study's file holds stands in maple/cells/grid.py, what it leaves in the README.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from maple import cli, ranks
from maple.cells.cell import STUDY
from maple.cells.grid import plan, read_study
from maple.cells.job import Job
from maple.errors import InputError
from maple.lock import NAME as LOCK
from maple.outputs import check_out


def study(
    config: str | None = None,
    out: str | None = None,
    status: str | None = None,
    engine: Literal["here", "ray"] = "here",
    address: str | None = None,
    cores: int | None = None,
    retry: bool = False,
) -> None:
    """Train and score every cell of a grid of models, data sets, ranks and bits.

    config: YAML file of the study; by default the one that --out was begun with
    out: folder of the study; what is finished in it is not run again
    status: show how far the study in this folder is, and do nothing else
    engine: here works on one cell after the other in this process, ray on as many as a cluster has room for
    address: of a Ray cluster that is there, as auto or host:6379; by default one is started on this machine
    cores: of the CPU for each cell; by default all of this machine
    retry: try cells again that failed
    """
    if status is not None:
        show_status(status)
        return
    ranks.forget()  # a study in a job of SLURM's is one process, however many tasks the job has
    folder = check_folder(out)
    if config is None and not (folder / STUDY).is_file():
        raise InputError("give --config, as --config configs/study-tiny.yaml")
    if address is not None and engine != "ray":
        raise InputError(f"--address {address} belongs to --engine ray")
    if cores is not None and not 1 <= cores <= 1024:
        raise InputError(f"--cores is {cores}, must be from 1 to 1024")
    source = Path(os.path.expanduser(config)) if config is not None else folder / STUDY
    found = read_study(source)
    settled = plan(found)
    from maple.cells.driver import Driver

    Driver(found, settled, folder, cores, retry).go(choose_engine(engine, address, folder))


def check_folder(out: str | None) -> Path:
    """Where the study lies. Raises InputError for a folder that holds something else."""
    if out is None:
        raise InputError("give --out, the folder of the study; the same folder again goes on with it")
    folder = Path(os.path.expanduser(out))
    if not folder.is_dir():
        check_out(out)
    elif not (folder / STUDY).is_file() and any(not _is_left(path.name) for path in folder.iterdir()):
        raise InputError(f"--out {out} is not empty and holds no study; give a new folder")
    return folder


def _is_left(name: str) -> bool:
    """Whether a file is what a study leaves that was killed before its first file was whole."""
    return name == LOCK or name.startswith(f".{STUDY}.")


def show_status(status: str) -> None:
    """How far a study is."""
    folder = Path(os.path.expanduser(status))
    if not (folder / STUDY).is_file():
        raise InputError(f"--status {status}: there is no {STUDY} in it, so it is no study")
    from rich.console import Console

    from maple.cells.view import show

    settled = plan(read_study(folder / STUDY), look=False)
    jobs = [Job(folder.absolute(), cell, settled.evaluate, settled.bookkeeping) for cell in settled.cells]
    show(Console(highlight=False), jobs)


def choose_engine(engine: str, address: str | None, folder: Path):
    """The engine of that name. Raises InputError where Ray is not installed."""
    if engine == "ray":
        from maple.cells.on_ray import OnRay

        return OnRay(address, folder.absolute())
    from maple.cells.engine import Here

    return Here()


if __name__ == "__main__":
    cli.main(study)
