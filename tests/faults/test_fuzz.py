"""Whatever stands in a file or on a command line: it is taken, or refused in one sentence, in less than five seconds.

`python -m pytest tests/faults/test_fuzz.py`; other inputs each time, the same with the MAPLE_TEST_SEED of the header.
MAPLE_FUZZ is the number of inputs for each of the seven targets.
"""

import contextlib
import faulthandler
import io
import json
import os
import shutil

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import kernels
import maple
from maple import cli
from maple import fit as fit_module
from maple.adapter import load_adapter
from maple.chat import chat
from maple.data.records import read_records
from maple.errors import InputError
from maple.lora import linear_layers
from maple.merge import merge
from maple.origin import find_origin
from tests.conftest import SEED
from tests.faults.conftest import TAKEN, TRIED
from tests.faults.hostile import changed, damaged, dumps, json_file, keys, safetensors_file, scalars
from tests.maple.test_model import random_model

pytestmark = pytest.mark.filterwarnings("ignore::maple.errors.InputWarning")
INPUTS = int(os.environ.get("MAPLE_FUZZ", 3000))
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
FUZZ = settings(
    max_examples=INPUTS,
    deadline=5000,  # milliseconds, and a failure beyond
    database=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def fuzz(*strategies):
    return lambda test: seed(SEED)(FUZZ(given(*strategies)(test)))


@contextlib.contextmanager
def taken_or_refused(target):
    """Let nothing out but an InputError of one line. What hangs for a minute ends the run, with its stack."""
    TRIED[target] += 1
    faulthandler.dump_traceback_later(60, exit=True)
    try:
        yield
        TAKEN[target] += 1
    except InputError as error:
        assert str(error).isprintable() and 0 < len(str(error)) < 10_000, str(error)[:500]
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model in one file, one in shards, a packed one, and an adapter; nothing around is written to."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("world")
    model = random_model(num_key_value_heads=1, **SIZES)
    model.save_pretrained(folder / "one")
    model.save_pretrained(folder / "many", max_shard_size="4KB")
    (folder / "packed").mkdir()
    pack(folder / "one", folder / "packed")
    ours = maple.load_model((folder / "one").as_posix(), bits=16, rank=2, targets="qv")
    maple.save_adapter(ours, folder / "adapter", "alpaca")
    (folder / "adapter" / "SHA256SUMS").unlink()  # it would end every search at its first line
    (folder / "tmp").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "tmp")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


def pack(plain, packed):
    """A checkpoint as bitsandbytes writes it, double-quantised, by hand."""
    tensors = load_file(plain / "model.safetensors")
    for path in linear_layers(maple.load_model(plain.as_posix(), bits=16, rank=0)):
        key, w = f"{path}.weight", kernels.quantize(tensors[f"{path}.weight"], 4, 64, True)
        tensors[key], tensors[f"{key}.quant_map"] = w.codes.view(-1, 1), torch.tensor(kernels.naive.NF4_VALUES)
        tensors[f"{key}.absmax"], tensors[f"{key}.nested_absmax"] = w.absmax, w.nested_absmax
        tensors[f"{key}.nested_quant_map"] = w.nested_map
        state = {"shape": list(w.shape), "blocksize": 64, "nested_blocksize": 256}
        state["nested_offset"] = float(w.nested_offset)
        text = json.dumps(state).encode()
        tensors[f"{key}.quant_state.bitsandbytes__nf4"] = torch.tensor(list(text), dtype=torch.uint8)
    save_file(tensors, packed / "model.safetensors")
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (packed / "config.json").write_text(json.dumps(config))


def copy_of(folder):
    target = folder.with_name(f"{folder.name}-fuzzed")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    return target


# ------------------------------------------------------------------------------------------------- command lines

# fmt: off
GOOD = {
    "model": "tiny", "data": "tiny", "rank": "8", "bits": "4", "alpha": "16", "lr": "1e-3", "seed": "3", "epochs": "2",
    "languages": "de,sw", "targets": "[qv]_proj", "rslora": "true", "out": "new", "template": "alpaca", "prompt": "Hi",
    "adapter": "a", "temperature": "1.5", "max-tokens": "9", "device": "cpu", "schedule": "constant", "dropout": "0.1",
}
# fmt: on


@st.composite
def command_line(draw):
    """A verb and its words, most of them right."""
    verb = draw(st.sampled_from([fit_module.fit, fit_module.fit, chat, merge]))
    flags = [name.replace("_", "-") for name in verb.__annotations__ if name != "return"]
    words = []
    for flag in draw(st.lists(st.sampled_from([flag for flag in flags if flag in GOOD]), max_size=4, unique=True)):
        words += [f"--{flag}", GOOD[flag]]
    if draw(st.integers(0, 3)):
        flag = "--" + draw(st.sampled_from(flags) | st.sampled_from(["config", "print_config", "help", "", "rnk", "h"]))
        value = draw(scalars.map(str) | keys)
        form = draw(st.sampled_from(("two", "two", "two", "one", "flag", "value")))
        words += {"two": [flag, value], "one": [f"{flag}={value}"], "flag": [flag], "value": [value]}[form]
    return verb, words


def leave(function, argv):
    """(exit code, stderr) of a command line, in this process; the verb stops where torch would be needed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as leaving:
        cli.main(function, argv)
    return leaving.value.code, err.getvalue()


@pytest.fixture(scope="module")
def without_work(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "run", lambda arguments: None)
        patch.setattr("maple.chat.find_origin", lambda *_: (_ for _ in ()).throw(InputError("far enough")))
        patch.setattr("maple.merge.find_origin", lambda *_: (_ for _ in ()).throw(InputError("far enough")))
        yield


@fuzz(command_line())
def test_command_lines(world, without_work, line):
    with taken_or_refused("command lines"):
        code, err = leave(*line)
        assert code in (0, 2) and "Traceback" not in err and err.count("\n") <= 1, (code, err[:500])
        if code:
            raise InputError(err.rstrip("\n"))


# ------------------------------------------------------------------------------------------------- YAML

RECIPE = {"model": "tiny", "rank": 8, "lr": 1e-3, "rslora": True, "out": None, "languages": "de,sw"}


@st.composite
def yaml_file(draw):
    how = draw(st.sampled_from(("tree", "tree", "tree", "lines", "noise")))
    if how == "tree":
        tree = draw(changed(RECIPE))
        try:
            text = yaml.safe_dump(tree, allow_unicode=draw(st.booleans()), default_flow_style=draw(st.booleans()))
        except Exception:  # too deep for the writer, or a character it cannot write
            text = dumps(tree)
    elif how == "lines":
        pairs = st.tuples(st.sampled_from(sorted(RECIPE)) | keys, scalars.map(str) | keys)
        text = "\n".join(f"{key}: {value}" for key, value in draw(st.lists(pairs, max_size=5)))
    else:
        text = draw(st.text(alphabet="a:[]{}&*!|>-?,#'\"%@`\n\t \\0x~<", max_size=60))
    return draw(damaged(text.encode("utf-8", "surrogatepass")))


@fuzz(yaml_file())
def test_config_files(world, without_work, content):
    (world / "tmp" / "c.yaml").write_bytes(content)
    with taken_or_refused("config files"):
        code, err = leave(fit_module.fit, ["--config", "c.yaml"])
        assert code in (0, 2) and "Traceback" not in err and err.count("\n") <= 1, (code, err[:500])
        if code:
            raise InputError(err.rstrip("\n"))


# ------------------------------------------------------------------------------------------------- records

RECORD = {"instruction": "Say yes.", "input": "", "output": "yes"}


@fuzz(st.lists(json_file(RECORD), min_size=1, max_size=4), st.sampled_from((b"\n", b"\r\n", b"\r", b"\n\n", b"")))
def test_records(world, texts, between):
    path = world / "tmp" / "de.jsonl"
    path.write_bytes(between.join(texts))
    with taken_or_refused("records"):
        for record in read_records(path):
            assert all(isinstance(text, str) for text in (record.instruction, record.input, record.output))
            f"{record.instruction}{record.input}{record.output}".encode()


# ------------------------------------------------------------------------------------------------- models


def load(folder, bits=16):
    model = maple.load_model(folder.as_posix(), bits=bits, rank=0)
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))


@fuzz(st.data())
def test_model_json(world, data):
    folder = copy_of(world / "many")
    name = data.draw(st.sampled_from(("config.json", "model.safetensors.index.json", "generation_config.json")))
    (folder / name).write_bytes(data.draw(json_file(json.loads((folder / name).read_text()))))
    with taken_or_refused("model json"):
        load(folder)


@fuzz(st.data())
def test_model_tensors(world, data):
    kind = data.draw(st.sampled_from(("one", "packed")))
    folder = copy_of(world / kind)
    file = folder / "model.safetensors"
    if kind == "packed" and data.draw(st.booleans()):
        tensors = load_file(file)
        key = data.draw(st.sampled_from(sorted(name for name in tensors if "quant_state" in name)))
        text = data.draw(json_file(json.loads(bytes(tensors[key].tolist()))))
        tensors[key] = torch.tensor(list(text), dtype=torch.uint8)
        save_file(tensors, file)
    else:
        file.write_bytes(data.draw(safetensors_file(file.read_bytes())))
    with taken_or_refused("model tensors"):
        load(folder, 4 if kind == "packed" else 16)


# ------------------------------------------------------------------------------------------------- adapters


@pytest.fixture(scope="module")
def base(world):
    return maple.load_model((world / "one").as_posix(), bits=16, rank=0)


def put_on(base, folder):
    find_origin(None, folder.as_posix())
    load_adapter(base, folder)


@fuzz(st.data())
def test_adapter_config(world, base, data):
    folder = copy_of(world / "adapter")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["rank_pattern"], config["alpha_pattern"] = {"v_proj": 2}, {r"layers\.0\..*q_proj": 3.5}
    path.write_bytes(data.draw(json_file(config)))
    with taken_or_refused("adapter config"):
        put_on(base, folder)


@fuzz(st.data())
def test_adapter_tensors(world, base, data):
    folder = copy_of(world / "adapter")
    file = folder / "adapter_model.safetensors"
    if data.draw(st.integers(0, 3)) == 0:
        said = {"model": str(world / "one"), "bits": 16, "block_size": 64, "double_quant": True, "template": "alpaca"}
        said = data.draw(json_file(said)).decode("utf-8", "replace")
        save_file(load_file(file), file, metadata={"maple": said})
    else:
        file.write_bytes(data.draw(safetensors_file(file.read_bytes())))
    with taken_or_refused("adapter tensors"):
        put_on(base, folder)
