"""From a folder to a model: beside transformers' own loading, and everything that is refused."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import kernels
import maple
from maple.durable import file_sha256
from maple.errors import InputError
from maple.lora import linear_layers, lora_layers
from maple.origin import CONFIG, WEIGHTS
from maple.shards import INDEX, Shards, announced_bytes
from maple.sums import write_sums

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "max_position_embeddings": 128,
}
FAMILIES = [(f, tied) for f in ("llama", "mistral", "qwen2", "qwen3") for tied in (True, False)]


def random_model(family="llama", tied=False, dtype=torch.float32, **more):
    config = AutoConfig.for_model(family, **{**SIZES, "tie_word_embeddings": tied, **more})
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for parameter in model.parameters():  # biases and norms start as 0 and 1, which would hide that they are not loaded
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def saved(folder, **options):
    shards = {"max_shard_size": options.pop("max_shard_size")} if "max_shard_size" in options else {}
    model = random_model(**options)
    model.save_pretrained(folder, **shards)
    return model


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    sign(path.parent)


def sign(folder):
    """New hashes for an adapter that was changed on purpose."""
    files = [folder / name for name in (CONFIG, WEIGHTS)]
    if (folder / "SHA256SUMS").exists() and all(path.exists() for path in files):
        write_sums(folder, {path.name: file_sha256(path) for path in files})


IDS = torch.arange(40).view(2, 20)


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
@pytest.mark.parametrize("max_shard_size", ["5GB", "60KB"])
def test_16_bits_are_transformers_own_logits(tmp_path, family, tied, max_shard_size):
    theirs = saved(tmp_path, family=family, tied=tied, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (max_shard_size == "60KB")
    ours = maple.load_model(tmp_path.as_posix(), bits=16, rank=4)
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, rtol=1e-5, atol=1e-5)
    head, embedding = ours.get_output_embeddings(), ours.get_input_embeddings()
    assert (head.weight is embedding.weight) == tied


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 5e5},
        {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
    ids=["default", "llama3"],
)
def test_rotary_frequencies_are_those_of_a_model_built_on_the_cpu(tmp_path, rope):
    theirs = saved(tmp_path, rope_parameters=rope)
    ours = maple.load_model(tmp_path.as_posix(), bits=4)
    buffers = dict(ours.named_buffers())
    assert buffers and not any(b.is_meta for b in buffers.values())
    for name, buffer in theirs.named_buffers():
        assert torch.equal(buffers[name], buffer), name


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_layers_are_the_packed_weights_of_the_file(tmp_path, bits):
    saved(tmp_path, dtype=torch.bfloat16)
    weights = load_file(tmp_path / "model.safetensors")
    model = maple.load_model(tmp_path.as_posix(), bits=bits, rank=0, block_size=128)
    layers = linear_layers(model)
    assert len(layers) == 14 and not lora_layers(model)
    for path, layer in layers.items():
        expected = kernels.quantize(weights[f"{path}.weight"], bits, 128, double_quant=True).tensors()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in layer.packed.tensors().items())


def test_the_rest_stays_in_16_bits_and_a_cpu_computes_in_float32(tmp_path):
    theirs = saved(tmp_path, dtype=torch.bfloat16).float()
    model = maple.load_model(tmp_path.as_posix(), bits=16, rank=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    logits = model(IDS).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, theirs(IDS).logits, rtol=1e-4, atol=1e-5)
    lower = maple.load_model(tmp_path.as_posix(), bits=4, rank=8, dtype=torch.bfloat16)
    assert lower(IDS).logits.dtype == torch.bfloat16


def test_greedy_decoding_of_the_real_model(stories):
    model, tokenizer = maple.load_model(stories.as_posix(), bits=16), AutoTokenizer.from_pretrained(stories)
    ids = model.generate(torch.tensor([[1]]), max_new_tokens=48, do_sample=False, pad_token_id=0)
    assert tokenizer.decode(ids[0], skip_special_tokens=True).startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
        "One day, she saw a big, red ball."
    )


MEASURE_LOADING = """
import sys, torch, maple
def anonymous():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))
import threading, time, maple.model
maple.load_model(sys.argv[2], bits=4, rank=0)  # imports and allocator warm
before, peak, done = anonymous(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous()); time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
model = maple.load_model(sys.argv[1], bits=4, rank=0)
done = True; thread.join()
print(peak - before, sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads RssAnon from /proc")
def test_peak_memory_is_the_packed_model_its_rest_and_one_tensor(tmp_path):
    big = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 16}
    saved(tmp_path / "big", dtype=torch.bfloat16, vocab_size=4000, **big)
    saved(tmp_path / "small", dtype=torch.bfloat16)
    largest = 1024 * 4096 * 2
    folders = [(tmp_path / name).as_posix() for name in ("big", "small")]
    output = subprocess.run(
        [sys.executable, "-c", MEASURE_LOADING, *folders], capture_output=True, text=True, check=True
    )
    peak, held = map(int, output.stdout.split())
    stored = sum(f.stat().st_size for f in (tmp_path / "big").glob("*.safetensors"))
    assert held < stored / 3
    # one tensor in 16 bits, and the float32 chunks it is quantised in: at most six of 4 MiB at once
    assert peak <= held + largest + 6 * 2**22 + 0.05 * held


# ------------------------------------------------------------------------------------------------- refused


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def poison(tensors):
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")


def drop_a_shard(folder):
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def index(change):
    return lambda folder: edit(folder / "model.safetensors.index.json", lambda i: change(i["weight_map"]))


def config(**values):
    return lambda folder: edit(folder / "config.json", lambda c: c.update(values))


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


ONE, MANY = "5GB", "60KB"
REFUSED = [
    (ONE, lambda f: rewrite(f, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")), "up_proj.weight is missing"),
    (ONE, lambda f: rewrite(f, lambda t: t.update(extra=torch.ones(1))), "extra is in the files but not in the model"),
    (ONE, config(intermediate_size=170), r"gate_proj.weight is \[172, 64\], the model has \[170, 64\]|down_proj"),
    (ONE, lambda f: rewrite(f, poison), "tensor model.layers.1.mlp.up_proj.weight: the weight holds nan at row 3, col"),
    (ONE, lambda f: (f / "model.safetensors").write_bytes(b"\x10" * 200), "not a readable safetensors file"),
    (ONE, lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors nor"),
    (ONE, only_a_pickle, "pytorch_model.bin is a pickle"),
    (ONE, lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
    (ONE, lambda f: (f / "config.json").unlink(), "has no config.json"),
    (ONE, config(hidden_size="x"), "config.json: hidden_size is 'x'; a whole number"),
    (ONE, config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000; a whole number from 1 to 1024"),
    (ONE, config(num_hidden_layers=0), "num_hidden_layers is 0"),
    (ONE, config(hidden_size=10**15), "hidden_size is 1000000000000000"),
    (ONE, config(vocab_size=10**18), "vocab_size is 1000000000000000000"),
    (ONE, config(vocab_size=99.0), "vocab_size is 99.0"),
    (ONE, config(head_dim=0), "head_dim is 0"),
    (ONE, config(intermediate_size=-1), "intermediate_size is -1"),
    (ONE, config(num_labels=10**10), "num_labels is 10000000000"),  # transformers would make a list of their names
    (ONE, config(model_type=["llama"]), r"model_type \['llama'\] is not supported"),
    (
        ONE,
        config(rope_parameters={"rope_type": "linear", "factor": 1.0, "rope_theta": 1e4, "partial_rotary_factor": 1e9}),
        "inv_freq of the model would hold",
    ),
    (ONE, config(num_attention_heads=7), "config.json: no model can be built from it"),
    (ONE, config(rope_parameters={"rope_type": "nonsense"}), "config.json: no model can be built from it"),
    (ONE, config(quantization_config="x"), "quantised by 'x'"),
    (ONE, config(num_hidden_layers=999), "config.json has 999 layers, the files only 21 tensors"),
    (ONE, config(max_position_embeddings=-1), "max_position_embeddings is -1"),
    (
        ONE,
        lambda f: (f / "generation_config.json").write_text('{"eos_token_id": [2, 1e400]}'),
        r"eos_token_id is \[2, inf\]; a token id is needed",
    ),
    (ONE, lambda f: (f / "generation_config.json").write_text("[]"), "generation_config.json: not a JSON object"),
    (
        ONE,
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": 1, "bnb_4bit_quant_type": "nf4"}),
        "no layer of it is packed",
    ),
    (ONE, lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec"), "git lfs pull"),
    (ONE, config(auto_map={"AutoModelForCausalLM": "x.Y"}), "never runs a model's code"),
    (ONE, config(model_type="gpt2"), "model_type 'gpt2' is not supported; known: llama, mistral, qwen2, qwen3"),
    (ONE, config(model_type="mixtral", num_local_experts=8), "mixtral is a mixture of experts"),
    (ONE, config(quantization_config={"quant_method": "gptq"}), "quantised by 'gptq'"),
    (ONE, config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}), "FP4 is not supported"),
    (ONE, config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}), "use --bits 8"),
    (MANY, drop_a_shard, "which is missing; download"),
    (MANY, index(lambda m: m.update({"model.norm.weight": "../model.safetensors"})), "not a file of this folder"),
    (MANY, index(lambda m: m.update({"model.norm.weight": "/etc/passwd"})), "not a file of this folder"),
    (MANY, index(lambda m: m.update({"model.norm.weight": ".."})), "not a file of this folder"),
    (MANY, index(lambda m: m.update({"model.norm.weight": "x" * 5000})), "which is missing"),
    (MANY, index(lambda m: m.update({"model.norm.weight": "a\0b"})), "which is missing"),
    (MANY, index(lambda m: m.update({"model.norm.weight": 7})), "not a shard index"),
    (MANY, index(lambda m: m.pop("model.norm.weight")), "model.norm.weight is in .* the index says nothing of it"),
    (MANY, index(lambda m: m.update(ghost=m["model.norm.weight"])), "ghost is in no file"),
    (MANY, lambda f: (f / "model.safetensors.index.json").write_text("[]"), "not a JSON object"),
]  # fmt: skip


@pytest.mark.parametrize(("max_shard_size", "harm", "words"), REFUSED, ids=[words[:40] for _, _, words in REFUSED])
def test_a_model_that_cannot_be_loaded_is_refused_in_one_sentence(tmp_path, max_shard_size, harm, words):
    saved(tmp_path, max_shard_size=max_shard_size)
    harm(tmp_path)
    with pytest.raises(InputError, match=words) as error:
        maple.load_model(tmp_path.as_posix(), bits=4)
    assert tmp_path.as_posix() in str(error.value) and "\n" not in str(error.value)


def test_of_a_models_own_settings_of_generation_only_the_ids_act(tmp_path):
    saved(tmp_path)
    settings = {
        "eos_token_id": [3, 2],
        "bos_token_id": 1,
        "temperature": 9.0,
        "penalty_alpha": 0.6,
        "stop_strings": "a",
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    ours = maple.load_model(tmp_path.as_posix(), bits=16, rank=0).generation_config.to_diff_dict()
    assert {name: value for name, value in ours.items() if name != "transformers_version"} == {
        "eos_token_id": [3, 2],
        "bos_token_id": 1,
    }


def test_wrong_arguments_are_refused_before_a_weight_is_read(tmp_path, monkeypatch):
    saved(tmp_path)
    monkeypatch.setattr(Shards, "get", lambda *_: pytest.fail("a weight was read"))
    for settings, words in (
        ({"targets": "q_prj"}, "did you mean 'q_proj'"),
        ({"bits": 5}, "bits is 5"),
        ({"rank": -1}, "rank -1"),
        ({"revision": "main"}, "a revision belongs to a hub id"),
    ):
        with pytest.raises(InputError, match=words):
            maple.load_model(tmp_path.as_posix(), **settings)


def test_a_folder_that_is_not_there():
    with pytest.raises(InputError, match="there is no such folder"):
        maple.load_model("./nowhere")


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ({"metadata": {"total_size": 13476839424}, "weight_map": {}}, 13476839424),
        ({"metadata": {"total_size": 1.5e9}}, 1500000000),
        ({"metadata": {"total_size": "much"}}, 0),
        ({"metadata": {"total_size": -1}}, 0),
        ({"metadata": [1]}, 0),
        ({}, 0),
        (None, 0),
    ],
    ids=str,
)
def test_what_an_index_announces_is_believed_where_it_is_a_size(tmp_path, index, expected):
    if index is not None:
        (tmp_path / INDEX).write_text(json.dumps(index))
    assert announced_bytes(tmp_path) == expected
