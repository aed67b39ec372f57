"""Studies that nobody ran: their scores are drawn at random around a truth that the caller plants.

    plant(tmp_path, effect=lambda cell, task, language: 0.5 + 0.1 * (cell.rank > 0))     # writes a study's folder
    imagine(effect=...)                                                                   # the same Study, in memory

An example is answered rightly with probability `effect(cell, task, language)`, `cell` a Cell without scores. Whether an
example is hard is shared by all cells, in part (`alike`), as it is in earnest; `spread` is the deviation of that
probability between seeds, the same in all tasks and languages of a cell.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import yaml

from maple.reporting.reading import BY_RANK, Cell
from maple.reporting.study import TASKS, Study

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
    generator: int = 0,
) -> Study:
    """A finished study as `read_study` would read it."""
    random = np.random.default_rng(generator)
    languages_of = {"alpaca_eval": ("en",), **(languages_of or {})}
    pairs = [(task, language) for task in tasks for language in languages_of.get(task, languages)]
    hard = {pair: random.standard_normal(n) for pair in pairs}
    config = {
        "title": "A planted study",
        "fit": {"model": models[0], "data": data[0]},
        "grid": {"model": [*models], "data": [*data], "rank": [*ranks], "bits": [*bits], "seed": [*seeds]},
        "slices": [{"rank": [*ranks], "alpha": alpha} for alpha in alphas if alpha]
        + [{"rank": [*ranks], "alpha": alpha, "rslora": True} for alpha in rslora],
        "evaluate": {"tasks": ",".join(tasks), "limit": n},
    }
    scalings = [(alpha, False) for alpha in alphas] + [(alpha, True) for alpha in rslora]
    plans = [_base(model, width) for model, width in itertools.product(models, bits)]
    for (alpha, stable), model, source, rank, width, seed in itertools.product(
        scalings, models, data, ranks, bits, seeds
    ):
        kept = (trained or {}).get(source) or _trained_by(source, languages)
        plans.append(_adapter(model, source, rank, width, seed, alpha, stable, kept, tokens(source)))
    plans = list({plan.name: plan for plan in plans}.values())  # alpha = 8 at rank 8 is in the grid already
    cells = []
    for plan in plans:
        shift = spread * random.standard_normal() if plan.rank else 0.0
        chance = {pair: np.clip(effect(plan, *pair) + shift, 0.001, 0.999) for pair in pairs}
        cells.append(_scored(plan, chance, hard, alike, random))
    found = sorted({language for _, language in pairs})
    order = [*(task for task in TASKS if task in tasks), *sorted(set(tasks) - set(TASKS))]
    return Study(Path(folder), config["title"], config, cells, order, found, [])


def plant(folder: Path, **options) -> Path:
    """Write what `imagine` draws as a study's folder; the folder."""
    return write(imagine(folder, **options))


def write(study: Study) -> Path:
    """The folder of a study that `imagine` drew, as maple.study leaves it."""
    study.folder.mkdir(parents=True, exist_ok=True)
    (study.folder / "study.yaml").write_text(yaml.safe_dump(study.config, sort_keys=False), encoding="utf-8")
    for cell in study.cells:
        folder = study.folder / "cells" / cell.name
        _json(folder / "cell.json", {"fit": cell.fit, "evaluate": study.config["evaluate"], "content": {}})
        _json(folder / "state.json", {"state": cell.state, "seconds": cell.seconds, "attempts": 1, "error": cell.error})
        if cell.summary:
            _json(folder / "fit" / "summary.json", cell.summary)
        scores = folder / f"scores-{_hash(study.config['evaluate'])}"
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


def _base(model: str, bits: int) -> Cell:
    fit = {"model": model, "revision": None, "bits": bits, "rank": 0, "block_size": 64, "double_quant": True}
    return _planned(fit | {"template": "alpaca"}, None, frozenset())


def _adapter(
    model: str,
    data: str,
    rank: int,
    bits: int,
    seed: int,
    alpha: float | None,
    rslora: bool,
    trained: Sequence[str],
    tokens: int,
) -> Cell:
    fit = {"model": model, "revision": None, "data": data, "languages": None, "rank": rank, "bits": bits}
    fit |= {"alpha": float(alpha or rank), "rslora": rslora, "dropout": 0.0, "targets": "all-linear", "seed": seed}
    fit |= {"lr": 2e-4, "schedule": "cosine", "template": "alpaca"}
    trainable = 10_000 * rank
    summary = {
        **{name: fit[name] for name in ("model", "data", "rank", "bits", "alpha", "targets", "seed")},
        "steps": 100,
        "seconds": 10.0 + rank / 8 + 8 / bits,
        "trainable_parameters": trainable,
        "total_parameters": BASE_PARAMETERS + trainable,
        "trainable_percent": 100 * trainable / (BASE_PARAMETERS + trainable),
        "base_bytes": BASE_PARAMETERS * bits // 8,
        "adapter_bytes": 4 * trainable,
        "peak_memory_bytes": BASE_PARAMETERS * bits // 8 + 20 * trainable + 50_000_000,
        "tokens_per_second": 4000.0 - 10 * rank,
        "train_loss_first": 3.0,
        "train_loss_last": 2.0,
        "val_loss_before": 3.1,
        "val_loss_after": 2.2,
        "val_loss_by_language": {code: {"before": 3.1, "after": 2.2} for code in trained},
        "training_records": {code: 1000 // len(trained) for code in trained},
        "tokens": tokens,
        "versions": {},
    }
    return _planned(fit, summary, frozenset(trained))


def _planned(fit: dict, summary: dict | None, trained: frozenset[str]) -> Cell:
    alpha, rank = fit.get("alpha"), fit["rank"]
    scaling = f"rsLoRA, alpha = {alpha:g}" if fit.get("rslora") else f"alpha = {alpha or 0:g}"
    scaling = "" if rank == 0 else BY_RANK if scaling == f"alpha = {rank}" else scaling
    slug = "-".join(str(fit[name]) for name in ("model", "data", "rank", "bits", "seed") if name in fit)
    return Cell(
        name=f"{''.join(c if c.isalnum() or c in '-_.' else '_' for c in slug)}-{_hash(fit)}",
        model=fit["model"],
        data=fit.get("data"),
        rank=rank,
        bits=fit["bits"],
        scaling=scaling,
        seed=fit.get("seed"),
        state="done",
        error=None,
        seconds=20.0 + rank / 8 + 8 / fit["bits"],
        summary=summary,
        trained=trained,
        rows={},
        counted={},
        items={},
        fit=fit,
    )


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


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
