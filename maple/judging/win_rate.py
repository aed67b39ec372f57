"""How often a judge prefers the model's answer to the reference's, in percent, as AlpacaEval counts it."""

from __future__ import annotations

import math

import torch
import torchmetrics
from torch import Tensor

from maple.judging.annotations import share
from maple.metrics.example import Estimate


class WinRate(torchmetrics.Metric):
    """100 x the mean of preference - 1, and the same with each preference rounded to a loss, a draw or a win.

    A draw is half a win. A verdict that could not be read is left out: `n` says how many were counted, and of none the
    value is NaN. The standard error is that of a mean, with n - 1 under the root.
    """

    full_state_update = False

    def __init__(self, **settings):
        super().__init__(**settings)
        # Sums, so that several processes add theirs up. Five numbers; float64 since squares of 805 are subtracted.
        for name in ("count", "total", "squares", "wins", "draws"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, preference: float | None) -> None:
        """Count one verdict: 1 reference better, 2 model better, 0 or 1.5 draw, between them a share, None nothing."""
        if preference is None:
            return
        won = share(preference)
        self.count += 1
        self.total += won
        self.squares += won * won
        self.wins += won > 0.5
        self.draws += won == 0.5

    def compute(self) -> dict[str, Estimate]:
        """Both win rates."""
        return {
            "win_rate": _estimate(self.count, self.total, self.squares),
            "discrete_win_rate": _estimate(self.count, self.wins + self.draws / 2, self.wins + self.draws / 4),
        }


def _estimate(count: Tensor, total: Tensor, squares: Tensor) -> Estimate:
    """Mean and standard error, in percent, of `count` numbers with this sum and this sum of squares."""
    n, total, squares = int(count), total.item(), squares.item()
    if n < 2:
        return Estimate(100 * total if n else math.nan, None, n)
    variance = max(squares - total * total / n, 0) / (n - 1)  # of equal numbers, rounding may leave less than 0
    return Estimate(100 * total / n, 100 * math.sqrt(variance / n), n)
