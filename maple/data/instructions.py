"""From `--data` to micro-batches: the LightningDataModule of instruction tuning."""

from __future__ import annotations

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from maple.data.mixture import split
from maple.data.packing import Place, TrainingBatches, nothing, validation_batches
from maple.data.prompts import check_template
from maple.data.sources import Source
from maple.data.tokens import Limits, Samples, tokenize
from maple.errors import InputError


class Instructions(LightningDataModule):
    """Records of each language, tokenised, split, mixed and packed. Everything wrong with the data is found here."""

    def __init__(
        self,
        source: Source,
        tokenizer,
        *,
        template: str,
        limits: Limits,
        batch_tokens: int,
        seed: int,
        temperature: float,
        english_share: float | None,
        language_cap: int | None,
        epochs: int,
        micro_batches: int | None,
    ):
        super().__init__()
        check_template(template, tokenizer)
        self.source, self.limits, self.batch_tokens, self.pad = source, limits, batch_tokens, tokenizer.eos_token_id
        self.samples: dict[str, Samples] = {}
        self.training: dict[str, np.ndarray] = {}  # indices of samples; empty where a language is only measured
        self.validation: dict[str, np.ndarray] = {}
        for language in source.languages:
            training, validation = source.read(language)
            if validation is None:
                self.training[language], self.validation[language] = split(len(training), language)
            else:
                indices = np.arange(len(training) + len(validation))
                self.training[language], self.validation[language] = np.split(indices, [len(training)])
            self.samples[language] = tokenize(language, training + (validation or []), template, tokenizer, limits)
        self.batches = TrainingBatches(
            self.samples,
            self.training,
            max_length=limits.max_length,
            batch_tokens=batch_tokens,
            pad=self.pad,
            seed=seed,
            mixture={"temperature": temperature, "english_share": english_share, "language_cap": language_cap},
            epochs=epochs,
            micro_batches=micro_batches,
        )
        self.rank, self.world = 0, 1

    def deal(self, rank: int, world: int) -> None:
        """Make from now on only the micro-batches of one of several ranks."""
        self.rank = self.batches.rank = rank
        self.world = self.batches.world = world

    def check_vocabulary(self, size: int) -> None:
        """Raise InputError where the tokenizer makes ids that the model's embedding does not have."""
        for language, samples in self.samples.items():
            largest = int(samples.table["largest_id"][:].max())
            if largest >= size:
                raise InputError(
                    f"--model: its tokenizer makes id {largest} of the {language} data, its embedding has {size} rows; "
                    "tokenizer and model do not belong together"
                )

    @property
    def languages(self) -> list[str]:
        """In the order of the validation loaders."""
        return list(self.samples)

    def train_dataloader(self) -> TrainingBatches:
        """All micro-batches of the run."""
        return self.batches

    def val_dataloader(self) -> list[DataLoader]:
        """One loader a language, of this rank's part of its packed validation samples; each rank has as many."""
        loaders = []
        for language, samples in self.samples.items():
            held_out = self.validation[language]
            batches = validation_batches(samples, held_out, self.limits.max_length, self.batch_tokens, self.pad)
            batches += [nothing(self.pad)] * (-len(batches) % self.world)
            loaders.append(DataLoader(batches[self.rank :: self.world], batch_size=None))
        return loaders

    def digests(self) -> dict[str, str]:
        """Of each language a hash of its records and of how many of them are trained on."""
        return {name: f"{samples.digest}:{len(self.training[name])}" for name, samples in self.samples.items()}

    def where(self, place: Place, row: int, number: int) -> str:
        """File and line of a packed training sample. The records are read again: nothing keeps their lines."""
        language, index = self.batches.samples_at(place)[row][number]
        training, validation = self.source.read(language)
        return (training + (validation or []))[index].where

    def an_example(self, room: int) -> tuple[str, np.ndarray, np.ndarray]:
        """(language, prompt ids, answer ids) of the first validation sample that leaves `room` in the window."""
        language = self.languages[0]
        pairs = [self.samples[language][index] for index in self.validation[language]]
        ids, prompt_length = next((p for p in pairs if p[1] + room <= self.limits.window), pairs[0])
        return language, ids[:prompt_length], ids[prompt_length:]
