"""How far a model's logits are from another's on the same text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from maple.data.prompts import prompt_ids
from maple.tokenizer import check_vocabulary

PROMPTS = (  # one a script or family, so that no language's tokens decide alone
    "Tell a short story about a girl who finds an old map.",
    "Explica en dos frases por qué el cielo es azul.",
    "Schreibe ein Rezept für eine einfache Suppe.",
    "Eleza kwa nini watoto wanapaswa kusoma vitabu.",
    "请用三句话介绍一下长城。",
    "हाथी के बारे में एक छोटी कहानी लिखो।",
    "اكتب رسالة قصيرة إلى صديق قديم.",
    "Расскажи, как вырастить дерево из семени.",
)
POSITIONS = 32  # the last ones of each prompt: before them a template says the same each time


@dataclass(frozen=True)
class Drift:
    """Differences of two models' logits over the positions of all prompts."""

    largest: float  # |difference| of a logit
    mean: float  # of |difference|
    same_token: float  # share of positions whose likeliest token is the same
    divergence: float  # mean Kullback-Leibler divergence in nats, from the first model to the second


def prompts(template: str, tokenizer: PreTrainedTokenizerBase, window: int, rows: int) -> list[list[int]]:
    """Token ids of the fixed prompts in a template; raises InputError for ids that the model does not have."""
    all_ids = [prompt_ids(template, [text], tokenizer)[-window:] for text in PROMPTS]
    check_vocabulary([token for ids in all_ids for token in ids], rows)
    return all_ids


@torch.no_grad()
def logits(model: PreTrainedModel, all_ids: list[list[int]]) -> list[Tensor]:
    """Of each prompt the logits [positions, vocabulary] at its last positions."""
    inputs = (torch.tensor([ids], device=model.device) for ids in all_ids)
    return [model(ids, logits_to_keep=POSITIONS).logits[0] for ids in inputs]


def compare(reference: list[Tensor], moved: list[Tensor]) -> Drift:
    """The drift from `reference` to `moved`, each as `logits` gives them; in float64, a prompt at a time."""
    largest, sums, same, divergence = [], [], [], []
    for one, other in zip(reference, moved, strict=True):
        one, other = one.double(), other.double()
        largest.append((one - other).abs().max())
        sums.append((one - other).abs().mean(-1))
        same.append((one.argmax(-1) == other.argmax(-1)).double())
        log_p, log_q = one.log_softmax(-1), other.log_softmax(-1)
        divergence.append((log_p.exp() * (log_p - log_q)).sum(-1))
    mean, same_token, nats = (torch.cat(parts).mean().item() for parts in (sums, same, divergence))
    return Drift(torch.stack(largest).max().item(), mean, same_token, nats)


def table(drifts: dict[str, Drift], positions: int) -> Table:
    """Drifts by name, a column each."""
    shown = Table(title=f"How far the logits moved ({positions} positions)", title_justify="left")
    shown.add_column("")
    for name in drifts:
        shown.add_column(name, justify="right")
    rows = {
        "largest change": lambda d: f"{d.largest:.4g}",
        "mean change": lambda d: f"{d.mean:.4g}",
        "same likeliest token": lambda d: f"{100 * d.same_token:.1f} %",
        "KL divergence (nats)": lambda d: f"{d.divergence:.3g}",
    }
    for row, text in rows.items():
        shown.add_row(row, *(text(drift) for drift in drifts.values()))
    return shown
