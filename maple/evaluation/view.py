"""What an evaluation shows: a bar over the examples, a line for each task and language, a table at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from maple.metrics.example import Estimate

PRIMARY = ("acc", "f1", "rougeL", "win_rate")  # the one number of a task, as in the paper's table
COUNTED = ("prompts_cut", "shots_kept", "tokens_per_character")  # of the prompts, not of the answers


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

    def end(self, task: str, language: str, estimates: dict[str, Estimate], examples: int, seconds: float) -> None:
        """One line of what was found."""
        scores = ", ".join(f"{name} {shown(one)}" for name, one in estimates.items() if name not in COUNTED)
        cut = 100 * estimates["prompts_cut"].value
        self.console.print(
            f"{task} {language}: {scores or 'answers written'}; {examples} examples, {cut:.1f} % of prompts cut, "
            f"{estimates['tokens_per_character'].value:.2f} tokens a character, {seconds:.1f} s"
        )

    def table(self, rows: list[dict], out: Path) -> None:
        """Languages down, tasks across, each task's first metric; the mean of a column weighs languages alike."""
        found = {}
        for metric in reversed(PRIMARY):
            found |= {(row["task"], row["language"]): row for row in rows if row["metric"] == metric}
        tasks = list(dict.fromkeys(task for task, _ in found))
        table = Table(title="Scores", title_justify="left")
        table.add_column("language")
        for task in tasks:
            metric = next(row["metric"] for (name, _), row in found.items() if name == task)
            table.add_column(f"{task}\n{metric}", justify="right")
        for language in dict.fromkeys(language for _, language in found):
            cells = (found.get((task, language)) for task in tasks)
            table.add_row(language, *(shown(Estimate(c["value"], c["stderr"], c["n"])) if c else "" for c in cells))
        means = [fmean(row["value"] for (name, _), row in found.items() if name == task) for task in tasks]
        table.add_section()
        table.add_row("mean", *(f"{mean:.3f}" for mean in means))
        if tasks:
            self.console.print(table)
        self.console.print(f"Scores and predictions: {out}")


def shown(estimate: Estimate) -> str:
    """A value with its standard error."""
    return f"{estimate.value:.3f}" + (f" ± {estimate.stderr:.3f}" if estimate.stderr is not None else "")
