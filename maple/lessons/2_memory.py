# %% [markdown]
# # 2. Where the memory goes
#
# A training step holds five things at once. For P weights, of which T are trained:
#
#     frozen weights         P - T, in 16 bits, or packed in 4
#     trained weights        T
#     gradients and moments  T gradients, and the two running means of AdamW (arXiv 1711.05101) for each
#     activations            what the backward pass needs of the forward pass: grows with the tokens, not with T
#     loss                   logits: tokens * vocabulary, for as many tokens as are looked at together
#
# LoRA shrinks the second and third, QLoRA (arXiv 2305.14314) the first. Neither shrinks the fourth.

# %%
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import maple
from maple.lessons.picture import panels, save
from maple.live import LiveBytes
from maple.lora import lora_parameters
from maple.loss import token_loss
from maple.memory import ACTIVATIONS, BASE, LORA, LOSS, OPTIMIZER, PARTS, MicroBatch, Setting, predict
from maple.model import empty_model
from maple.reporting.style import COLOURS, HATCHES
from maple.weights import linear_shapes

LABELS = ("frozen weights", "trained weights", "gradients, moments", "activations", "loss")  # of PARTS
GIB, MIB = 2**30, 2**20
config = LlamaConfig(dtype="bfloat16")  # its defaults are the shape of Llama-2-7B (arXiv 2307.09288)
total = sum(parameter.numel() for parameter in empty_model(config).parameters())
linear = sum(out * columns for out, columns in linear_shapes(empty_model(config)).values())
print(f"{total / 1e9:.3f} billion weights; {linear / 1e9:.3f} are in linear layers, which are packed and get LoRA")

# %% [markdown]
# ## LoRA and QLoRA at 7B, predicted
#
# `predict` runs the real step, forward, loss, backward and AdamW, on PyTorch's meta device: tensors with a shape and no
# content. What an operator returns is counted until it is freed. So what the code holds is predicted by that very code,
# in seconds and without memory: the bytes of each part at the peak. The micro-batch is 8 rows of 1,024 tokens. With
# `--recompute layer` a layer keeps its input alone, and computes the rest again on the way back (arXiv 1604.06174).

# %%
FLAGS = {"rank": 32, "alpha": None, "dropout": 0.0, "targets": "all-linear", "rslora": False, "block_size": 64}
FLAGS |= {"double_quant": True, "strategy": "auto", "accumulate": 1, "recompute": "none"}
WAYS = {"LoRA": {"bits": 16}, "QLoRA": {"bits": 4}, "QLoRA,\nrecomputed": {"bits": 4, "recompute": "layer"}}
shape = MicroBatch(rows=8, length=1024, supervised=4096, samples=56)
at_7b = {}
for name, flags in WAYS.items():
    at_7b[name] = predict(Setting(FLAGS | flags, config, shape, "cuda", torch.bfloat16)).parts
    print(f"{name!r:22}", {part: f"{count / GIB:.2f} GiB" for part, count in at_7b[name].items()})
linear_bits = 16 - 8 * (at_7b["LoRA"][BASE] - at_7b["QLoRA"][BASE]) / linear  # all that is not linear stays as it is

# %% [markdown]
# ## Full fine-tuning at 7B, by arithmetic
#
# This project does not do it. The usual recipe is mixed precision (ZeRO, arXiv 1910.02054, section 3.1), in bytes:
#
#     weight, in 16 bits and in float32  2 + 4     a small step added to 16 bits would be lost
#     gradient, in 16 bits               2
#     two moments, float32               4 + 4
#
# Activations and loss are taken to be LoRA's: to train the first layer, the gradient has to pass through all layers
# above, whether these are trained or not.

# %%
same = {part: at_7b["LoRA"][part] for part in (ACTIVATIONS, LOSS)}
at_7b = {"full": {BASE: 0, LORA: (2 + 4) * total, OPTIMIZER: (2 + 4 + 4) * total} | same} | at_7b
in_all = {name: sum(parts.values()) / GIB for name, parts in at_7b.items()}
print({name: f"{size:.1f} GiB" for name, size in in_all.items()}, f"and a packed weight has {linear_bits:.3f} bits")

# %% [markdown]
# ## Counted: the same step, on real tensors
#
# The embedded model can be trained here, all three ways. `LiveBytes` sees every operator that PyTorch runs, and counts
# the storage of what it returns until that is freed. Two steps, since before the first there are no moments. In float32
# a trained weight has a gradient and two moments of 4 bytes, however it is trained.

# %%
torch.manual_seed(1)
shape = MicroBatch(rows=4, length=64, supervised=256)
ids = torch.randint(3, 3072, (shape.rows, shape.length))  # to the memory all tokens are alike
batch = {"input_ids": ids, "position_ids": torch.arange(shape.length).repeat(shape.rows, 1), "labels": ids}
predicted, counted, each = {}, {}, {}  # bytes by part, twice, and those of OPTIMIZER for each trained weight


def count(name: str, model, trained, loss_of) -> None:
    """Two training steps; `counter.live` says at any line what is there."""
    optimizer = torch.optim.AdamW(trained)
    with LiveBytes() as counter:
        for tensor in (*model.parameters(), *model.buffers()):
            counter.count(tensor, LORA if tensor.requires_grad else BASE)
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(lambda p: counter.count(p.grad, OPTIMIZER))
        model.base_model.register_forward_hook(lambda *_: setattr(counter, "part", LOSS))
        for _ in range(2):
            counter.part = ACTIVATIONS
            loss = loss_of(model)
            optimizer.zero_grad()  # the gradients of the step before live until here
            counter.part = ACTIVATIONS
            loss.backward()
            del loss
            counter.part = OPTIMIZER
            optimizer.step()
        counted[name], each[name] = counter.peak, counter.live[OPTIMIZER] / sum(p.numel() for p in trained)


for name in ("LoRA", "QLoRA"):
    model = maple.load_model("tiny", bits=WAYS[name]["bits"], rank=FLAGS["rank"]).train()
    predicted[name] = predict(Setting(FLAGS | WAYS[name], model.config, shape, "cpu", torch.float32)).parts
    count(name, model, [p for _, p in lora_parameters(model)], lambda model: token_loss(model, batch)[0])
plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32, trust_remote_code=False)
count("full", plain, list(plain.parameters()), lambda model: model(ids, labels=ids).loss)
apart = {name: sum(parts.values()) / counted[name].total() - 1 for name, parts in predicted.items()}
for name, peak in counted.items():
    print(f"{name}: {peak.total() / MIB:.2f} MiB, {each[name]:.2f} bytes for gradient and moments of a trained weight")
print("predicted is more than counted by", {name: f"{share:.2%}" for name, share in apart.items()})

# %% [markdown]
# Left, what shrinks: trained weights with gradients and moments; frozen weights; activations, whereupon the peak is at
# another moment of the step. Right, what was predicted without a tensor, beside what real ones took.

# %%
figure, axes = panels("Where the memory of a training step goes", 2)
pairs = {f"{name}\n{how}": parts[name] for name in predicted
         for how, parts in {"predicted": predicted, "counted": counted}.items()}  # fmt: skip
for axis, bars, unit in zip(axes, (at_7b, pairs), (GIB, MIB), strict=True):
    top = [0.0] * len(bars)
    for part, label, colour, hatch in zip(PARTS, LABELS, COLOURS, HATCHES, strict=False):
        heights = [parts[part] / unit for parts in bars.values()]
        drawn = axis.bar(list(bars), heights, 0.65, top, color=colour, hatch=hatch, edgecolor="white", label=label)
        top = [below + height for below, height in zip(top, heights, strict=True)]
    axis.bar_label(drawn, [f"{height:.3g}" for height in top])
    axis.margins(y=0.1)
axes[0].set(title="7B, 8 x 1,024 tokens, bfloat16", ylabel="GiB at the peak")
axes[1].set(title="embedded model, 4 x 64 tokens, float32", ylabel="MiB at the peak")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
save(figure, "2_memory")

# %% [markdown]
# ## What this lesson claims

# %%
full, lora, qlora, recomputed = in_all.values()  # GiB
assert full > 2.5 * lora and lora - qlora > 8.5, f"LoRA or a packed base does not save what it should: {in_all}"
assert recomputed < qlora / 4, f"recomputing layers saves too little: {qlora:.1f} GiB, then {recomputed:.1f}"
assert abs(linear_bits - 4.127) < 0.002, f"a packed linear weight has {linear_bits:.3f} bits, not 4.127"
assert max(map(abs, apart.values())) < 0.005, f"the prediction is not what real tensors take: {apart}"
assert all(abs(extra - 12) < 0.05 for extra in each.values()), f"not 12 bytes for a trained weight: {each}"
