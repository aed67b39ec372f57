"""The LoRA layer: its formula, its start, what it adapts, and how many numbers that is."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

import kernels
from maple.errors import InputError
from maple.lora import LoRALinear, add_lora, lora_layers, match_targets, parameter_counts
from maple.quantized import QuantizedLinear

LLAMA_2_7B = LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000
)
MISTRAL_7B = MistralConfig(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=32000,
)
# the MAPLE dossier, table 1.3: rank -> numbers in q,v and in all linear layers
COUNTS = [
    (LLAMA_2_7B, 6_738_415_616, 8, 4_194_304, 19_988_480),
    (LLAMA_2_7B, 6_738_415_616, 32, 16_777_216, 79_953_920),
    (LLAMA_2_7B, 6_738_415_616, 128, 67_108_864, 319_815_680),
    (MISTRAL_7B, 7_241_732_096, 8, 3_407_872, 20_971_520),
    (MISTRAL_7B, 7_241_732_096, 64, 27_262_976, 167_772_160),
    (MISTRAL_7B, 7_241_732_096, 128, 54_525_952, 335_544_320),
]


def meta_model(config):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            model.set_submodule(path, QuantizedLinear(module.weight))
    return model


@pytest.mark.parametrize(
    ("config", "base", "rank", "qv", "every"), COUNTS, ids=lambda v: getattr(v, "model_type", str(v))
)
def test_parameter_counts_are_those_of_the_7b_models(config, base, rank, qv, every):
    for targets, count in (("qv", qv), ("all-linear", every)):
        model = meta_model(config)
        add_lora(model, rank, targets=targets)
        assert parameter_counts(model) == (count, base + count)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_layer_passes_gradcheck(bits, dropout):
    weight = torch.randn(6, 64)
    layer = LoRALinear(
        QuantizedLinear(weight.double() if bits == 16 else kernels.quantize(weight, bits)), 3, 5, dropout
    )
    a, b = (torch.randn(t.shape, dtype=torch.float64, requires_grad=True) for t in (layer.lora_a, layer.lora_b))
    x = torch.randn(4, 64, dtype=torch.float64, requires_grad=True)

    def run(x, a, b):
        torch.manual_seed(1)  # the seed of the mask is drawn from this generator
        return torch.func.functional_call(layer, {"lora_a": a, "lora_b": b}, (x,))

    assert gradcheck(run, (x, a, b))


def test_it_starts_as_the_base_and_a_is_kaiming_uniform():
    base = QuantizedLinear(kernels.quantize(torch.randn(48, 256), 4))
    layer = LoRALinear(base, 16, 16)
    x = torch.randn(5, 256)
    assert torch.equal(layer(x), base(x))
    bound = 256**-0.5
    assert layer.lora_a.abs().max() <= bound and layer.lora_a.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 8 / 4), (True, 8 / 4**0.5)])
def test_scaling(rslora, scaling):
    layer = LoRALinear(QuantizedLinear(torch.randn(6, 10)), rank=4, alpha=8, rslora=rslora)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 10)
    expected = x @ layer.base.packed.T + scaling * x @ layer.lora_a.T @ layer.lora_b.T
    torch.testing.assert_close(layer(x), expected)


def test_dropout_acts_in_training_only_and_its_mask_follows_the_generator():
    layer = LoRALinear(QuantizedLinear(torch.zeros(6, 64)), 4, 4, dropout=0.5)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(8, 64)

    def draw(seed):
        torch.manual_seed(seed)
        return layer(x)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    layer.eval()
    assert torch.equal(draw(1), draw(2))


PATHS = [f"model.layers.{i}.{m}" for i in range(2) for m in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")]


def test_targets():
    assert match_targets(PATHS, "all-linear") == PATHS
    assert match_targets(PATHS, "qv") == [p for p in PATHS if "attn" in p]
    assert match_targets(PATHS, "up_proj, v_proj") == [p for p in PATHS if not p.endswith("q_proj")]
    assert match_targets(PATHS, "mlp.up_proj") == [p for p in PATHS if "up_proj" in p]
    assert match_targets(PATHS, r".*layers\.1\..*_proj") == PATHS[3:]


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ("q_porj", "no linear layer is called 'q_porj'; did you mean 'q_proj'"),
        ("q_proj,lm_head", "no linear layer is called 'lm_head'"),
        ("attention", "no linear layer is called 'k_proj'"),  # these paths have none
        ("(q", "no regular expression"),
        (r"layers\.9.*", "matches none of 6"),
    ],
)
def test_targets_that_match_nothing_are_refused(targets, words):
    with pytest.raises(InputError, match=words):
        match_targets(PATHS, targets)


def test_only_a_and_b_are_trained():
    model = meta_model(LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, vocab_size=99))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    add_lora(model, 4, targets="attention")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{path}.lora_{x}" for path in lora_layers(model) for x in "ab"} and len(trained) == 16
