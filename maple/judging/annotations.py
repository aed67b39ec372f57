"""AlpacaEval's two files: what a model answered, and what a judge preferred.

    model_outputs.json   [{dataset, instruction, output, generator}, ...]
    annotations.json     [{instruction, output_1, generator_1, dataset, output_2, generator_2, annotator, preference,
                           price_per_example, time_per_example[, raw_completion]}, ...]

output_1 is the reference's answer, output_2 the model's. A preference of 1 means that the reference is better, 2 that
the model is; between them lies what a judge gives by its probabilities, 1.5 is a draw, which older files write as 0;
null is a verdict that could not be read, and counts for nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from maple.durable import replace_file
from maple.errors import InputError, shown
from maple.jsonfile import read_array

DRAW = 1.5


@dataclass(frozen=True, slots=True)
class Output:
    """One answer; `generator` is the name of who gave it, `dataset` the part of the set that asked."""

    dataset: str
    instruction: str
    output: str
    generator: str


@dataclass(frozen=True, slots=True)
class Annotation:
    """One verdict on two answers; the price in dollars and the time in seconds are None where nobody was asked."""

    instruction: str
    output_1: str
    generator_1: str
    dataset: str
    output_2: str
    generator_2: str
    annotator: str
    preference: float | None
    price_per_example: float | None = None
    time_per_example: float | None = None
    raw_completion: object = None  # the judge's own words: text, or an object with log-probabilities


def read_outputs(path: Path) -> list[Output]:
    """All answers of a file. Raises InputError naming the file and the record, counted from 1, that is none."""
    return [Output(**_texts(record, Output, where)) for record, where in _records(path)]


def write_outputs(path: Path, outputs: Iterable[Output]) -> None:
    """Write answers as a file that is whole or not there."""
    _write(path, (asdict(output) for output in outputs))


def read_annotations(path: Path) -> list[Annotation]:
    """All verdicts of a file. Raises InputError naming the file and the record, counted from 1, that is none."""
    return [
        Annotation(
            **_texts(record, Annotation, where),
            preference=_preference(record, where),
            # Newer versions of alpaca_eval put the name of what is annotated before these three.
            price_per_example=_number(record, "price_per_example", where),
            time_per_example=_number(record, "time_per_example", where),
            raw_completion=record.get("raw_completion", record.get("preference_raw_completion")),
        )
        for record, where in _records(path)
    ]


def write_annotations(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write verdicts as a file that is whole or not there."""
    records = (asdict(annotation) for annotation in annotations)
    _write(
        path, ({key: value for key, value in r.items() if (key, value) != ("raw_completion", None)} for r in records)
    )


def references(annotations: Iterable[Annotation]) -> list[Output]:
    """The reference's answers that were judged against.

    AlpacaEval 1 never published them otherwise: results/text_davinci_003/model_outputs.json holds others.
    """
    return [Output(a.dataset, a.instruction, a.output_1, a.generator_1) for a in annotations]


def share(preference: float) -> float:
    """How much of a win a preference is: 0 a loss, 1 a win."""
    return (preference or DRAW) - 1


def _records(path: Path) -> Iterable[tuple[dict, str]]:
    records = read_array(path)
    if not records:
        raise InputError(f"{path}: the file holds no record")
    for number, record in enumerate(records, start=1):
        where = f"{path}: record {number}"
        if not isinstance(record, dict):
            raise InputError(f"{where}: not an object")
        yield record, where


def _texts(record: dict, kind: type, where: str) -> dict[str, str]:
    """The fields of a record that are text in `kind`, each looked at."""
    names = [name for name, annotation in kind.__annotations__.items() if annotation == "str"]
    for name in names:
        if not isinstance(record.get(name), str):
            found = shown(record[name]) if name in record else "nothing"
            raise InputError(f"{where}: {name!r} must be text, found {found}")
        try:
            record[name].encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{where}: {name!r} holds half of a surrogate pair at character {error.start}") from error
    return {name: record[name] for name in names}


def _preference(record: dict, where: str) -> float | None:
    if "preference" not in record:
        raise InputError(f"{where}: 'preference' is missing")
    value = record["preference"]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if type(value) not in (int, float) or not (value == 0 or 1 <= value <= 2):
        raise InputError(f"{where}: 'preference' is {shown(value)}; it is 0, null, or between 1 and 2")
    return float(value)


def _number(record: dict, name: str, where: str) -> float | None:
    value = record.get(name, record.get(f"preference_{name}"))
    if value is None or (type(value) is float and math.isnan(value)):
        return None
    if type(value) not in (int, float) or not 0 <= value < 1e9:
        raise InputError(f"{where}: {name!r} must be a number of dollars or seconds, or null, found {shown(value)}")
    return float(value)


def _write(path: Path, records: Iterable[dict]) -> None:
    # ASCII, as AlpacaEval's own are: half of a surrogate pair, which a server may send, could not be written otherwise.
    replace_file(path, json.dumps(list(records), indent=2) + "\n")
