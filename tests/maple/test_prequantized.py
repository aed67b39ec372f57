"""Checkpoints that the real bitsandbytes wrote, through transformers, load bit for bit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import maple
from maple.errors import InputError
from maple.lora import linear_layers
from tests.maple.test_model import IDS, edit, saved

pytest.importorskip("bitsandbytes", reason="needs the peers extra")
import bitsandbytes.functional as bnb

KINDS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "nf4-double": {
        "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.float32,
    },
    "int8": {"load_in_8bit": True},
}  # fmt: skip


def checkpoint(folder, kind, dtype=torch.bfloat16, **options):
    """A random Llama that transformers quantised with bitsandbytes and wrote; returns that model."""
    saved(folder / "plain", dtype=dtype, **options)
    config = BitsAndBytesConfig(**KINDS[kind])
    model = AutoModelForCausalLM.from_pretrained(
        folder / "plain", quantization_config=config, device_map="cpu", dtype=dtype
    )
    model.save_pretrained(folder / "packed")
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_and_every_value(tmp_path, kind):
    theirs = checkpoint(tmp_path, kind)
    stored = load_file(tmp_path / "packed" / "model.safetensors")
    ours = maple.load_model((tmp_path / "packed").as_posix(), bits=8 if kind == "int8" else 4, rank=0)
    for path, layer in linear_layers(ours).items():
        w, module = layer.packed, theirs.get_submodule(path)
        assert torch.equal(w.codes.view(-1), stored[f"{path}.weight"].view(-1))
        if kind == "int8":
            assert torch.equal(w.absmax, stored[f"{path}.SCB"].view(-1))
            theirs_values = bnb.int8_vectorwise_dequant(module.weight.CB, module.weight.SCB)
            torch.testing.assert_close(w.dequantize(), theirs_values, rtol=2**-22, atol=0)
        else:
            assert torch.equal(w.absmax, stored[f"{path}.weight.absmax"])
            assert torch.equal(
                w.dequantize(torch.bfloat16), bnb.dequantize_4bit(module.weight, module.weight.quant_state)
            )


@pytest.mark.parametrize("kind", ["nf4", "nf4-double"])  # its int8 product also rounds x to 8 bits
def test_the_logits_in_float32(tmp_path, kind):
    theirs = checkpoint(tmp_path, kind, torch.float32).train()  # in eval mode its CPU path computes in bfloat16
    ours = maple.load_model((tmp_path / "packed").as_posix(), bits=4, rank=0)
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, rtol=1e-4, atol=1e-4)


def test_the_stored_nested_map_is_used_not_assumed(tmp_path):
    checkpoint(tmp_path, "nf4-double")
    file = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(file)
    key = "model.layers.0.mlp.up_proj.weight.nested_quant_map"
    tensors[key] = tensors[key] * 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    model = maple.load_model((tmp_path / "packed").as_posix(), bits=4, rank=0)
    assert torch.equal(linear_layers(model)["model.layers.0.mlp.up_proj"].packed.nested_map, tensors[key])


def broken(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


UP = "model.layers.0.mlp.up_proj.weight"
STATE = f"{UP}.quant_state.bitsandbytes__nf4"


def restate(**values):
    def change(tensors):
        state = json.loads(bytes(tensors[STATE].tolist())) | values
        tensors[STATE] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{UP}.nested_absmax"), "weight.nested_absmax is missing"),
        (lambda t: t.update({f"{UP}.quant_map": torch.zeros(16)}), "its quant_map is not that of NF4"),
        (lambda t: t.update({UP: t[UP][:-1].clone()}), "codes of a packed weight"),
        (restate(nested_blocksize=128), "nested blocks of 128"),
        (restate(shape=[64, 172]), r"packed from \[64, 172\], the model has \[172, 64\]"),
        (restate(blocksize=96), "block_size is 96"),
        (restate(blocksize=64.0), r"shape and blocksize are \[172, 64, 64.0\]; whole numbers"),
        (restate(nested_offset=[[0.1]]), "TypeError"),
        (restate(nested_offset=float("nan")), "its nested_offset holds NaN or inf"),
        (lambda t: t.update({STATE: torch.tensor(list(b"[" * 4000), dtype=torch.uint8)}), "nested too deep|not JSON"),
        (lambda t: t.update({STATE: torch.zeros(5000, dtype=torch.uint8)}), "is 5000 of torch.uint8, not some JSON"),
        (
            lambda t: t.update({STATE: torch.tensor(list(b"{}"), dtype=torch.uint8)}),
            "KeyError: 'shape'",
        ),
        (lambda t: t.update({STATE: torch.tensor([1, 2], dtype=torch.uint8)}), "up_proj.weight: "),
        (lambda t: t.update({STATE.replace("nf4", "fp4"): t.pop(STATE)}), "is FP4"),
    ],
)
def test_parts_that_disagree_are_refused(tmp_path, change, words):
    checkpoint(tmp_path, "nf4-double")
    broken(tmp_path / "packed", change)
    with pytest.raises(InputError, match=words):
        maple.load_model((tmp_path / "packed").as_posix(), bits=4)


def test_a_quantised_output_head_is_refused(tmp_path):
    checkpoint(tmp_path, "int8")
    head = {"lm_head.SCB": torch.ones(99), "lm_head.weight": torch.zeros(99, 64, dtype=torch.int8)}
    broken(tmp_path / "packed", lambda t: t.update(head))
    with pytest.raises(InputError, match="is quantised; an output head must be in 16 bits"):
        maple.load_model((tmp_path / "packed").as_posix(), bits=8)


def test_other_bits_than_stored_are_refused(tmp_path):
    checkpoint(tmp_path, "nf4")
    with pytest.raises(InputError, match="quantised to 4 bits already; use --bits 4"):
        maple.load_model((tmp_path / "packed").as_posix(), bits=16)
    edit(tmp_path / "packed" / "config.json", lambda c: c["quantization_config"].update(bnb_4bit_quant_type="fp4"))
    with pytest.raises(InputError, match="FP4 is not supported"):
        maple.load_model((tmp_path / "packed").as_posix(), bits=4)
