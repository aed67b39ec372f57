"""What is predicted from shapes alone is what a real step takes, counted and resident."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import kernels
import maple
from maple import tiny
from maple.data.packing import TrainingBatches
from maple.fit import fit
from maple.live import LiveBytes
from maple.lora import lora_parameters
from maple.loss import token_loss
from maple.memory import PARTS, MicroBatch, Setting, largest, predict
from maple.model import read_config
from maple.recompute import enable_recompute
from maple.run import Run
from maple.shards import Shards
from tests.conftest import SEED

ROOT = Path(__file__).resolve().parents[2]

FLAGS = {
    "strategy": "auto",
    "bits": 4,
    "rank": 32,
    "alpha": None,
    "dropout": 0.0,
    "targets": "all-linear",
    "rslora": False,
    "block_size": 64,
    "double_quant": True,
    "accumulate": 1,
    "recompute": "none",
    "batch_tokens": 8192,
    "max_length": 1024,
}
SEVEN_BILLION = LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, dtype="bfloat16"
)


@pytest.fixture(scope="module")
def random_llama(tmp_path_factory) -> Path:
    """A random Llama of 101.5 million parameters in bfloat16, with grouped heads."""
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=11,
        num_attention_heads=12,
        num_key_value_heads=4,
        vocab_size=20000,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert 95e6 < sum(parameter.numel() for parameter in model.parameters()) < 105e6
    model.save_pretrained(folder)
    return folder


def a_batch(shape: MicroBatch, vocabulary: int) -> dict:
    """Random tokens, several samples to a row."""
    labels = torch.full((shape.rows * shape.length,), -100)
    labels[: shape.supervised] = torch.randint(3, vocabulary, (shape.supervised,))
    return {
        "input_ids": torch.randint(3, vocabulary, (shape.rows, shape.length)),
        "position_ids": torch.arange(shape.length).repeat(shape.rows, 1) % 30,
        "labels": labels.view(shape.rows, shape.length),
    }


def steps(folder: Path, flags: dict, shape: MicroBatch) -> int:
    """Two real optimizer steps; the peak of live tensor bytes."""
    settings = {name: flags[name] for name in ("bits", "rank", "dropout", "targets", "double_quant")}
    model = maple.load_model(str(folder), **settings).train()
    enable_recompute(model, flags["recompute"])
    optimizer = torch.optim.AdamW([p for _, p in lora_parameters(model)])
    with LiveBytes() as counter:
        for tensor in (*model.parameters(), *model.buffers()):
            counter.count(tensor)
        for _ in range(2):
            for number in range(flags["accumulate"]):
                loss, _ = token_loss(model, a_batch(shape, model.config.vocab_size))
                if number == 0:
                    optimizer.zero_grad()
                loss.backward()
                del loss
            optimizer.step()
    return counter.peak.total()


def predicted(folder: Path, flags: dict, shape: MicroBatch):
    return predict(Setting(flags, read_config(folder), shape, "cpu", torch.float32, Shards(folder)))


def resident(key: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS now, VmHWM at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


CASES = {
    "4 bits": {},
    "8 bits": {"bits": 8},
    "16 bits": {"bits": 16},
    "plain absmax": {"double_quant": False},
    "rank 8": {"rank": 8},
    "rank 128": {"rank": 128},
    "two micro-batches a step": {"accumulate": 2},
    "dropout": {"dropout": 0.1},
    "layers recomputed": {"recompute": "layer"},
    "all but products recomputed": {"recompute": "selective"},
    "all but products recomputed, dropout": {"recompute": "selective", "dropout": 0.1},
    "layers recomputed, dropout": {"recompute": "layer", "dropout": 0.1},
    "some layers without LoRA": {"targets": "qv"},
    "some layers without LoRA, recomputed": {"targets": "qv", "recompute": "layer"},
}


@pytest.mark.parametrize("changed", CASES.values(), ids=CASES)
def test_the_prediction_is_what_a_step_of_the_embedded_model_takes(changed):
    shape = MicroBatch(rows=4, length=64, supervised=90)
    real, found = steps(tiny.BASE, FLAGS | changed, shape), predicted(tiny.BASE, FLAGS | changed, shape)
    assert found.total == pytest.approx(real, rel=0.01)
    assert list(found.parts) == list(PARTS) and all(count >= 0 for count in found.parts.values())


@pytest.mark.parametrize(
    "changed", [{}, {"bits": 8}, {"bits": 16}, {"bits": 8, "recompute": "layer", "rank": 128}], ids=str
)
def test_the_prediction_is_what_a_step_of_a_hundred_million_parameters_takes(random_llama, changed):
    shape = MicroBatch(rows=1, length=32, supervised=20)
    real, found = steps(random_llama, FLAGS | changed, shape), predicted(random_llama, FLAGS | changed, shape)
    assert found.total == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize(
    "flags",
    [{}, {"bits": 16, "rank": 128, "accumulate": 2, "dropout": 0.1}, {"bits": 8, "recompute": "layer"}],
    ids=["the defaults", "large", "small"],
)
def test_the_prediction_is_what_a_whole_run_takes_under_lightning(tmp_path, monkeypatch, flags):
    """With everything that the trainer, the checkpoints and the meters hold beside the step."""
    found = []
    train = Run.train

    def counted(run, *arguments):
        counter = LiveBytes()
        for tensor in (*run.model.parameters(), *run.model.buffers()):
            counter.count(tensor)
        with counter:
            train(run, *arguments)
        found.append((counter.highest, predict(run.setting()).total))

    monkeypatch.setattr(Run, "train", counted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fit(languages="en", max_steps=3, out=str(tmp_path / "run"), device="cpu", **flags)
    ((measured, predicted),) = found
    assert predicted == pytest.approx(measured, rel=0.02)


def test_the_parts_are_what_they_are_called():
    model = maple.load_model("tiny", bits=4, rank=32)
    parts = predicted(tiny.BASE, FLAGS, MicroBatch(4, 128, 150)).parts
    lora = sum(parameter.nbytes for _, parameter in lora_parameters(model))
    assert parts["LoRA"] == lora
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert parts["packed base"] == sum(p.nbytes for p in model.parameters()) + buffers - lora
    assert 2 * lora <= parts["optimizer"] <= 3 * lora + 10_000
    more = predicted(tiny.BASE, FLAGS, MicroBatch(4, 128, 500)).parts
    assert more["loss"] > parts["loss"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_seven_billion_parameters_are_predicted_in_seconds_without_a_gpu_or_memory(device):
    started = time.process_time()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    before = resident("VmRSS")
    setting = Setting(FLAGS, SEVEN_BILLION, MicroBatch(8, 1024, 4000), device, dtype)
    found = predict(setting)
    assert resident("VmRSS") - before < 300e6
    assert time.process_time() - started < 20  # 2 to 4 s on an idle core
    # 6.5 billion weights in 4.127 bits, 0.26 billion in 16
    assert found.parts["packed base"] == pytest.approx(6.476e9 * 4.127 / 8 + 0.262e9 * 2, rel=0.01)
    assert found.total > 30e9
    selective, layer = (predict(setting.changed(recompute=how)).total for how in ("selective", "layer"))
    assert layer < found.total / 4 < selective < found.total


# A process for each bit-width, with the imports of one: a child begins with its parent's libraries and a tidy heap.
STEPS = """
import json, os, sys, torch, numpy
import lightning.pytorch, maple.checks, maple.module, maple.summary
from maple.memory import MicroBatch
from tests.maple import test_memory
folder, flags, shape = json.loads(sys.argv[1])
torch.set_num_threads(1)
torch.randn(300, 300) @ torch.randn(300, 300)
for bits in (4, 8, 16):
    if os.fork() == 0:
        before = test_memory.resident("VmRSS")
        test_memory.steps(folder, flags | {"bits": bits}, MicroBatch(*shape))
        print(bits, test_memory.resident("VmHWM") - before, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_the_prediction_is_what_stays_in_memory_of_a_process(random_llama):
    shape = MicroBatch(rows=1, length=128, supervised=64)
    command = [sys.executable, "-c", STEPS, json.dumps([str(random_llama), FLAGS, shape])]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    measured = [tuple(map(int, line.split())) for line in printed.splitlines()]
    assert [bits for bits, _ in measured] == [4, 8, 16]
    for bits, most in measured:
        assert predicted(random_llama, FLAGS | {"bits": bits}, shape).resident == pytest.approx(most, rel=0.2)


# ----------------------------------------------------------------------------------------------------------------------
# The counter itself
# ----------------------------------------------------------------------------------------------------------------------


def test_a_storage_counts_once_and_until_it_is_freed():
    with LiveBytes("a") as counter:
        x = torch.zeros(1000)
        assert counter.live == {"a": 4000}
        views = [x[10:], x.view(10, 100).T, x.expand(5, 1000), x.detach()]
        x += 1
        assert counter.now == 4000
        y = x * 2
        assert counter.now == 8000
        del x
        assert counter.now == 8000  # its views are alive
        del views
        assert counter.now == 4000
        del y
    assert counter.now == 0 and counter.peak == {"a": 8000}


def test_the_peak_holds_its_parts_and_a_tensor_can_change_its_part():
    with LiveBytes("a") as counter:
        x = torch.zeros(100)
        counter.part = "b"
        y = torch.zeros(50)
        counter.count(x, "c")
        assert counter.live == {"a": 0, "b": 200, "c": 400}
        z = torch.zeros(1)
        del y, z
        torch.zeros(10)
    assert counter.peak == {"a": 0, "b": 204, "c": 400}


def test_what_was_there_before_counts_when_it_is_told():
    x = torch.zeros(100)
    with LiveBytes() as counter:
        x.view(10, 10)
        assert counter.now == 400  # a view of something not seen before: from here on it counts
        counter.count(x)
    assert counter.now == 400


def test_our_operators_are_looked_into():
    weight = kernels.quantize(torch.randn(64, 1024), bits=4)
    with LiveBytes() as counter:
        y = kernels.linear(torch.randn(8, 1024), weight)
    # the answer, the input, and the buffers that a weight is decoded in: an int32 and an int64 for each byte of codes
    assert counter.peak.total() >= y.nbytes + 8 * 1024 * 4 + weight.codes.numel() * 12


def test_what_lives_through_autograd_is_steps():
    with LiveBytes() as counter:
        x = torch.randn(100, requires_grad=True)
        y = x.exp().sum()  # exp keeps its result
        assert counter.now == 400 + 400 + 4
        y.backward()
        del y
        assert counter.now == 800  # x and its gradient


# ----------------------------------------------------------------------------------------------------------------------
# The largest micro-batch
# ----------------------------------------------------------------------------------------------------------------------


class Samples:
    """As maple.data.tokens.Samples, of lengths alone."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths)
        self.table = {"prompt_length": self.lengths // 2}

    def __getitem__(self, index):
        return np.arange(self.lengths[index]), int(self.lengths[index]) // 2


def test_the_largest_micro_batch_is_the_one_that_takes_most():
    generator = np.random.default_rng(SEED)
    lengths = generator.integers(4, 500, 300).clip(max=generator.choice([60, 200, 500]))
    settings = {"max_length": 512, "batch_tokens": 1100, "pad": 0, "seed": 0, "epochs": 1}
    batches = TrainingBatches(
        {"de": Samples(lengths)}, {"de": np.arange(300)}, mixture={}, micro_batches=None, **settings
    )
    shapes = {MicroBatch(*batch["labels"].shape, int((batch["labels"] != -100).sum())) for batch in batches}
    found = largest(batches)._replace(samples=1)
    assert found in shapes
    config = read_config(tiny.BASE)

    def total(shape: MicroBatch) -> int:
        return predict(Setting(FLAGS, config, shape, "cpu", torch.float32)).total

    most = max(total(shape) for shape in sorted(shapes, key=lambda s: s.rows * s.length)[-8:])
    assert total(found) == pytest.approx(most, rel=0.02)


def test_on_a_gpu_attention_takes_more_for_more_samples_and_for_float32():
    shapes = [MicroBatch(1, 2048, 500, samples) for samples in (1, 40)]
    few, many = (predict(Setting(FLAGS, SEVEN_BILLION, shape, "cuda", torch.bfloat16)).total for shape in shapes)
    assert 0 <= many - few <= 39 * 128 * 32 * 129 * 4  # a dQ in float32 and a number for each padded token and head
    setting = Setting(FLAGS | {"recompute": "layer"}, SEVEN_BILLION, MicroBatch(1, 4096, 500), "cuda", torch.float32)
    assert predict(setting).parts["activations"] > 5 * 32 * 4096**2 * 4


def test_of_several_devices_each_holds_its_share_of_the_layers_and_two_whole():
    setting = Setting(FLAGS, SEVEN_BILLION, MicroBatch(1, 1024, 500), "cuda", torch.bfloat16)
    alone = predict(setting).parts
    shared = predict(setting.changed(strategy="fsdp", devices=8)).parts
    assert shared["activations"] == alone["activations"] and shared["LoRA"] * 8 == alone["LoRA"]
    whole = 2 * SEVEN_BILLION.vocab_size * SEVEN_BILLION.hidden_size * 2  # embedding and head in 16 bits
    layers = alone["packed base"] - whole
    two = 2 * (layers + alone["LoRA"]) / SEVEN_BILLION.num_hidden_layers
    assert shared["packed base"] == pytest.approx(whole + layers / 8 + two, rel=0.01)
