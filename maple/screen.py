"""The terminal that a run shows itself on."""

import os
import sys

from rich.console import Console


class Screen(Console):
    """A console that falls silent when whoever read it has left, as `| head` does: the run goes on."""

    def on_broken_pipe(self) -> None:
        """rich's own would end the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
