"""What the paper published (MAPLE, arXiv 2401.07598, Tables 1 and 2), and which model and data of a study are its own.

Read from the poster and its summaries, since no full text could be had. The rows without data are baselines: those of
Table 1 it took from MEGAVERSE, with other prompts. Which rank and bits its Table 1 shows it does not say.
"""

from __future__ import annotations

from dataclasses import dataclass

TASKS = ("xnli", "xcopa", "xquad", "belebele", "mlqa", "xlsum")  # the columns of Table 1
WIN_RATE = "alpaca_eval"  # stands in Table 2, and in no mean: it is a percentage, of English alone
CALLED = dict(zip(TASKS, ("XNLI", "XCOPA", "XQuAD", "Belebele", "MLQA", "XL-Sum"), strict=True))
CALLED[WIN_RATE] = "AlpacaEval"


@dataclass(frozen=True)
class Row:
    """Of Table 1: scores from 0 to 1, each the mean over a task's languages; None: NA."""

    model: str
    data: str | None  # None: NA, a baseline
    scores: dict[str, float | None]
    mean: float  # as it is printed


@dataclass(frozen=True)
class Win:
    """Of Table 2: the best win rate of AlpacaEval, in percent, and the adapter that has it."""

    model: str
    data: str | None
    rank: int | None
    bits: int | None
    win_rate: float


def _row(model: str, data: str | None, *scores: float | None) -> Row:
    *scores, mean = scores
    return Row(model, data, dict(zip(TASKS, scores, strict=True)), mean)


LLAMA, MISTRAL = "Llama-2-7b", "Mistral-7b"
TABLE_1 = (  # xnli, xcopa, xquad, belebele, mlqa, xlsum, mean
    _row("GPT-4", None, 0.75, 0.90, 0.69, 0.85, 0.67, 0.25, 0.69),
    _row("Mistral-7B-Instruct", None, 0.38, 0.53, 0.23, 0.44, 0.24, None, 0.37),  # the mean of its rounded five is .364
    _row("Llama-2-70b-chat", None, 0.48, 0.39, 0.07, 0.61, 0.24, 0.08, 0.31),
    _row("PaLM2", None, 0.76, 0.96, 0.70, 0.87, 0.39, 0.07, 0.62),
    _row(LLAMA, "MultiAlpaca", 0.35, 0.58, 0.64, 0.28, 0.41, 0.10, 0.39),
    _row(LLAMA, "Bactrian-X-22", 0.35, 0.58, 0.63, 0.28, 0.44, 0.08, 0.39),
    _row(LLAMA, "Bactrian-X-11", 0.35, 0.59, 0.63, 0.28, 0.44, 0.07, 0.39),
    _row(LLAMA, "alpaca", 0.35, 0.58, 0.63, 0.28, 0.35, 0.07, 0.38),
    _row(MISTRAL, "MultiAlpaca", 0.53, 0.59, 0.79, 0.43, 0.70, 0.14, 0.53),
    _row(MISTRAL, "Bactrian-X-22", 0.52, 0.59, 0.79, 0.42, 0.70, 0.14, 0.53),
    _row(MISTRAL, "Bactrian-X-11", 0.53, 0.60, 0.79, 0.42, 0.70, 0.10, 0.52),
    _row(MISTRAL, "alpaca", 0.53, 0.59, 0.78, 0.45, 0.70, 0.10, 0.52),
)
TABLE_2 = (
    Win("GPT-4", None, None, None, 93.78),
    Win("PaLM2", None, None, None, 79.66),  # exactly Gemini Pro's on the leaderboard, which has no PaLM
    Win("Llama-2-70b-chat", None, None, None, 22.36),
    Win("Mistral-7B-Instruct", None, None, None, 35.12),
    Win(LLAMA, "alpaca", 128, 16, 13.28),
    Win(LLAMA, "Bactrian-X-22", 64, 16, 13.73),
    Win(LLAMA, "Bactrian-X-11", 16, 16, 13.83),
    Win(LLAMA, "MultiAlpaca", 128, 16, 13.73),
    Win(MISTRAL, "alpaca", 64, 8, 24.47),
    Win(MISTRAL, "Bactrian-X-22", 16, 8, 22.07),
    Win(MISTRAL, "Bactrian-X-11", 128, 16, 22.57),
    Win(MISTRAL, "MultiAlpaca", 32, 8, 22.45),
)
MODELS = {"llama-2-7b-hf": LLAMA, "llama-2-7b": LLAMA, "mistral-7b-v0.1": MISTRAL}  # ends of hub ids and folders
DATA = {name.lower(): name for name in ("MultiAlpaca", "Bactrian-X-22", "Bactrian-X-11", "alpaca")}


def names(model: str, data: str) -> tuple[str, str] | None:
    """The paper's names of a model and a data set of a study; None where one of them is not the paper's."""
    found = MODELS.get(model.rstrip("/").rpartition("/")[2].lower()), DATA.get(data)
    return None if None in found else found
