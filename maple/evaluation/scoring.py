"""Scoring under Lightning: choices by their likelihood, questions by a greedy answer.

Requests are sorted by length and cut into fixed batches, the longest first, which are dealt to the devices in turn; the
metric adds up over the devices. What a model chooses or answers does not depend on its neighbours beyond the rounding
of products with more or fewer rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from maple import devices, ranks
from maple.decoding import Decoder
from maple.evaluation.prompting import Request
from maple.evaluation.task import Setting
from maple.likelihood import score_choices
from maple.metrics.example import Estimate, ExampleMetric
from maple.tokenizer import stop_ids

# Of all texts that are answered at once: their cache takes 16 GiB in Llama-2-7B, 4 in Mistral-7B.
CACHED_TOKENS = 32_768


@dataclass(frozen=True)
class Answer:
    """What the model made of one request."""

    number: int  # of the request's example
    output: str  # the choice it finds likeliest, or what it wrote
    log_likelihoods: list[float]  # natural logarithms, of each choice; empty where it wrote
    scores: dict[str, float]  # by each name of the metric; empty where a judge decides


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    setting: Setting,
    language: str,
    requests: Sequence[Request],
    batch_size: int,
    advance: Callable[[int], None] = lambda examples: None,
) -> tuple[dict[str, Estimate], list[Answer]]:
    """(estimates over all devices, the answers in the order of `requests`).

    advance   called with the number of examples that were scored since the last call
    """
    module = Scoring(model, tokenizer, setting, language, requests, batch_size)
    longest_first = sorted(range(len(requests)), key=lambda index: -requests[index].length)
    batches = [longest_first[start : start + batch_size] for start in range(0, len(requests), batch_size)]
    rank = ranks.here()
    mine = batches[rank.number :: rank.world] or [[]]  # Lightning takes no empty loader
    trainer = Trainer(
        accelerator="gpu" if model.device.type == "cuda" else "cpu",
        devices=rank.local_world,
        num_nodes=rank.world // rank.local_world,
        strategy=devices.strategy("ddp"),
        plugins=[devices.environment()],
        use_distributed_sampler=False,  # the batches were dealt already
        callbacks=[devices.OwnSignals(), Advance(advance)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.test(module, DataLoader(mine, batch_size=None), verbose=False)
    module.decoder = None  # Lightning keeps the module for a while, and its cache would take the room of the next one
    estimates = module.metric.compute() if module.metric is not None else {}
    answers = [answer for part in devices.together(module.answers) for answer in part]
    return estimates, sorted(answers, key=lambda answer: answer.number)


class Scoring(LightningModule):
    """A model that is asked one task in one language; a batch is the places of some requests."""

    def __init__(self, model, tokenizer, setting: Setting, language: str, requests: Sequence[Request], batch_size: int):
        super().__init__()
        self.model, self.tokenizer, self.setting, self.requests = model, tokenizer, setting, requests
        self.metric: ExampleMetric | None = setting.metric(language) if setting.metric else None
        self.answers: list[Answer] = []
        self.ends, self.decoder = stop_ids(model, tokenizer), None
        if setting.generates:
            longest = max(request.length for request in requests) + setting.max_new_tokens
            rows = max(1, min(batch_size, len(requests), CACHED_TOKENS // longest))
            self.decoder = Decoder(model, rows, longest)
        # of a stop text: characters are up to four bytes, and a byte may be a token
        self.tail = max((len(text.encode()) for text in setting.stop), default=0) + 1

    def test_step(self, batch: list[int], _: int) -> None:
        """Answer some requests and add up their scores."""
        if not batch:
            return
        requests = [self.requests[index] for index in batch]
        for answer in self.written(requests) if self.setting.generates else self.chosen(requests):
            self.answers.append(answer)
            if self.metric is not None:
                self.metric.update(answer.scores)

    def chosen(self, requests: list[Request]) -> list[Answer]:
        """By the likelihood of each choice; those that see the same context are read behind it together."""
        items, owners = [], []
        for request in requests:
            cut_alike: dict[tuple[int, ...], list[int]] = {}
            for place, prefix in enumerate(request.prefixes):
                cut_alike.setdefault(tuple(prefix), []).append(place)
            for prefix, places in cut_alike.items():
                items.append((list(prefix), [request.continuations[place] for place in places]))
                owners.append((request.number, places))
        found: dict[int, dict[int, float]] = {request.number: {} for request in requests}
        for (number, places), likelihoods in zip(owners, score_choices(self.model, items), strict=True):
            found[number] |= {p: one.log_probability for p, one in zip(places, likelihoods, strict=True)}
        return [self.choice(request, found[request.number]) for request in requests]

    def choice(self, request: Request, found: dict[int, float]) -> Answer:
        """The answer that likelihoods by place amount to."""
        likelihoods = [found[place] for place in range(len(found))]
        asked = request.asked
        likeliest = max(range(len(found)), key=likelihoods.__getitem__)
        scores = self.metric.score(likelihoods, asked.choices, asked.gold)
        return Answer(request.number, asked.choices[likeliest], likelihoods, scores)

    def written(self, requests: list[Request]) -> list[Answer]:
        """By greedy decoding, up to EOS or a stop text."""
        prompts = [request.prefixes[0] for request in requests]
        made = self.decoder.generate(prompts, self.setting.max_new_tokens, self.ends, ends=self.stopped)
        answers = []
        for request, ids in zip(requests, made, strict=True):
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            for stop in self.setting.stop:
                text = text.split(stop)[0]
            if self.metric is None:  # a judge sees the answer alone, without the blank that a template leaves
                answers.append(Answer(request.number, self.setting.clean(text), [], {}))
            else:
                scores = self.metric.score(self.setting.clean(text), request.asked.answers)
                answers.append(Answer(request.number, text, [], scores))
        return answers

    def stopped(self, ids: list[int]) -> bool:
        """Whether the last token completed a stop text."""
        if not self.setting.stop:
            return False
        text = self.tokenizer.decode(ids[-self.tail :])
        return any(stop in text for stop in self.setting.stop)

    def cpu(self) -> Scoring:
        """Stay on the device: Lightning brings a model home after each phase, and the next language follows at once."""
        return self


class Advance(Callback):
    """Tells how many examples were scored."""

    def __init__(self, advance: Callable[[int], None]):
        self.advance = advance

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        """After each batch; the other devices are about as far."""
        self.advance(len(batch) * trainer.world_size)
