"""What an evaluation shows: a bar over the examples, a line for each task and language, a table at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from maple.evaluation.scores import COUNTED, PRIMARY
from maple.metrics.example import Estimate
from maple.screen import printable


class View:
    """The terminal of a run."""

    def __init__(self, console: Console):
        self.console = console

    @contextmanager
    def progress(self, examples: int) -> Iterator[None]:
        """The bar over so many examples, for the block."""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal or self.console.quiet,
            transient=True,
        )
        self.task = self.bar.add_task("", total=examples)
        with self.bar:
            yield

    def begin(self, task: str, language: str) -> None:
        """Name what is scored now."""
        self.bar.update(self.task, description=f"{task} {language}")

    def advance(self, examples: int) -> None:
        """So many more are done."""
        self.bar.advance(self.task, examples)

    def judging(self, done: int, of: int) -> None:
        """So many verdicts are there."""
        self.bar.update(self.task, description=f"judged {done} of {of}")

    def end(self, task: str, language: str, estimates: dict[str, Estimate], examples: int, seconds: float) -> None:
        """One line of what was found."""
        scores = ", ".join(f"{name} {shown(one)}" for name, one in estimates.items() if name not in COUNTED)
        self.console.print(
            f"{task} {language}: {scores or 'answers written'} (n {examples:,}, "
            f"{100 * estimates['prompts_cut'].value:.1f} % of prompts cut, "
            f"{estimates['tokens_per_character'].value:.2f} tokens/character, {seconds:.1f} s)",
            soft_wrap=True,
        )

    def table(self, rows: list[dict], out: Path) -> None:
        """Languages down, tasks across, each task's first metric; the mean of a column weighs languages alike."""
        found = {}
        for metric in reversed(PRIMARY):
            measured = (row for row in rows if row["metric"] == metric and row["value"] is not None)
            found |= {_key(row): row for row in measured}
        columns = {row["task"]: found[row["task"], row["language"]]["metric"] for row in rows if _key(row) in found}
        table = Table(title="Scores, with standard errors", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        table.add_column("")
        for task, metric in columns.items():
            table.add_column(f"{task}\n{metric}", justify="right")
        for language in sorted({language for _, language in found}):
            table.add_row(language, *(_cell(found.get((task, language))) for task in columns))
        table.add_section()
        means = [fmean(row["value"] for (name, _), row in found.items() if name == task) for task in columns]
        table.add_row("mean", *(_short(mean) for mean in means))
        if columns:
            self.console.print(table)
        self.console.print(f"Scores and predictions: {printable(str(out))}", soft_wrap=True)


def shown(estimate: Estimate) -> str:
    """A value with its standard error."""
    return f"{estimate.value:.3f}" + (f" ± {estimate.stderr:.3f}" if estimate.stderr is not None else "")


def _key(row: dict) -> tuple[str, str]:
    return row["task"], row["language"]


def _cell(row: dict | None) -> str:
    if row is None:
        return ""
    return _short(row["value"]) + (f"±{_short(row['stderr'])}" if row["stderr"] is not None else "")


def _short(value: float) -> str:
    """Seven tasks are to fit into 80 characters: .34 of 0.34, and 26.5 of a win rate in percent."""
    return f"{value:.2f}".removeprefix("0") if value < 1 else f"{value:.1f}"
