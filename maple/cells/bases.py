"""The base of the last cell, kept for the next one: cells that share base and bits load it once."""

from __future__ import annotations

import gc
from typing import Any

import torch
from transformers import PreTrainedModel

from maple.hub import commit_of, model_folder
from maple.lora import add_lora, remove_lora
from maple.meters import forget_peak
from maple.model import load_model
from maple.recompute import plain_forward
from maple.weights import Progress


class Bases:
    """Stands in for `load_model`: training changes nothing but LoRA, so what is frozen can serve again.

    Never are two bases in memory: the last one goes before another comes.
    """

    def __init__(self):
        self.key: tuple | None = None
        self.model: PreTrainedModel | None = None

    def load(
        self,
        name_or_path: str,
        rank: int,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: str = "all-linear",
        rslora: bool = False,
        progress: Progress | None = None,
        sharding: None = None,
        **base: Any,
    ) -> PreTrainedModel:
        """As `load_model`, with the same numbers in it. A sharded model has processes of its own and is not kept."""
        folder = model_folder(name_or_path, base["revision"], weights=False)
        base["revision"] = commit_of(name_or_path, folder)  # training names it so, the base alone is asked for as typed
        if base["bits"] != 4:
            base |= {"block_size": 64, "double_quant": True}  # which nothing is packed by
        key = (name_or_path, *sorted(base.items()))
        if key != self.key:
            self.drop()
        forget_peak()  # of the cell before, but not of the loading to come
        if self.model is None:
            self.model, self.key = load_model(name_or_path, rank=0, progress=progress, **base), key
        model = self.model.to(base["device"])  # Lightning leaves it on the CPU when a Trainer is done
        remove_lora(model)
        plain_forward(model)
        if rank:
            add_lora(model, rank, alpha, dropout, targets, rslora)
        return model.eval()

    def drop(self) -> None:
        """Give its memory back, and take nothing over from a cell that failed."""
        if self.model is not None:
            self.key = self.model = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
