"""A study's YAML file, and the cells that it amounts to.

    title: Rank and bits                 # of the report
    fit: {model: tiny, data: tiny}       # flags of maple.fit that all cells have
    grid: {rank: [8, 32], bits: [4, 8]}  # every combination of these
    slices:                              # further combinations, each over `fit`
      - {rank: [8, 32], alpha: 16}
    evaluate: {tasks: "xnli,xquad"}      # flags of maple.evaluate, the same for all cells

Unless a cell says otherwise alpha is its rank: LoRA is scaled by alpha / rank, so along a sweep of ranks the scaling
stays 1 and rank is all that changes. Beside the grid every base is scored as it is, in each of its bits.

Nothing here imports torch: what is wrong is told at once, and all of it.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maple import cli
from maple.cells.cell import BASE_FLAGS, Cell, known_as
from maple.data.sources import check_data
from maple.errors import InputError, nearest, refuse, shown
from maple.evaluate import check_ranges as check_evaluate_ranges
from maple.evaluate import evaluate
from maple.evaluation.plan import make_plan
from maple.fit import apply_recipe, check_ranges, fit
from maple.flatyaml import LARGEST, Parser
from maple.hub import check_model_name
from maple.ranks import check_devices

SECTIONS = ("title", "fit", "grid", "slices", "evaluate")
DEEPEST = 4  # slices > one of them > a flag > its values
MOST = 10_000  # cells; the paper's grid has 120
UNTRACED = ("out", "resume", "logger", "checkpoint_every")  # nothing that is measured depends on them
ITS_OWN = "the study itself decides that"
OF_THE_CELL = "that is the cell's; give it under fit or grid"
OWN = {  # flags that a section does not take
    "fit": dict.fromkeys(("out", "resume"), ITS_OWN),
    "evaluate": dict.fromkeys(("adapter", "out", "resume"), ITS_OWN)
    | dict.fromkeys(("model", "revision", "bits", "template", "device", "precision"), OF_THE_CELL),
}


def read_study(path: Path) -> dict[str, Any]:
    """The YAML of a study as it is written. Raises InputError for a file that is none, with its line."""
    try:
        if not path.is_file():  # nor is a pipe or a device
            raise InputError(f"{path}: there is no such file")
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path}: more than {LARGEST} bytes, which no study has")
        text = path.read_text(encoding="utf-8-sig")
        _check_plain(text)
        config = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        raise InputError(f"{path}{f':{mark.line + 1}' if mark else ''} is not YAML of a study: {reason}") from error
    refuse([f"{path}: {problem}" for problem in _misshapen(config)])
    return config


def _check_plain(text: str) -> None:
    """Raise YAMLError for what expands or nests without end, and for a key that is there twice."""
    keys: list[set[str] | None] = []  # of the mappings that are open; None is a list
    expected: list[bool] = []  # whether the next scalar is a key
    for event in yaml.parse(text, Loader=Parser):
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(
                problem="an anchor, alias or tag, of which it needs none", problem_mark=event.start_mark
            )
        if isinstance(event, yaml.ScalarEvent) and keys and expected[-1]:
            if event.value in keys[-1]:
                raise yaml.MarkedYAMLError(problem=f"{event.value} is there twice", problem_mark=event.start_mark)
            keys[-1].add(event.value)
        if isinstance(event, yaml.NodeEvent) and keys and keys[-1] is not None:
            expected[-1] = not expected[-1]
        if isinstance(event, yaml.CollectionStartEvent):
            keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            expected.append(keys[-1] is not None)
            if len(keys) > DEEPEST:
                raise yaml.MarkedYAMLError(problem="nested deeper than a study is", problem_mark=event.start_mark)
        if isinstance(event, yaml.CollectionEndEvent):
            keys.pop()
            expected.pop()


def _misshapen(config: object) -> Iterator[str]:
    """What is not a section, and what in a section is not flags."""
    if not isinstance(config, dict) or not config:
        yield f"a study has the sections {', '.join(SECTIONS)}; this is {shown(config)}"
        return
    for name in config:
        if name not in SECTIONS:
            yield f"unknown section {shown(name)}{nearest(str(name)[:80], SECTIONS)}"
    if not isinstance(config.get("title", ""), str):
        yield f"title is {shown(config['title'])}, expected text"
    slices = config.get("slices", [])
    if not isinstance(slices, list):
        yield f"slices is {shown(slices)}, expected a list of combinations"
        slices = []
    named = [(name, config.get(name, {}), name == "grid") for name in ("fit", "grid", "evaluate")]
    named += [(f"slices[{number}]", one, True) for number, one in enumerate(slices)]
    for name, flags, many in named:
        if not isinstance(flags, dict):
            yield f"{name} is {shown(flags)}, expected flags and their values"
            continue
        for flag, value in flags.items():
            values = value if many and isinstance(value, list) else [value]
            if not values:
                yield f"{name}.{flag} is an empty list"
            for wrong in [one for one in values if isinstance(one, (dict, list))][:1]:
                yield f"{name}.{flag} is {shown(wrong)}, expected {'plain values' if many else 'one plain value'}"
        spelt = [str(flag).replace("-", "_") for flag in flags]
        for flag in dict.fromkeys(flag for flag in spelt if spelt.count(flag) > 1):
            yield f"{name}.{flag} is there twice"
    if not config.get("grid") and not slices:
        yield "there is no grid and no slices, so there is no cell; as grid: {rank: [8, 32], bits: [4, 8]}"


def defaults_of(verb) -> dict[str, Any]:
    """What every flag of a verb is when it is not given."""
    return {name: parameter.default for name, parameter in inspect.signature(verb).parameters.items()}


class Flags:
    """YAML's values as the flags of a verb take them, each looked at once."""

    def __init__(self, verb, refused: dict[str, str], check_ranges):
        self.verb, self.refused, self.check_ranges = verb, refused, check_ranges
        self.defaults = defaults_of(verb)
        self.found: dict[tuple[str, str], Any] = {}
        self.problems: list[str] = []

    def typed(self, section: str, name: object, value: object) -> dict[str, Any]:
        """{flag: value}; empty, with a problem noted, for what the verb would refuse."""
        flag = str(name).replace("-", "_")
        where = f"{section}.{shown(name)[:80].strip(chr(39))}"
        if flag not in self.defaults:
            self.note(f"{where}: unknown flag{nearest(flag[:80], self.defaults)}")
        elif flag in self.refused:
            self.note(f"{where}: {self.refused[flag]}")
        elif (key := (flag, repr(value))) in self.found:
            return {flag: self.found[key]}
        else:
            try:
                found = cli.parse(self.verb, cli.written({flag: value}))[flag]
                self.check_ranges(self.defaults | {flag: found})
                self.found[key] = found
                return {flag: found}
            except InputError as error:
                self.note(f"{section}: {error}")
        return {}

    def note(self, problem: str) -> None:
        """Keep a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def attempt(self, check, *values, where: str = "") -> None:
        """Note what a check finds."""
        try:
            check(*values)
        except InputError as error:
            self.note(f"{where}{error}")


@dataclass(frozen=True)
class Plan:
    """What a study amounts to."""

    cells: list[Cell]  # those of one base together, each base first
    evaluate: dict[str, Any]  # maple.evaluate's flags, all of them
    bookkeeping: dict[str, Any]  # those of maple.fit that no result depends on, as given


def plan(config: dict[str, Any], look: bool = True) -> Plan:
    """The cells of a study and how they are scored. Raises InputError with all problems at once.

    look   also whether the models, the data and the tasks that it names are there, which a report need not know
    """
    training = Flags(fit, OWN["fit"], check_ranges)
    scoring = Flags(evaluate, OWN["evaluate"], check_evaluate_ranges)
    common: dict[str, Any] = {}
    for name, value in config.get("fit", {}).items():
        common |= training.typed("fit", name, value)
    sections = [("grid", config["grid"])] if config.get("grid") else []
    sections += [(f"slices[{number}]", one) for number, one in enumerate(config.get("slices", []))]
    combinations = _combinations(training, sections)
    found = [_cell(training.defaults | common | combination) for combination in combinations]
    cells = list({cell.name: cell for cell in found}.values())
    arguments = dict(scoring.defaults)
    for name, value in config.get("evaluate", {}).items():
        arguments |= scoring.typed("evaluate", name, value)
    training.attempt(_check_names, found)
    if look:
        _look(training, scoring, cells, arguments)
    refuse([*training.problems, *scoring.problems])
    bases = {base.name: base for base in map(_base, cells)}
    order = list(dict.fromkeys(cell.loads for cell in cells))
    every = sorted([*bases.values(), *cells], key=lambda cell: (order.index(cell.loads), cell.rank > 0))
    return Plan(every, arguments, {name: common[name] for name in UNTRACED if name in common})


def _look(training: Flags, scoring: Flags, cells: list[Cell], arguments: dict[str, Any]) -> None:
    """Note which models, data and tasks are not there, and what does not go together; each once."""
    for check, flags in ((check_model_name, ("model", "revision")), (check_data, ("data", "languages"))):
        for values in dict.fromkeys(tuple(cell.fit[flag] for flag in flags) for cell in cells):
            training.attempt(check, *values)
    for cell in cells:
        training.attempt(check_devices, dict(cell.fit))
    for model in dict.fromkeys(cell.fit["model"] for cell in cells):
        scoring.attempt(make_plan, arguments | {"model": model}, where="evaluate: ")


def _check_names(cells: list[Cell]) -> None:
    """Raise InputError for two models or two data sets that a cell's name does not tell apart."""
    for flag in ("model", "data"):
        known: dict[str, str] = {}
        for value in dict.fromkeys(cell.fit[flag] for cell in cells):
            if (other := known.setdefault(known_as(flag, value), value)) != value:
                raise InputError(
                    f"--{flag} {other} and {value} have one last name, by which cells are known; rename one"
                )


def _combinations(flags: Flags, sections: list[tuple[str, dict]]) -> list[dict[str, Any]]:
    """Every combination of the values of the grid, and of each slice."""
    chosen = []
    for section, factors in sections:
        chosen.append([])
        for name, value in factors.items():
            if name in UNTRACED:
                flags.note(f"{section}.{name}: no result depends on it, so it makes no cells; give it under fit")
                continue
            values = value if isinstance(value, list) else [value]
            if typed := [found for one in values if (found := flags.typed(section, name, one))]:
                chosen[-1].append(typed)
    if (count := sum(math.prod(map(len, factors)) for factors in chosen)) > MOST:
        flags.note(f"{count:,} combinations, at most {MOST:,}")
        return []
    every = itertools.chain.from_iterable(itertools.product(*factors) for factors in chosen)
    return [{name: value for one in combination for name, value in one.items()} for combination in every]


def _cell(arguments: dict[str, Any]) -> Cell:
    """With what fit would fill in, and without what it would not look at."""
    apply_recipe(arguments)
    arguments["alpha"] = float(arguments["rank"] if arguments["alpha"] is None else arguments["alpha"])
    if arguments["bits"] != 4:
        arguments |= {"block_size": None, "double_quant": None}
    return Cell({name: value for name, value in arguments.items() if name not in UNTRACED})


def _base(cell: Cell) -> Cell:
    return Cell({name: cell.fit[name] for name in BASE_FLAGS} | {"rank": 0})
