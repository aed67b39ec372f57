"""A folder of instructions small enough for runs of a second."""

import json
from pathlib import Path

from maple.tiny.records import instructions


def write_tiny_data(folder: Path, languages: tuple[str, ...], count: int) -> Path:
    """The first `count` training records of each language of the embedded world, as <lang>.jsonl."""
    folder.mkdir()
    for language in languages:
        records = instructions("tiny", language)[0][:count]
        lines = [json.dumps({"instruction": r.instruction, "input": r.input, "output": r.output}) for r in records]
        (folder / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
