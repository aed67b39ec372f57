"""Merged models in plain transformers, beside float64 and peft's own merge, and everything that is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import maple
from maple import cli
from maple.data.prompts import prompt_ids
from maple.errors import InputError
from maple.lora import linear_layers, lora_layers
from maple.merge import merge
from maple.shards import Shards, write_shards
from tests.maple.test_chat import make_adapter, nameless
from tests.maple.test_model import IDS, edit, saved

ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # half a unit in the last place, relative


@pytest.fixture
def base(stories, tmp_path):
    """Write a small random model with a real tokenizer."""

    def write(folder="base", **options):
        saved(tmp_path / folder, vocab_size=512, **options)
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copyfile(stories / name, tmp_path / folder / name)
        return tmp_path / folder

    return write


def exact_weights(model):
    """{name: [out, in]} of every linear layer: dequantised, plus the adapter, in float64."""
    adapted, weights = lora_layers(model), {}
    for path, layer in linear_layers(model).items():
        packed = layer.packed
        weight = (packed.dequantize(torch.float32) if layer.is_packed else packed).double()
        if path in adapted:
            lora = adapted[path]
            weight = weight + lora.scaling * lora.lora_b.double() @ lora.lora_a.double()
        weights[f"{path}.weight"] = weight.detach()
    return weights


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize(
    ("family", "tied", "dtype"),
    [("llama", True, torch.float32), ("qwen2", False, torch.bfloat16), ("qwen3", True, torch.float16)],
)
def test_the_merged_model_is_base_plus_adapter_in_plain_transformers(tmp_path, base, bits, family, tied, dtype):
    folder = base(family=family, tied=tied, dtype=dtype)
    model = maple.load_model(
        str(folder), bits=bits, rank=4, alpha=6, targets="qv" if tied else "all-linear", rslora=tied
    )
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_b, std=0.1)
    maple.save_adapter(model, tmp_path / "adapter", "alpaca")
    merge(str(tmp_path / "adapter"), str(tmp_path / "merged"))

    stored = torch.bfloat16 if dtype == torch.float32 else dtype
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert theirs.dtype == stored and not hasattr(theirs.config, "quantization_config")
    exact, before = exact_weights(model), load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    assert after.keys() == before.keys() and {tensor.dtype for tensor in after.values()} == {stored}
    for name, tensor in after.items():
        if name in exact:
            bound = (ROUNDING[stored] * 1.01) * exact[name].abs() + 1e-7  # 1 %: float32 before the rounding
            assert ((tensor.double() - exact[name]).abs() <= bound).all(), name
        else:
            assert torch.equal(tensor, before[name].to(stored)), name

    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    oracle.load_state_dict({name: after[name].double() for name in after} | exact, strict=False)
    expected, found = oracle(IDS).logits, theirs.double()(IDS).logits
    moved = (found - expected).norm() / expected.norm()
    assert 0 < moved < 4 * ROUNDING[stored]
    unmerged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)(IDS).logits
    assert (unmerged - expected).norm() / expected.norm() > 8 * moved


@pytest.mark.parametrize("rslora", [False, True])
def test_at_16_bits_it_is_what_peft_merges(tmp_path, base, rslora):
    peft = pytest.importorskip("peft", reason="needs the peers extra")
    folder = base()
    config = peft.LoraConfig(
        r=4, lora_alpha=8, use_rslora=rslora, target_modules=["q_proj", "up_proj"], rank_pattern={"up_proj": 2}
    )
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    theirs.save_pretrained(tmp_path / "adapter")
    merge(str(tmp_path / "adapter"), str(tmp_path / "merged"), model=str(folder))
    expected = theirs.merge_and_unload().state_dict()
    for name, tensor in load_file(tmp_path / "merged" / "model.safetensors").items():
        bound = ROUNDING[torch.bfloat16] * 1.01 * expected[name].abs() + 1e-7
        assert ((tensor.float() - expected[name]).abs() <= bound).all(), name


@pytest.mark.parametrize("kind", ["nf4-double", "int8"])
def test_a_checkpoint_of_bitsandbytes_becomes_a_plain_one(tmp_path, stories, kind):
    pytest.importorskip("bitsandbytes", reason="needs the peers extra")
    from tests.maple.test_prequantized import checkpoint

    checkpoint(tmp_path, kind, vocab_size=512)
    packed = tmp_path / "packed"
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(stories / name, packed / name)
    bits = 8 if kind == "int8" else 4
    nameless(make_adapter(packed, tmp_path / "adapter", bits=bits))  # the checkpoint itself says its bits
    merge(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    model = maple.load_model(str(packed), bits=bits, rank=0)
    maple.load_adapter(model, tmp_path / "adapter")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert theirs.dtype == torch.bfloat16 and not hasattr(theirs.config, "quantization_config")
    weights = theirs.state_dict()
    for name, exact in exact_weights(model).items():
        assert ((weights[name].double() - exact).abs() <= ROUNDING[torch.bfloat16] * 1.01 * exact.abs() + 1e-7).all()


def test_the_real_model_with_an_adapter_on_4_bits(stories, tmp_path, capsys):
    adapter = make_adapter(stories, tmp_path / "adapter", bits=4)
    merge(str(adapter), str(tmp_path / "merged"))
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("by the adapter", "by merging", "KL divergence", "256 positions"))
    assert "The base counts in 4 bits, as the adapter was trained on." in printed and "0.5 MB in bfloat16" in printed
    ours = maple.load_model(str(stories), bits=4, rank=0)
    maple.load_adapter(ours, adapter)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    ids = torch.randint(3, 512, (2, 100))
    difference = (theirs(ids).logits - ours(ids).logits).abs()
    assert 0 < difference.mean() < 0.05 < ours(ids).logits.std()


# ------------------------------------------------------------------------------------------------- what goes with it


@pytest.mark.parametrize("template", ["alpaca", "bactrian"])
@pytest.mark.parametrize("legacy", [True, False])
def test_plain_transformers_prompts_as_in_training(base, tmp_path, template, legacy):
    folder = base()
    edit(folder / "tokenizer_config.json", lambda c: c.update(legacy=legacy, chat_template="{{ 'of the base' }}"))
    merge(str(make_adapter(folder, tmp_path / "adapter", template=template)), str(tmp_path / "merged"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    expected = prompt_ids(template, ["¿Qué es {esto}? 你好\n"], AutoTokenizer.from_pretrained(folder))
    turns = [{"role": "user", "content": "¿Qué es {esto}? 你好\n"}]
    assert tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"] == expected
    earlier = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "x"}, *turns]
    assert tokenizer.apply_chat_template(earlier, add_generation_prompt=True)["input_ids"] == expected
    answered = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "Eso."}], tokenize=False)
    assert answered.endswith("Eso.</s>")
    assert "chat_template" not in json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text())


def test_a_chat_template_that_was_trained_with_stays(base, tmp_path, capsys):
    text = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}<assistant>"
    folder = base()
    (folder / "chat_template.jinja").write_text(text)
    (folder / "tokenizer_of_before").mkdir()  # is not copied
    merge(str(make_adapter(folder, tmp_path / "adapter", template="chat")), str(tmp_path / "merged"))
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == text
    assert "Its chat template is chat, as in training." in capsys.readouterr().out


def test_answers_end_at_the_eos_of_the_training(base, tmp_path):
    for number, (settings, expected) in enumerate(
        [(None, 2), ({"eos_token_id": 7, "top_p": 0.9}, [2, 7]), ({"eos_token_id": [9, 2]}, [2, 9])]
    ):
        folder = base(f"base{number}")
        if settings:
            (folder / "generation_config.json").write_text(json.dumps(settings))
        merge(str(make_adapter(folder, tmp_path / f"adapter{number}")), str(tmp_path / f"merged{number}"))
        generation = AutoModelForCausalLM.from_pretrained(tmp_path / f"merged{number}").generation_config
        assert generation.eos_token_id == expected and generation.top_p == (settings or {}).get("top_p")


def test_the_merged_model_remembers_its_template_for_chat(base, tmp_path, capsys):
    from maple.chat import chat

    folder = base()
    merge(str(make_adapter(folder, tmp_path / "adapter", template="bactrian")), str(tmp_path / "merged"))
    chat(model=str(tmp_path / "merged"), prompt="x", max_tokens=2)
    assert "in 16 bits, no adapter, template bactrian" in capsys.readouterr().err


def test_an_adapter_that_says_nothing_changes_no_template(base, tmp_path, capsys):
    folder = base()
    (folder / "chat_template.jinja").write_text("of the base")
    nameless(make_adapter(folder, tmp_path / "adapter"))
    merge(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    printed = capsys.readouterr().out
    assert "does not name its prompt template" in printed and "as stored, since the adapter does not say" in printed
    assert (tmp_path / "merged" / "chat_template.jinja").read_text() == "of the base"


# ------------------------------------------------------------------------------------------------- shards


def test_many_shards_are_read_back_by_everybody(tmp_path, base, monkeypatch):
    folder = base(max_shard_size="60KB")
    adapter = make_adapter(folder, tmp_path / "adapter")
    merge(str(adapter), str(tmp_path / "one"))
    monkeypatch.setattr(write_shards, "__defaults__", (50_000,))
    merge(str(adapter), str(tmp_path / "many"))
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    one, many = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "many"))
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    read = Shards(tmp_path / "many")
    assert index["metadata"]["total_size"] == sum(read.get(name).nbytes for name in read.names)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_written_file_is_what_safetensors_reads(tmp_path, dtype):
    tensors = {"b": torch.randn(3, 5).to(dtype), "a": torch.randn(7).to(dtype), "ü": torch.randn(4, 2).to(dtype).T}
    write_shards(tmp_path, {name: list(t.shape) for name, t in tensors.items()}, dtype, lambda name: tensors[name])
    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in read)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert header % 8 == 0


# ------------------------------------------------------------------------------------------------- refused


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_write_that_fails_leaves_nothing(base, tmp_path, monkeypatch, error):
    adapter = make_adapter(base(), tmp_path / "adapter")
    before, written = tree(tmp_path), []

    def fail(*arguments):
        written.extend(tmp_path.glob(".merged*"))
        raise error

    monkeypatch.setattr("maple.merged.write_config", fail)
    with pytest.raises(InputError if isinstance(error, OSError) else type(error)) as raised:
        merge(str(adapter), str(tmp_path / "merged"))
    assert written and tree(tmp_path) == before and not list(tmp_path.glob("*merged*"))
    if isinstance(error, OSError):
        assert "merged could not be written (No space left on device); nothing is left of it" in str(raised.value)


def test_a_kill_leaves_no_half_folder(base, tmp_path):
    adapter = make_adapter(base(), tmp_path / "adapter")
    script = (
        "import os, signal, sys, maple.merged, maple.merge\n"
        "maple.merged.write_config = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "maple.merge.merge(sys.argv[1], sys.argv[2])"
    )
    done = subprocess.run([sys.executable, "-c", script, adapter, tmp_path / "merged"], capture_output=True)
    assert done.returncode == -9 and not (tmp_path / "merged").exists()
    merge(str(adapter), str(tmp_path / "merged"))  # what the kill left does not stand in the way
    assert (tmp_path / "merged" / "config.json").exists()


def test_a_disk_that_is_too_small_is_seen_before_a_weight_is_written(base, tmp_path, monkeypatch):
    adapter = make_adapter(base(), tmp_path / "adapter")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr("maple.merged.write_shards", lambda *_: pytest.fail("written"))
    with pytest.raises(InputError, match=r"the merged model takes 0.0 GB, 0.0 GB are free"):
        merge(str(adapter), str(tmp_path / "merged"))
    assert not list(tmp_path.glob("*merged*"))


def test_a_weight_that_float16_cannot_hold_is_refused(base, tmp_path):
    folder = base(dtype=torch.float16)
    adapter = make_adapter(folder, tmp_path / "adapter")
    edit(adapter / "adapter_config.json", lambda c: c.update(lora_alpha=1e9))
    with pytest.raises(InputError, match=r"holds a value that is too large for torch\.float16 once it is merged"):
        merge(str(adapter), str(tmp_path / "merged"))
    assert not list(tmp_path.glob("*merged*"))


REFUSED = [
    ("--out NEW", "missing: --adapter"),
    ("--adapter ADAPTER", "missing: --out"),
    ("--adapter ADAPTER --out NEW --bits 4", "unknown flag --bits"),
    ("--adapter ./nowhere --out NEW", "--adapter ./nowhere: there is no such folder"),
    ("--adapter BASE --out NEW", "has no adapter_config.json, so it holds no adapter"),
    ("--adapter ADAPTER --out NEW --model ./nowhere", "--model ./nowhere: there is no such folder"),
    ("--adapter ADAPTER --out NEW --model ADAPTER", "the folder has no config.json"),
    ("--adapter ADAPTER --out NEW --model OTHER", "if they are the same, write"),
    ("--adapter ADAPTER --out NEW --model SAME/base", "is the adapter for another base?"),
    ("--adapter ADAPTER --out TAKEN", "TAKEN is not empty; give a new folder"),
    ("--adapter ADAPTER --out TAKEN/thesis.txt", "is a file; give a folder"),
    ("--adapter ADAPTER --out BASE/merged", "is inside the folder of --model"),
    ("--adapter ADAPTER --out ADAPTER/merged", "is inside the folder of --adapter"),
    ("--adapter ADAPTER --out .", "is there already and cannot be replaced"),
    ("--adapter NAMELESS --out NEW", "names no base; give it as --model"),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED, ids=[flags for flags, _ in REFUSED])
def test_wrong_input_is_one_sentence_and_exit_code_2_and_changes_nothing(
    base, tmp_path, capsys, monkeypatch, flags, words
):
    adapter = make_adapter(base(), tmp_path / "ADAPTER")
    base("OTHER")
    base("SAME/base", hidden_size=32)
    nameless(Path(shutil.copytree(adapter, tmp_path / "NAMELESS")))
    edit(tmp_path / "NAMELESS" / "adapter_config.json", lambda c: c.pop("base_model_name_or_path"))
    (tmp_path / "TAKEN").mkdir()
    (tmp_path / "TAKEN" / "thesis.txt").write_text("x")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = tree(tmp_path)
    for name in ("ADAPTER", "BASE", "OTHER", "SAME", "TAKEN", "NAMELESS", "NEW"):
        flags = flags.replace(f" {name}", f" {tmp_path}/{name if name != 'BASE' else 'base'}")
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        cli.main(merge, flags.split())
    captured = capsys.readouterr()
    assert leaving.value.code == 2 and captured.out == "" and len(captured.err.splitlines()) == 1
    assert words in captured.err and captured.err.startswith("error: ")
    assert tree(tmp_path) == before and not (tmp_path / "NEW").exists()
