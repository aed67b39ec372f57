"""Adapters in PEFT's format: the real peft reads ours, we read its, and what is not supported is refused by name."""

import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import maple
from maple.errors import InputError, InputWarning
from maple.lora import add_lora, lora_layers
from maple.origin import adapter_origin
from tests.maple.test_model import IDS, edit, saved, sign

peft = pytest.importorskip("peft", reason="needs the peers extra")


def randomise(model):
    for name, parameter in model.named_parameters():
        if "lora_" in name.lower():
            torch.nn.init.normal_(parameter.data, std=0.1)


def plain(folder, rank=0, **options):
    return maple.load_model(folder.as_posix(), bits=16, rank=rank, **options)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", "qv", r".*layers\.1\.self_attn\..*", "mlp.up_proj"])
def test_ours_in_peft_gives_the_same_logits(tmp_path, rslora, targets):
    base = saved(tmp_path / "base")
    ours = plain(tmp_path / "base", rank=4, alpha=6.5, targets=targets, rslora=rslora)
    randomise(ours)
    maple.save_adapter(ours, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert len(lora_layers(ours)) == sum(
        type(m).__name__ == "Linear" and hasattr(m, "lora_A") for m in theirs.modules()
    )
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, rtol=1e-4, atol=1e-4)


PEFT_CONFIGS = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "rslora": {"target_modules": "all-linear", "use_rslora": True},
    "regex": {"target_modules": r".*layers\.0\.mlp\.(up|down)_proj"},
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7},
        "alpha_pattern": {"v_proj": 3, "model.layers.0.self_attn.q_proj": 11},
    },
    "gaussian": {"target_modules": ["o_proj"], "init_lora_weights": "gaussian", "lora_dropout": 0.2},
}


@pytest.mark.parametrize("kind", PEFT_CONFIGS)
def test_theirs_in_ours_gives_the_same_logits_and_goes_back(tmp_path, kind):
    base = saved(tmp_path / "base")
    config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **PEFT_CONFIGS[kind])
    theirs = peft.get_peft_model(base, config).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = plain(tmp_path / "base", rank=3)  # the LoRA it carries is replaced
    maple.load_adapter(ours, tmp_path / "theirs")
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, rtol=1e-4, atol=1e-4)
    maple.save_adapter(ours, tmp_path / "again")
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "again").eval()
    torch.testing.assert_close(again(IDS).logits, theirs(IDS).logits, rtol=1e-4, atol=1e-4)


def test_saved_and_loaded_is_the_same_bytes_and_remembers_its_origin(tmp_path):
    saved(tmp_path / "base")
    model = plain(tmp_path / "base", rank=4)
    randomise(model)
    maple.save_adapter(model, tmp_path / "one", template="alpaca")
    other = plain(tmp_path / "base")
    maple.load_adapter(other, tmp_path / "one")
    maple.save_adapter(other, tmp_path / "two", template="alpaca")
    one, two = (tmp_path / name / "adapter_model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    origin = adapter_origin(tmp_path / "one")
    assert origin == {"model": (tmp_path / "base").as_posix(), "revision": None, "bits": 16, "template": "alpaca"}
    files = ["SHA256SUMS", "adapter_config.json", "adapter_model.safetensors"]
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == files


def test_a_model_without_lora_has_nothing_to_save(tmp_path):
    saved(tmp_path / "base")
    with pytest.raises(InputError, match="carries no LoRA"):
        maple.save_adapter(plain(tmp_path / "base"), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


# ------------------------------------------------------------------------------------------------- refused


def config(**values):
    return lambda folder: edit(folder / "adapter_config.json", lambda c: c.update(values))


def tensors(change):
    def harm(folder):
        content = load_file(folder / "adapter_model.safetensors")
        change(content)
        save_file(content, folder / "adapter_model.safetensors")

    return harm


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
REFUSED = [
    (config(use_dora=True), "use_dora is True, which is not supported"),
    (config(peft_type="IA3"), "peft_type is 'IA3'"),
    (config(task_type="SEQ_CLS"), "task_type is 'SEQ_CLS'"),
    (config(bias="all"), "bias is 'all'"),
    (config(init_lora_weights="pissa"), "init_lora_weights is 'pissa', which changes the base"),
    (config(modules_to_save=["lm_head"]), "modules_to_save is .*lm_head"),
    (config(layers_to_transform=[0]), "layers_to_transform"),
    (config(exclude_modules=["q_proj"]), "exclude_modules"),
    (config(fan_in_fan_out=True), "fan_in_fan_out"),
    (config(something_new={"a": 1}), "something_new is .*not supported"),
    (config(r=0), "r is 0; a rank is a whole number"),
    (config(r="8"), "r is '8'"),
    (config(r=True), "r is True; a rank"),
    (config(r=10**12), r"lora_A.weight is \[4, 64\], this model needs \[1000000000000, 64\]"),  # nothing of it is made
    (config(rank_pattern={"q_proj": 10**12}), r"this model needs \[1000000000000, 64\]"),
    (config(rank_pattern=[4]), r"rank_pattern is \[4\]; an object"),
    (config(rank_pattern={"(.|[a-z])*!": 4}), "rank_pattern: matching .* takes more than 1.5 s"),
    (config(alpha_pattern="x"), "alpha_pattern is 'x'; an object"),
    (config(lora_alpha=float("nan")), "lora_alpha is nan; an alpha is a number"),
    (config(lora_alpha=10**400), "lora_alpha is 1000.*; an alpha is a number"),
    (config(lora_alpha=True), "lora_alpha is True"),
    (config(lora_dropout=1), "lora_dropout is 1; a number from 0 to below 1"),
    (config(lora_dropout="0.1"), "lora_dropout is '0.1'"),
    (config(lora_dropout=float("nan")), "lora_dropout is nan"),
    (config(use_rslora=1), "use_rslora is 1; true or false"),
    (config(target_modules=["q_proj", 3]), r"target_modules is \['q_proj', 3\]; names or a pattern"),
    (config(target_modules=r"(.*)*!"), r"target_modules: matching '\(\.\*\)\*!' takes more than 1.5 s"),
    (config(target_modules=["q_proj\n\x1b[2J"]), r"target_modules names 'q_proj\\n\\x1b\[2J'"),
    (config(base_layer=["x"] * 10**5), "base_layer is .*not supported"),
    (config(lora_alpha=None), "lora_alpha is None"),
    (config(rank_pattern={"q_proj": -1}), "q_proj is -1"),
    (config(rank_pattern={"*x": 4}), r"rank_pattern: '\*x' is no regular expression"),
    (config(target_modules=[]), "target_modules is"),
    (config(target_modules=["qq_proj"]), "target_modules names 'qq_proj'"),
    (config(target_modules="(("), r"target_modules: '\(\(' is no regular expression"),
    (config(target_modules=["q_proj", "v_proj", "o_proj"]), "o_proj.lora_A.weight is missing"),
    (config(r=5), r"lora_A.weight is \[4, 64\], this model needs \[5, 64\]"),
    (tensors(lambda t: t[A].fill_(float("nan"))), "q_proj.lora_A.weight holds NaN or inf"),
    (tensors(lambda t: t.update({A: t[A].to(torch.complex64)})), "lora_A.weight is torch.complex64; floats are"),
    (tensors(lambda t: t.update({A: t[A].bool()})), "lora_A.weight is torch.bool"),
    (tensors(lambda t: t.update({A: t[A].reshape(-1)})), r"lora_A.weight is \[256\], this model needs \[4, 64\]"),
    (tensors(lambda t: t.pop(A)), "q_proj.lora_A.weight is missing"),
    (tensors(lambda t: t.update(extra=torch.ones(2))), "extra is no LoRA weight"),
    (lambda f: (f / "adapter_config.json").write_text("{,"), "not JSON"),
    (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json is missing"),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b"no"), "not a readable safetensors file"),
    (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
]


@pytest.mark.parametrize(("harm", "words"), REFUSED, ids=[words[:30] for _, words in REFUSED])
def test_what_cannot_be_loaded_is_refused_and_the_model_stays_as_it_was(tmp_path, harm, words):
    saved(tmp_path / "base")
    maple.save_adapter(plain(tmp_path / "base", rank=4, targets="qv"), tmp_path / "adapter")
    harm(tmp_path / "adapter")
    sign(tmp_path / "adapter")
    model = plain(tmp_path / "base")
    add_lora(model, 2)
    before = {path: layer.lora_a for path, layer in lora_layers(model).items()}
    with pytest.raises(InputError, match=words):
        maple.load_adapter(model, tmp_path / "adapter")
    assert {path: layer.lora_a for path, layer in lora_layers(model).items()} == before


def test_every_default_of_the_installed_peft_is_accepted(tmp_path):
    saved(tmp_path / "base")
    model = plain(tmp_path / "base", rank=4, targets="qv")
    maple.save_adapter(model, tmp_path / "adapter")
    defaults = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    defaults.save_pretrained(tmp_path / "adapter")
    sign(tmp_path / "adapter")
    assert len(json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())) > 20
    maple.load_adapter(model, tmp_path / "adapter")


# ------------------------------------------------------------------------------------------- not what was written


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "SHA256SUMS"])
def test_an_adapter_of_which_a_bit_was_changed_is_refused(tmp_path, name):
    saved(tmp_path / "base")
    model = plain(tmp_path / "base", rank=4)
    maple.save_adapter(model, tmp_path / "adapter")
    flip(tmp_path / "adapter" / name)
    with pytest.raises(InputError):
        maple.load_adapter(model, tmp_path / "adapter")


def test_a_change_on_purpose_is_signed_as_the_message_says(tmp_path):
    saved(tmp_path / "base")
    model, folder = plain(tmp_path / "base", rank=4), tmp_path / "adapter"
    maple.save_adapter(model, folder)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 8'))
    with pytest.raises(InputError, match=r"its SHA-256 is not the one .* write new hashes: sha256sum ") as error:
        maple.load_adapter(model, folder)
    subprocess.run(str(error.value).rpartition("hashes: ")[2], shell=True, cwd=folder, check=True)
    maple.load_adapter(model, folder)
    assert next(iter(lora_layers(model).values())).alpha == 8


def test_our_adapter_without_its_hashes_loads_with_a_warning(tmp_path):
    saved(tmp_path / "base")
    model = plain(tmp_path / "base", rank=4)
    maple.save_adapter(model, tmp_path / "adapter")
    (tmp_path / "adapter" / "SHA256SUMS").unlink()
    with pytest.warns(InputWarning, match="SHA256SUMS is missing"):
        maple.load_adapter(model, tmp_path / "adapter")
