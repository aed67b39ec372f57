"""Twenty AdamW steps beside peft on bitsandbytes: the same LoRA init, the same batches, float32."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import maple
from maple.data.packing import IGNORED
from maple.lora import lora_layers, lora_parameters
from maple.loss import token_loss
from tests.maple.test_model import saved

peft = pytest.importorskip("peft", reason="needs the peers extra")
bnb = pytest.importorskip("bitsandbytes", reason="needs the peers extra")

STEPS, LENGTH = 20, 24


def peer_base(folder, bits, double_quant):
    if bits == 4:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double_quant,
            bnb_4bit_compute_dtype=torch.float32,
        )  # fmt: skip
        return AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map="cpu", dtype=torch.float32
        )
    model = AutoModelForCausalLM.from_pretrained(folder)
    if bits == 8:  # its int8 layer also rounds activations; ours does not, so the peer is its weight in a plain layer
        for path, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and path != "lm_head":
                codes, absmax, _ = bnb.functional.int8_vectorwise_quant(module.weight.detach().half())
                module.weight.data = bnb.functional.int8_vectorwise_dequant(codes, absmax)
    return model


@pytest.mark.parametrize(("bits", "double_quant"), [(4, False), (4, True), (8, False), (16, False)])
@pytest.mark.parametrize("source", ["random", "stories"])
def test_losses_and_weights_stay_together(tmp_path, request, bits, double_quant, source):
    if source == "random":
        folder, vocabulary = tmp_path / "base", 99
        # fp16 values, since bitsandbytes rounds a float32 source of int8 to fp16 first
        model = saved(folder)
        for parameter in model.parameters():
            parameter.data = parameter.data.half().float()
        model.save_pretrained(folder)
    else:
        folder, vocabulary = request.getfixturevalue("stories"), 512
    theirs = peer_base(folder, bits, double_quant)
    if double_quant:  # its CPU path approximates the nested codes: start from its own bytes
        folder = tmp_path / "packed"
        theirs.save_pretrained(folder)
    ours = maple.load_model(folder.as_posix(), bits=bits, rank=8, alpha=16, double_quant=double_quant)
    if bits == 8 and source == "stories":  # its weights are no fp16 numbers: give both sides the peer's values
        for path, layer in lora_layers(ours).items():
            layer.base = type(layer.base)(theirs.get_submodule(path).weight.detach())
    maple.save_adapter(ours, tmp_path / "start")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "start", is_trainable=True).train()
    # Adam divides by the size of the gradient, so an element whose gradient is 0 but for rounding moves by up to the
    # learning rate, in either direction. An eps of 1e-6 instead of 1e-8 keeps that noise out of the comparison.
    optimizers = [
        torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-3, eps=1e-6, weight_decay=0.0)
        for m in (ours, theirs)
    ]
    ours.train()
    for _ in range(STEPS):
        ids = torch.randint(3, vocabulary, (4, LENGTH))
        labels = torch.where(torch.rand(4, LENGTH) < 0.6, ids, IGNORED)
        batch = {
            "input_ids": ids[:, :-1], "labels": labels[:, 1:], "position_ids": torch.arange(LENGTH - 1).expand(4, -1),
        }  # fmt: skip
        total, tokens = token_loss(ours, batch)
        losses = total / tokens, theirs(input_ids=ids, labels=labels).loss
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
    weights = {name.replace(".default.weight", "").lower(): p for name, p in theirs.named_parameters()}
    for kind in ("lora_a", "lora_b"):
        pairs = [(p, weights[f"base_model.model.{name}"]) for name, p in lora_parameters(ours) if name.endswith(kind)]
        found, expected = (torch.cat([p.detach().flatten() for p in side]) for side in zip(*pairs, strict=True))
        assert (found - expected).norm() <= 1e-4 * expected.norm(), kind
