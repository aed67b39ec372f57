"""Studies that nobody ran: their scores are drawn at random around a truth that the caller plants.

    plant(tmp_path, effect=lambda cell, task, language: 0.5 + 0.1 * (cell.rank > 0))     # writes a study's folder
    imagine(effect=...)                                                                   # the same Study, in memory

An example is answered rightly with probability `effect(cell, task, language)`, `cell` a Cell without scores. Whether an
example is hard is shared by all cells, in part (`alike`), as it is in earnest; `spread` is the deviation of that
probability between seeds, the same in all tasks and languages of a cell; `luck` that of a shift which the cells of one
model, data, rank and seed share over their bits, as they share the order of the data and the start of the adapter.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
import yaml

from maple.cells.cell import Cell as CellOfGrid
from maple.cells.cell import scores_folder
from maple.cells.grid import Plan, plan
from maple.reporting.reading import Cell, planned
from maple.reporting.study import TASKS, Study, in_order

METRIC = {"xquad": "f1", "mlqa": "f1", "xlsum": "rougeL", "alpaca_eval": "win_rate"}  # of all others: acc
LANGUAGES = ("ar", "de", "en", "hi", "sw")  # classes 5, 5, 5, 4 and 2 of resources, three scripts
BASE_PARAMETERS = 1_000_000
_normal = NormalDist()


def fair(cell: Cell, task: str, language: str) -> float:
    """The truth of a null study."""
    return 0.5


def imagine(
    folder: Path = Path("planted"),
    *,
    models: Sequence[str] = ("tiny",),
    data: Sequence[str] = ("tiny",),
    ranks: Sequence[int] = (1, 8, 32),
    bits: Sequence[int] = (4, 8, 16),
    seeds: Sequence[int] = (0, 1, 2),
    alphas: Sequence[float | None] = (None,),  # None: alpha = rank; a number: a slice under that alpha, over the ranks
    rslora: Sequence[float] = (),  # alphas of slices under rsLoRA
    tasks: Sequence[str] = ("xnli", "xquad", "alpaca_eval"),
    languages: Sequence[str] = LANGUAGES,
    languages_of: Mapping[str, Sequence[str]] | None = None,  # task -> its languages, where not all; AlpacaEval: en
    trained: Mapping[str, Sequence[str]] | None = None,  # data -> languages it trains on, where not by its name
    tokens: Callable[[str], int] = lambda data: 100_000,  # of a data set
    n: int = 50,
    effect: Callable[[Cell, str, str], float] = fair,
    alike: float = 0.7,
    spread: float = 0.0,
    luck: float = 0.0,
    generator: int = 0,
) -> Study:
    """A finished study as `read_study` would read it."""
    random = np.random.default_rng(generator)
    lots = defaultdict(np.random.default_rng([generator, 1]).standard_normal)
    languages_of = {"alpaca_eval": ("en",), **(languages_of or {})}
    pairs = [(task, language) for task in tasks for language in languages_of.get(task, languages)]
    hard = {pair: random.standard_normal(n) for pair in pairs}
    factors = {"model": [*models], "data": [*data], "rank": [*ranks] or [1], "bits": [*bits], "seed": [*seeds]}
    config = {
        "title": "A planted study",
        "grid": factors,
        "slices": [factors | {"alpha": alpha} for alpha in alphas if alpha]
        + [factors | {"alpha": alpha, "rslora": True} for alpha in rslora],
        "evaluate": {"tasks": ",".join(tasks), "limit": n},
    }
    plans = [
        _planned(cell, languages, trained or {}, tokens) for cell in settled(config).cells if ranks or not cell.rank
    ]
    plans.sort(key=in_order(config))
    cells = []
    for cell in plans:
        shift = spread * random.standard_normal() if cell.rank else 0.0
        shift += luck * lots[cell.model, cell.data, cell.rank, cell.seed] if luck and cell.rank else 0.0
        chance = {pair: np.clip(effect(cell, *pair) + shift, 0.001, 0.999) for pair in pairs}
        cells.append(_scored(cell, chance, hard, alike, random))
    found = sorted({language for _, language in pairs})
    order = [*(task for task in TASKS if task in tasks), *sorted(set(tasks) - set(TASKS))]
    return Study(Path(folder), config["title"], config, cells, order, found, [])


def plant(folder: Path, **options) -> Path:
    """Write what `imagine` draws as a study's folder; the folder."""
    return write(imagine(folder, **options))


def write(study: Study) -> Path:
    """The folder of a study that `imagine` drew, as maple.study leaves it."""
    study.folder.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(study.config))  # lists that two parts share would become anchors
    (study.folder / "study.yaml").write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    for cell in study.cells:
        folder = study.folder / "cells" / cell.name
        _json(folder / "cell.json", {"fit": cell.fit, "evaluate": study.config["evaluate"], "content": {}})
        _json(folder / "state.json", {"state": cell.state, "seconds": cell.seconds, "attempts": 1, "error": cell.error})
        if cell.summary:
            _json(folder / "fit" / "summary.json", cell.summary)
        scores = folder / scores_folder(settled(study.config).evaluate)
        rows = []
        for (task, language), row in cell.rows.items():
            counts = cell.counted[task, language].items()
            counted = [{**row, "metric": name, "value": value, "stderr": None} for name, value in counts]
            rows += [row, *counted]
            predictions = scores / "predictions" / f"{task}.{language}.jsonl"
            predictions.parent.mkdir(parents=True, exist_ok=True)
            lines = (_prediction(number, row["metric"], x) for number, x in enumerate(cell.items[task, language]))
            predictions.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        _json(scores / "scores.json", rows)
    return study.folder


def settled(config: dict) -> Plan:
    """What the config of a study amounts to."""
    return _settled(json.dumps(config))


@cache
def _settled(config: str) -> Plan:
    return plan(json.loads(config), look=False)


def _planned(cell: CellOfGrid, languages: Sequence[str], trained: Mapping, tokens: Callable[[str], int]) -> Cell:
    """Done, but for its scores."""
    seconds = 20.0 + cell.rank / 8 + 8 / cell.fit["bits"]
    result = replace(planned(cell.name, cell.fit), state="done", seconds=seconds)
    if result.is_base:
        return result
    codes = trained.get(result.data) or _trained_by(result.data, languages)
    return replace(result, summary=_summary(result, codes, tokens(result.data)), trained=frozenset(codes))


def _summary(cell: Cell, codes: Sequence[str], tokens: int) -> dict:
    trainable, base = 10_000 * cell.rank, BASE_PARAMETERS * cell.bits // 8
    return {
        **{name: cell.fit[name] for name in ("model", "data", "rank", "bits", "alpha", "targets", "seed")},
        "steps": 100,
        "seconds": 10.0 + cell.rank / 8 + 8 / cell.bits,
        "tokens": tokens,
        "training_records": {code: 1000 // len(codes) for code in codes},
        "trainable_parameters": trainable,
        "total_parameters": BASE_PARAMETERS + trainable,
        "trainable_percent": 100 * trainable / (BASE_PARAMETERS + trainable),
        "base_bytes": base,
        "adapter_bytes": 4 * trainable,
        "peak_memory_bytes": base + 20 * trainable + 50_000_000,
        "tokens_per_second": 4000.0 - 10 * cell.rank,
        "train_loss_first": 3.0,
        "train_loss_last": 2.0,
        "val_loss_before": 3.1,
        "val_loss_after": 2.2,
        "val_loss_by_language": {code: {"before": 3.1, "after": 2.2} for code in codes},
        "versions": {},
    }


def _scored(cell: Cell, chance: Mapping, hard: Mapping, alike: float, random: np.random.Generator) -> Cell:
    rows, counted, items = {}, {}, {}
    for (task, language), p in chance.items():
        metric, shared = METRIC.get(task, "acc"), hard[task, language]
        depth = np.sqrt(alike) * shared + np.sqrt(1 - alike) * random.standard_normal(len(shared))
        x = (depth < _normal.inv_cdf(float(p))) * (100.0 if metric == "win_rate" else 1.0)
        row = {"task": task, "language": language, "metric": metric, "value": float(x.mean())}
        row |= {"stderr": float(x.std(ddof=1) / np.sqrt(len(x))), "n": len(x), "settings": {"setting": "harness"}}
        rows[task, language], items[task, language] = row, x
        counted[task, language] = {"prompts_cut": 0.0, "tokens_per_character": 0.25 + len(language) / 100}
    return replace(cell, rows=rows, counted=counted, items=items)


def _trained_by(data: str, languages: Sequence[str]) -> Sequence[str]:
    """As the embedded world's sets are named: `-en` English alone, `-half` every other language, else all."""
    if data.endswith("-en") or data == "alpaca":
        return ("en",)
    return [*languages[::2]] if data.endswith("-half") else languages


def _prediction(number: int, metric: str, x: float) -> dict:
    score = {"preference": 1.0 + x / 100} if metric == "win_rate" else {metric: float(x)}
    return {"number": number, "prompt": f"Question {number}?", "output": "yes", "target": "yes", "score": score}


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
