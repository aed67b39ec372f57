"""The terminal that a run shows itself on, and what it may be given to show."""

import os
import sys

from rich.console import Console
from rich.markup import escape

from maple.terminal import without_controls


def printable(text: str) -> str:
    """Text of a data set or a model, safe in a terminal: no markup, no control characters."""
    return escape(without_controls(text))


class Screen(Console):
    """A console that falls silent when whoever read it has left, as `| head` does: the run goes on."""

    def on_broken_pipe(self) -> None:
        """rich's own would end the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
