"""What local files a cell was made of: it is not run again, so somebody must see when they have changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from maple import tiny
from maple.cells.cell import CELL, Cell
from maple.data.published import PUBLISHED
from maple.data.sources import find_files
from maple.durable import file_sha256, replace_file
from maple.errors import InputError
from maple.hub import looks_like_folder
from maple.jsonfile import read_object
from maple.tiny import records


def content(cell: Cell) -> dict[str, dict[str, Any]]:
    """Hashes of data files and of the model's config.json, sizes of its weights; a hub id has a revision."""
    found: dict[str, dict[str, Any]] = {}
    model, data = cell.fit["model"], cell.fit.get("data")
    if model != tiny.NAME and looks_like_folder(model):
        folder = Path(os.path.expanduser(model))
        found["model"] = {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
        found["model"]["config.json"] = file_sha256(folder / "config.json")
    if data is not None and data.partition("@")[0] not in PUBLISHED and data not in records.SETS:
        paths = [path for files in find_files(data).values() for path in files.values()]
        found["data"] = {path.name: file_sha256(path) for path in paths}
    return found


def note(cell: Cell, folder: Path, evaluate: dict[str, Any]) -> None:
    """Write cell.json."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"fit": cell.fit, "evaluate": evaluate, "content": content(cell)}
    replace_file(folder / CELL, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def changed(cell: Cell, folder: Path) -> str | None:
    """What is no longer as it was when a cell was made, in a sentence; None where nothing is."""
    if not (folder / CELL).is_file():
        return None
    try:
        before = read_object(folder / CELL).get("content")
    except InputError as error:
        return f"{error}; delete {folder} to run the cell again"
    for kind, files in content(cell).items():
        earlier = before.get(kind) if isinstance(before, dict) else None
        if earlier != files:
            names = sorted(name for name in {*files, *(earlier or {})} if files.get(name) != (earlier or {}).get(name))
            return (
                f"{cell.name} was made with another --{kind} {cell.fit[kind]} ({', '.join(names[:5])} changed since); "
                "bring it back, or give another --out"
            )
    return None
