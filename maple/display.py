"""What a run shows while it trains: one bar over the optimizer steps, and whatever logger was asked for.

It comes last of the callbacks, behind the checkpoint of the step: what goes wrong here loses nothing.
"""

from __future__ import annotations

from lightning.pytorch import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maple.meters import Meters


class Display(Callback):
    """The bar; where the output is no terminal a line of text stands for it, about ten times a run."""

    def __init__(self, console: Console, meters: Meters, total_steps: int):
        self.console, self.meters, self.total_steps = console, meters, total_steps
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or console.quiet,
        )

    def on_train_start(self, trainer, pl_module) -> None:
        """Show the bar, from the step on that was resumed."""
        self.shown = self.first = self.meters.steps
        self.task = self.bar.add_task("", total=self.total_steps, completed=self.first, text="")
        self.bar.start()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """After an optimizer step: move the bar, and tell the loggers."""
        step, row = self.meters.steps, self.meters.row
        if step == self.shown:
            return
        self.shown = step
        for logger in trainer.loggers:
            logger.log_metrics(row, step=step)
        speed, memory = row["tokens_per_second"], row["memory_bytes"] / 2**30
        text = f"loss {row['loss']:.3f}  {speed:,.0f} tokens/s  {memory:.2f} GiB"
        self.bar.update(self.task, completed=step, text=text)
        if not self.console.is_terminal and (step == self.first + 1 or step % max(self.total_steps // 10, 1) == 0):
            left = self.meters.seconds / step * (self.total_steps - step)
            self.console.print(f"step {step}/{self.total_steps}  {text}  {left:.0f} s left")

    def on_train_end(self, trainer, pl_module) -> None:
        """Leave the finished bar on the screen."""
        self.bar.stop()

    def on_exception(self, trainer, pl_module, exception) -> None:
        """Give the terminal back."""
        self.bar.stop()
