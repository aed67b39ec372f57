"""A run from its model to its summary: validate, train, validate, and leave everything behind.

One that is resumed takes the first validation from its checkpoint and trains what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple
from hashlib import sha256
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from transformers import PreTrainedModel

from maple import devices, ranks, summary
from maple.adapter import adapter_tensors, save_adapter
from maple.checkpoint import Checkpoint, newest, steps, understood
from maple.data.instructions import Instructions
from maple.data.prompts import template_text
from maple.device import choose_device, with_room
from maple.devices import OwnSignals
from maple.display import Display
from maple.durability import Checkpoints, check_same_run
from maple.errors import InputError
from maple.guards import Diverged
from maple.hub import model_folder
from maple.loading import loading
from maple.loss import Score
from maple.memory import Setting, largest, predict
from maple.meters import Meters, MetricsFile, NoMetrics, rows_of_steps
from maple.model import load_model, read_config
from maple.module import FineTuning
from maple.outputs import CHECKPOINTS, CONFIG, METRICS, write_config
from maple.probe import KernelProbe
from maple.recompute import compile_layers, enable_recompute
from maple.room import advice, available_bytes, choose_recompute, size
from maple.sharded import Sharding, gather
from maple.shards import Shards

GRADIENT_CLIP = 1.0  # norm of the mean gradient per token, as in most recipes; QLoRA's is 0.3
SAMPLE_TOKENS = 48  # of the answer shown at each validation
BLAMED = 5  # samples that a message names; where more are to blame, it is not the samples


class Run:
    """One run in its folder, which the caller has claimed."""

    def __init__(
        self,
        arguments: dict,
        out: Path,
        console: Console,
        tokenizer,
        instructions: Instructions,
        load: Callable[..., PreTrainedModel] = load_model,
        watching: Sequence[Callback] = (),
    ):
        """`load` is called as `load_model`; `watching` see every step behind all else."""
        self.arguments, self.out, self.console = arguments, out, console
        self.load_model, self.watching = load, watching
        self.tokenizer, self.instructions = tokenizer, instructions
        self.device, self.dtype = choose_device(arguments["device"], arguments["precision"])
        self.total_steps = math.ceil(instructions.batches.total / (arguments["accumulate"] * arguments["devices"]))

    def go(self) -> None:
        """Do all of it. Raises InputError for whatever is wrong with model, data, settings, memory or disk."""
        with_room(self.work, self.out_of_memory)

    def work(self) -> None:
        """The run from its first line to its last."""
        self.decide_recompute()
        identity = self.identity()
        found = self.last_checkpoint() if self.arguments["resume"] else None
        if found:
            check_same_run(found, identity)
        self.load()
        before = self.resume(found) if found else self.begin()
        self.train(found, identity, before)
        tensors = gather(adapter_tensors(self.model), keep=ranks.is_first())
        if ranks.is_first():
            save_adapter(self.model, self.out / "adapter", self.arguments["template"], tensors)
        self.model.eval()
        after = self.validate()
        self.metrics.write_validation(self.meters.steps, after)
        if not ranks.is_first():
            return
        records = self.instructions.batches.counts
        record = summary.collect(self.arguments, records, self.model, self.meters, before, after, self.out)
        summary.show_end(self.console, record, self.out)

    def last_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to go on from; none of a run that was stopped before its first. Raises InputError."""
        if steps(self.out / CHECKPOINTS):
            return newest(self.out / CHECKPOINTS)
        if rows_of_steps(self.out / METRICS):
            raise InputError(
                f"--resume: {self.out / CHECKPOINTS} is empty, but {METRICS} beside it shows steps; bring the "
                "checkpoints back, or begin a new run"
            )
        self.console.print("It was stopped before its first checkpoint, so it begins again.")
        return None

    def identity(self) -> dict:
        """What makes this run this run: a checkpoint of another is not resumed."""
        settings = {name: value for name, value in self.arguments.items() if name not in ("out", "resume")}
        files = Shards(model_folder(self.arguments["model"], self.arguments["revision"]))
        template = template_text(self.arguments["template"], self.tokenizer)
        computing = {"device": self.device, "precision": self.dtype, "threads": torch.get_num_threads()}
        computing["sharded"] = self.arguments["strategy"] == "fsdp"
        computing = {name: str(value) for name, value in computing.items()}
        return {
            "config": settings,
            "model": files.fingerprint(),
            "data": self.instructions.digests(),
            "template": sha256(template.encode()).hexdigest(),
            "tokenizer": sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            "versions": summary.versions() | computing,
        }

    def setting(self) -> Setting:
        """What the memory of this run depends on."""
        folder = model_folder(self.arguments["model"], self.arguments["revision"])
        batch = largest(self.instructions.batches)
        return Setting(self.arguments, read_config(folder), batch, self.device.type, self.dtype, Shards(folder))

    def decide_recompute(self) -> None:
        """Fill in --recompute, from the memory that is left on the device that has least."""
        if self.arguments["recompute"] is None:
            every = devices.gathered([available_bytes(self.device, ranks.here().local_world)])
            self.arguments["recompute"] = choose_recompute(self.setting(), min(free for (free,) in every))

    def load(self) -> None:
        """The model with its LoRA, and the module that trains it."""
        arguments = self.arguments
        seed_everything(arguments["seed"], verbose=False)
        names = ("bits", "rank", "alpha", "dropout", "targets", "block_size", "double_quant", "rslora", "revision")
        settings = {name: arguments[name] for name in names}
        sharding = Sharding(self.device) if arguments["strategy"] == "fsdp" else None
        with loading(self.console) as progress:
            self.model = self.load_model(
                arguments["model"],
                device=self.device,
                dtype=self.dtype,
                progress=progress,
                sharding=sharding,
                **settings,
            )
        enable_recompute(self.model, arguments["recompute"])
        if arguments["compile"]:
            compile_layers(self.model)
        summary.show_model(self.console, self.model, arguments)
        settings = {name: arguments[name] for name in ("lr", "schedule", "warmup_steps")}
        languages = self.instructions.languages
        self.module = FineTuning(self.model, **settings, total_steps=self.total_steps, languages=languages)
        sample = summary.Sample(self.console, self.tokenizer, self.instructions, SAMPLE_TOKENS)
        self.validator = self.trainer([OwnSignals(), sample])

    def validate(self) -> dict[str, Score]:
        """The score of each language."""
        self.validator.validate(self.module, self.instructions.val_dataloader(), verbose=False)
        return self.module.validation

    def begin(self) -> dict[str, Score]:
        """Validate the base and open the files of a fresh run."""
        before = self.validate()
        losses = {language: score.mean_loss for language, score in before.items()}
        if not all(math.isfinite(loss) for loss in losses.values()):
            model = self.arguments["model"]
            raise InputError(f"--model {model}: its loss is {losses} before any training; it must be damaged")
        if ranks.is_first():
            write_config(self.out / CONFIG, self.arguments)
        self.open_metrics()
        self.metrics.write_validation(0, before)
        return before

    def resume(self, found: Checkpoint) -> dict[str, Score]:
        """Put model, data and counts where the checkpoint stood; the scores of the first validation."""
        with understood(found.path):
            found.restore_adapter(self.model)
            state, batches = found.state, self.instructions.batches
            if not 0 <= state["micro_batches"] <= batches.total:
                raise ValueError(f"micro-batch {state['micro_batches']} of {batches.total}")
            self.module.step = state["step"]
            batches.skip(state["micro_batches"], state["place"])
            self.open_metrics(state["metrics_bytes"])
            self.meters.restore(state["meters"])
            before = {language: Score(*state["before"][language]) for language in self.instructions.languages}
        self.console.print(f"Resumed at step {self.module.step} of {self.total_steps}.")
        return before

    def open_metrics(self, keep_bytes: int = 0) -> None:
        """metrics.csv, and the meters that write to it."""
        path, languages = self.out / METRICS, self.instructions.languages
        self.metrics = MetricsFile(path, languages, keep_bytes) if ranks.is_first() else NoMetrics()
        self.meters = Meters(self.metrics)

    def train(self, found: Checkpoint | None, identity: dict, before: dict[str, Score]) -> None:
        """Train what is left. An InputError names the last checkpoint, and for a NaN the samples that are to blame."""
        checkpoints = Checkpoints(
            self.out / CHECKPOINTS,
            self.console,
            every=self.arguments["checkpoint_every"],
            template=self.arguments["template"],
            identity=identity,
            before={language: astuple(score) for language, score in before.items()},
            meters=self.meters,
            metrics=self.metrics,
            resumed=found,
        )
        if not len(self.instructions.batches):  # it was stopped behind its last step
            return
        self.model.train()
        try:
            display = Display(self.console, self.meters, self.total_steps)
            trainer = self.trainer([KernelProbe(), self.meters, checkpoints, display, *self.watching], logs=True)
            trainer.fit(self.module, self.instructions.train_dataloader())
        except InputError as error:
            blame = f"; {self.blame(error)}" if isinstance(error, Diverged) else ""
            last = f"; the last good checkpoint is {checkpoints.last}" if checkpoints.last else ""
            raise InputError(f"{error}{blame}{last}") from error

    def blame(self, error: Diverged) -> str:
        """Which samples are to blame, by file and line."""
        names = [self.instructions.where(*sample) for sample in error.samples[:BLAMED]]
        count = len(error.samples)
        if count == 0:
            return f"none of its {error.total} samples does it alone: lower --lr {self.arguments['lr']}"
        if count == error.total:
            return (
                f"every one of its {count} samples does it, {names[0]} the first, so it is not the data: lower --lr "
                f"{self.arguments['lr']} or --alpha {self.arguments['alpha']}"
            )
        more = f" and {count - BLAMED} more" if count > BLAMED else ""
        return f"of its {error.total} samples these do it: {', '.join(names)}{more}"

    def out_of_memory(self, reason: str) -> str:
        """What it would have taken, and the flags that would lower it."""
        setting = self.setting()
        return (
            f"out of memory ({reason}); the run needs {size(predict(setting).needed)}, as predicted; {advice(setting)}"
        )

    def trainer(self, callbacks: list[Callback], logs: bool = False) -> Trainer:
        """Lightning's. All micro-batches of the run are one epoch to it; we validate before and after."""
        board = None
        if logs and self.arguments["logger"] == "tensorboard":
            # what a stopped run had shown of the steps that now come again is taken from the picture
            board = TensorBoardLogger(self.out, name="", version="tensorboard", purge_step=self.module.step + 1)
        rank = ranks.here()
        return Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=rank.local_world,
            num_nodes=rank.world // rank.local_world,
            strategy=devices.strategy(self.arguments["strategy"]),
            # Under SLURM Lightning would write checkpoints of its own, pickled and with the base, into the first of
            # these when the job is about to end, and read them back unasked. Ours are enough.
            default_root_dir=self.out / "none",
            plugins=[devices.environment()],
            use_distributed_sampler=False,  # the data were dealt already
            max_epochs=1,
            accumulate_grad_batches=self.arguments["accumulate"],
            gradient_clip_val=GRADIENT_CLIP,
            callbacks=callbacks,
            logger=board or False,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
