"""What a study ran with: the flags of its training, how its tasks were asked, the versions; and whose choice each is.

The paper gives its models, data, ranks and bits (facts of arXiv 2401.07598), and neither its other hyper-parameters nor
its prompts: those are ours, and a number here beside one there compares them too.
"""

from __future__ import annotations

from collections.abc import Iterable

from maple.reporting.study import Study
from maple.reporting.table import Table

PUBLISHED = ("model", "data", "rank", "bits")
# Settings of a score that say which cell it is of; fingerprints beside them differ from cell to cell too.
OF_CELL = ("model", "adapter", "bits", "rank", "trained_bits", "ours", "versions", "shots_data")
MOST = 8  # values in one field: the ranks of a grid are 5, the seeds 3


def settings_tables(study: Study) -> list[Table]:
    """Those of training, of the tasks, and of the versions that measured them; an empty one is left out."""
    return [table for table in (_training(study), _tasks(study), _versions(study)) if table.rows]


def _training(study: Study) -> Table:
    adapters = [cell for cell in study.cells if not cell.is_base]
    flags = dict.fromkeys(flag for cell in adapters for flag in cell.fit)
    rows = [
        [
            flag,
            _listed(cell.fit.get(flag) for cell in adapters),
            "factor of the paper's grid" if flag in PUBLISHED else "ours",
        ]
        for flag in flags
    ]
    note = "Ours: a choice of this study, which the paper does not give."
    return Table("settings_training", "Training", ["flag", "values", "whose choice"], rows, note)


def _tasks(study: Study) -> Table:
    settings = {task: [] for task in study.tasks}
    for cell in study.cells:
        for (task, _), row in cell.rows.items():
            settings[task].append(row["settings"])
    every = [one for some in settings.values() for one in some]
    ours = {name for one in every for name in _texts(one.get("ours"))}
    names = [name for name in dict.fromkeys(name for one in every for name in one) if not _tells_cell(name)]
    rows = [
        [name, "ours" if name in ours else "", *(_listed(one.get(name) for one in some) for some in settings.values())]
        for name in names
    ]
    columns = ["setting", "whose choice", *settings]
    return Table("settings_tasks", "How the tasks were asked", columns, rows, "Ours: the paper does not give it.")


def _versions(study: Study) -> Table:
    found: dict[str, list] = {}
    sources = [cell.summary or {} for cell in study.cells]
    sources += [row["settings"] for cell in study.cells for row in cell.rows.values()]
    for source in sources:
        versions = source.get("versions")
        for name, version in versions.items() if isinstance(versions, dict) else ():
            found.setdefault(name, []).append(version)
    rows = [[name, _listed(values)] for name, values in sorted(found.items())]
    return Table("versions", "Versions", ["package", "version"], rows)


def _tells_cell(name: str) -> bool:
    return name in OF_CELL or name.endswith(("sha256", "fingerprint", "revision"))


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _listed(values: Iterable[object]) -> str:
    """The different ones, in their order."""
    texts = list(dict.fromkeys(_text(value) for value in values))
    return ", ".join(texts[:MOST]) + (f" and {len(texts) - MOST} more" if len(texts) > MOST else "")


def _text(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
