"""The LightningModule: one loss, one optimizer, one schedule, and the validation of each language."""

from __future__ import annotations

import math
from dataclasses import astuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from maple import ranks
from maple.data.packing import Batch
from maple.devices import summed
from maple.guards import Watch
from maple.lora import lora_parameters
from maple.loss import Score, score, token_loss
from maple.sharded import is_sharded, whole


class FineTuning(LightningModule):
    """Trains the LoRA of a model on packed batches, to the mean loss of the supervised tokens of each optimizer step.

    That mean is exact, whatever the micro-batches hold. Lightning alone would average the means of the micro-batches:
    one of 8 and one of 1 supervised tokens would weigh the same, and a short last group would be divided by the number
    of micro-batches it lacks. So a micro-batch contributes the *sum* of its losses, and the gradient is divided by the
    number of tokens just before it is clipped and applied.

    Of several devices DDP and FSDP2 average the gradients; times the number of devices that is their sum, and the
    tokens it is divided by are those of all devices.
    """

    def __init__(
        self,
        model,
        *,
        lr: float,
        schedule: str,
        warmup_steps: int,
        total_steps: int,
        languages: list[str],
    ):
        super().__init__()
        self.model = model
        self.lr, self.schedule, self.warmup_steps, self.total_steps = lr, schedule, warmup_steps, total_steps
        self.languages, self.world = languages, ranks.here().world
        self.step = 0  # optimizer steps done, those before a resume included
        self.changing = False  # whether parameters, optimizer and counts are between two steps
        self.watch = Watch()
        self.window: list[Batch] = []  # the micro-batches since the last optimizer step,
        self.window_loss, self.window_tokens = 0.0, 0  # and of them the sums
        self.step_loss = self.step_lr = self.grad_norm = math.nan  # of the last optimizer step
        self.validation: dict[str, Score] = {}  # of each language, in the last validation

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Sum of losses, times the number that Lightning is going to divide it by."""
        loss, tokens = token_loss(self.model, batch)
        value = loss.item()
        if self.world == 1:  # else at the end of the step, when the others can be told
            self.watch.loss(self.model, value, self.step + 1, batch)
        self.window.append(batch)
        self.window_loss += value
        self.window_tokens += tokens
        return loss * self.trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, optimizer) -> None:
        """Turn the sum of gradients into their mean per token; Lightning clips right after this, so the true one."""
        loss, supervised = summed([self.window_loss, self.window_tokens])
        tokens = max(supervised, 1)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_div_(gradients, tokens / self.world)
        self.grad_norm = whole(torch.nn.utils.get_total_norm(gradients)).item()
        window = None if is_sharded(self.model) else self.window
        self.watch.gradient(self.model, self.grad_norm, self.step + 1, supervised, window)
        self.step_loss, self.step_lr = loss / tokens, optimizer.param_groups[0]["lr"]
        self.window, self.window_loss, self.window_tokens = [], 0.0, 0
        self.changing = True

    def configure_model(self) -> None:
        """Nothing is left to do: a model to be sharded was, while it was loaded (`sharded.py`)."""

    def cpu(self) -> FineTuning:
        """Stay on the device. Lightning brings a model home after each phase, and here the next one follows at once."""
        return self

    def optimizer_step(self, *args, **kwargs) -> None:
        """Lightning's, counted."""
        super().optimizer_step(*args, **kwargs)
        self.step += 1

    def configure_optimizers(self):
        """AdamW (arXiv 1711.05101) over A and B only.

        No weight decay: it would pull B A to zero, which is to the base model, and no recipe for LoRA uses it.
        """
        optimizer = torch.optim.AdamW([p for _, p in lora_parameters(self.model)], lr=self.lr, weight_decay=0.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_factor(self, step: int) -> float:
        """Linear warm-up over `warmup_steps`, then 1, or a half cosine down to 0 at `total_steps`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of an earlier validation."""
        self.validation = dict.fromkeys(self.languages, Score())

    def validation_step(self, batch: Batch, _: int, dataloader_idx: int = 0) -> None:
        """Add to the score of the language that the loader belongs to."""
        self.validation[self.languages[dataloader_idx]] += score(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        """Add up what each device has seen of the held-out samples."""
        sums = summed([number for score in self.validation.values() for number in astuple(score)])
        for place, language in enumerate(self.languages):
            loss, *counts = sums[4 * place : 4 * place + 4]
            self.validation[language] = Score(loss, *map(int, counts))
