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
from maple.cells.cell import BASE_FLAGS, Cell
from maple.data.sources import check_data
from maple.errors import InputError, nearest, refuse, shown
from maple.evaluate import check_ranges as check_evaluate_ranges
from maple.evaluate import evaluate
from maple.evaluation.plan import make_plan
from maple.fit import apply_recipe, check_ranges, fit
from maple.flatyaml import LARGEST, Parser
from maple.hub import check_model_name

SECTIONS = ("title", "fit", "grid", "slices", "evaluate")
DEEPEST = 4  # slices > one of them > a flag > its values
MOST = 10_000  # cells; the paper's grid has 120
UNTRACED = ("out", "resume", "logger", "checkpoint_every")  # nothing that is measured depends on them
OWN = {"fit": ("out", "resume"), "evaluate": ("model", "adapter", "bits", "template", "out", "resume")}


def read_study(path: Path) -> dict[str, Any]:
    """The YAML of a study as it is written. Raises InputError for a file that is none, with its line."""
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path}: more than {LARGEST} bytes, which no study has")
        text = path.read_text(encoding="utf-8-sig")
        _check_plain(text)
        config = yaml.load(text, Loader=Parser)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
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
            if wrong := next((one for one in values if isinstance(one, (dict, list))), None):
                yield f"{name}.{flag} is {shown(wrong)}, expected {'plain values' if many else 'one plain value'}"
    if not config.get("grid") and not slices:
        yield "there is no grid and no slices, so there is no cell; as grid: {rank: [8, 32], bits: [4, 8]}"


def defaults_of(verb) -> dict[str, Any]:
    """What every flag of a verb is when it is not given."""
    return {name: parameter.default for name, parameter in inspect.signature(verb).parameters.items()}


class Flags:
    """YAML's values as the flags of a verb take them, each looked at once."""

    def __init__(self, verb, refused: tuple[str, ...]):
        self.verb, self.refused = verb, refused
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
            self.note(f"{where}: the study itself decides that")
        elif (key := (flag, repr(value))) in self.found:
            return {flag: self.found[key]}
        else:
            try:
                self.found[key] = cli.parse(self.verb, cli.written({flag: value}))[flag]
                return {flag: self.found[key]}
            except InputError as error:
                self.note(f"{section}: {error}")
        return {}

    def note(self, problem: str) -> None:
        """Keep a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def attempt(self, check, *values) -> None:
        """Note what a check finds."""
        try:
            check(*values)
        except InputError as error:
            self.note(str(error))


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
    training, scoring = Flags(fit, OWN["fit"]), Flags(evaluate, OWN["evaluate"])
    common: dict[str, Any] = {}
    for name, value in config.get("fit", {}).items():
        common |= training.typed("fit", name, value)
    sections = [("grid", config["grid"])] if config.get("grid") else []
    sections += [(f"slices[{number}]", one) for number, one in enumerate(config.get("slices", []))]
    cells: dict[str, Cell] = {}
    for section, factors in sections:
        for combination in _combinations(training, section, factors):
            cell = _cell(training.defaults | common | combination)
            training.attempt(_check_numbers, cell)
            if cells.setdefault(cell.name, cell) != cell:
                training.note(f"{section}: two models or two data sets have one last name, so {cell.name} is two cells")
    arguments = dict(scoring.defaults)
    for name, value in config.get("evaluate", {}).items():
        arguments |= scoring.typed("evaluate", name, value)
    scoring.attempt(check_evaluate_ranges, arguments)
    if look:
        for cell in cells.values():
            training.attempt(check_model_name, cell.fit["model"], cell.fit["revision"])
            training.attempt(check_data, cell.fit["data"], cell.fit["languages"])
        for model in dict.fromkeys(cell.fit["model"] for cell in cells.values()):
            scoring.attempt(make_plan, arguments | {"model": model})
    refuse([*training.problems, *scoring.problems])
    bases = {base.name: base for base in map(_base, cells.values())}
    order = list(dict.fromkeys(cell.loads for cell in cells.values()))
    every = sorted([*bases.values(), *cells.values()], key=lambda cell: (order.index(cell.loads), cell.rank > 0))
    return Plan(every, arguments, {name: common[name] for name in UNTRACED if name in common})


def _combinations(flags: Flags, section: str, factors: dict) -> Iterator[dict[str, Any]]:
    """Every combination of the values of a grid or a slice."""
    choices = []
    for name, value in factors.items():
        if name in UNTRACED:
            flags.note(f"{section}.{name}: no result depends on it, so it makes no cells; give it under fit")
            continue
        values = value if isinstance(value, list) else [value]
        choices.append([found for one in values if (found := flags.typed(section, name, one))])
    if (count := math.prod(map(len, choices))) > MOST:
        flags.note(f"{section}: {count:,} combinations, at most {MOST:,}")
        return
    for combination in itertools.product(*choices):
        yield {name: value for one in combination for name, value in one.items()}


def _cell(arguments: dict[str, Any]) -> Cell:
    """With what fit would fill in, and without what it would not look at."""
    apply_recipe(arguments)
    arguments["alpha"] = float(arguments["alpha"] or arguments["rank"])
    if arguments["bits"] != 4:
        arguments |= {"block_size": None, "double_quant": None}
    return Cell({name: value for name, value in arguments.items() if name not in UNTRACED})


def _base(cell: Cell) -> Cell:
    return Cell({name: cell.fit[name] for name in BASE_FLAGS} | {"rank": 0})


def _check_numbers(cell: Cell) -> None:
    check_ranges(defaults_of(fit) | cell.fit)
