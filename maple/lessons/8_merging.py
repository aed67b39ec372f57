# %% [markdown]
# # 8. Merging
#
# An adapter beside its base costs two more products a layer. Merged, W' = W + s B A is one weight again, for any
# program. But W is in 4 bits: which W is meant, and in how many bits does W' stay? We train an adapter on instructions
# of the embedded world: rank 16 beside NF4 weights, s = 2, 80 steps of AdamW. The learning rate is a fifth of the one
# that `maple.fit` takes for this model: the change is then small beside a step of NF4, which is the hard case.

# %%
import torch
from lightning.pytorch import Trainer

import kernels
import maple
from maple import drift
from maple.data.instructions import Instructions
from maple.data.sources import open_source
from maple.data.tokens import Limits
from maple.decoding import generate
from maple.lessons.picture import panels, save
from maple.lora import linear_layers, lora_layers
from maple.loss import Score, score
from maple.merged import merged_weight
from maple.module import FineTuning
from maple.quantized import QuantizedLinear
from maple.quiet import quieten
from maple.reporting.style import COLOURS, GREY, MARKS
from maple.tiny import BASE
from maple.tokenizer import load_tokenizer

STEPS = 80
quieten()  # Lightning's hints
torch.manual_seed(8)
tokenizer, window = load_tokenizer(BASE), Limits(max_length=512, window=512)
mixture = {"temperature": 1.0, "english_share": None, "language_cap": None, "epochs": 1, "micro_batches": STEPS}
data = Instructions(
    open_source("tiny", "en,es"), tokenizer, template="alpaca", limits=window, batch_tokens=512, seed=8, **mixture
)
adapted = maple.load_model("tiny", bits=4, rank=16, alpha=32).train()
module = FineTuning(adapted, lr=1e-3, schedule="cosine", warmup_steps=3, total_steps=STEPS, languages=data.languages)
Trainer(accelerator="cpu", max_epochs=1, gradient_clip_val=1.0, barebones=True).fit(module, data.train_dataloader())
adapted.eval()

# %% [markdown]
# ## What becomes of the weights
#
# `merged_weight` is dequantise(W) + s B A in float32. `maple.merge` writes it rounded once to bfloat16, with 8
# significant bits: an error of at most 2^-8 of each weight. NF4 has 16 values to a block. W came from there, so every
# weight lies on one of them, and a change of less than half a step is rounded back to it: the error is the change.
#
#     |s B A|    |W' - bf16(W')|    |W' - NF4(W')|      Frobenius norms
#     kept = <NF4(W') - W, s B A> / |s B A|^2           1 if the change is there, 0 if nothing of it is


# %%
def nf4(weight: torch.Tensor) -> kernels.Weight:
    return kernels.quantize(weight, bits=4, block_size=64, double_quant=True)


def codes(weight: kernels.NF4Weight) -> torch.Tensor:
    return torch.stack([weight.codes >> 4, weight.codes & 15])


rows = []
with torch.no_grad():
    for layer in lora_layers(adapted).values():
        before, merged = layer.base.packed.dequantize(), merged_weight(layer.base, layer)
        change, folded = merged - before, nf4(merged)
        gone, moved = merged - folded.dequantize(), folded.dequantize() - before
        squares = [(part**2).sum() for part in (change, merged - merged.bfloat16(), gone)]
        same = (codes(folded) == codes(layer.base.packed)).sum()
        rows.append(torch.stack([*squares, (moved * change).sum(), same, torch.tensor(change.numel())]))
totals = torch.stack(rows).double().sum(0)
size, bf16_error, nf4_error = totals[:3].sqrt().tolist()
kept, same_codes = (totals[3] / totals[0]).item(), (totals[4] / totals[5]).item()
print(f"|s B A| {size:.2f}; rounding to bfloat16 {bf16_error:.3f}, to NF4 {nf4_error:.2f}")
print(f"folded into NF4, {100 * same_codes:.1f} % of the codes are as before and {kept:.2f} of the change is kept")

# %% [markdown]
# ## What becomes of the answers
#
# The reference is the adapter beside its base. Merged into W4, the dequantised NF4 weights that it was trained with, it
# stays in float32, is rounded to bfloat16, or folded into NF4 again. W16 are the weights of the checkpoint: the adapter
# has learned beside W4 and its errors, so W16 + s B A is another model, if not a worse one. Folded into NF4 it is about
# as near to the reference: W16 lies between the steps and not on them, so less of the change is rounded away.
#
# Drift is over fixed prompts in eight languages, loss and exact match over held-out English and Spanish instructions.

# %%
checkpoint = linear_layers(maple.load_model("tiny", bits=16, rank=0))
W4 = {path: merged_weight(layer.base, layer) for path, layer in lora_layers(adapted).items()}
W16 = {path: merged_weight(checkpoint[path], layer) for path, layer in lora_layers(adapted).items()}
ways = {
    "W4 float32": (W4, torch.Tensor.float),
    "W4 bfloat16": (W4, torch.Tensor.bfloat16),
    "W4 NF4": (W4, nf4),
    "W16 float32": (W16, torch.Tensor.float),
    "W16 NF4": (W16, nf4),
}
models = {"base": maple.load_model("tiny", bits=4, rank=0), "adapter": adapted}
for name, (weights, pack) in ways.items():
    models[name] = maple.load_model("tiny", bits=16, rank=0)
    for path, weight in weights.items():
        models[name].set_submodule(path, QuantizedLinear(pack(weight.detach())))

# %%
prompts = drift.prompts("alpaca", tokenizer, 512, len(tokenizer))
reference, (_, question, answer) = drift.logits(adapted, prompts), data.an_example(room=24)
held_out = [batch for loader in data.val_dataloader() for batch in loader]
drifts = {name: drift.compare(reference, drift.logits(model, prompts)) for name, model in models.items()}
scores = {name: sum((score(model, batch) for batch in held_out), Score()) for name, model in models.items()}
print(f"{tokenizer.decode(question)} {tokenizer.decode(answer)}")
for name, model in models.items():
    (said,) = generate(model, [question.tolist()], 24, stop=[tokenizer.eos_token_id])
    numbers = f"{drifts[name].mean:9.2e} logits, {drifts[name].divergence:8.1e} nats, loss {scores[name].mean_loss:.3f}"
    print(f"{name:12}{numbers}, exact {100 * scores[name].exact_match:4.1f} %: {tokenizer.decode(said)!r}")
gain = scores["base"].mean_loss - scores["adapter"].mean_loss
lost = {name: (scores[name].mean_loss - scores["adapter"].mean_loss) / gain for name in ways}
print("share of what training gained that is lost:", {name: f"{100 * share:.1f} %" for name, share in lost.items()})

# %%
figure, (left, right) = panels("An adapter merged into its base", 2)
left.semilogy(
    list(ways), [drifts[name].mean for name in ways], MARKS[0], color=COLOURS[0], label="mean change (logits)"
)
left.semilogy(list(ways), [drifts[name].divergence for name in ways], MARKS[1], color=COLOURS[1], label="KL (nats)")
left.set(title="drift from the adapter beside its base", ylabel="logits, or nats")
right.bar(list(ways), [scores[name].mean_loss for name in ways], color=COLOURS[2], label="merged (exact match)")
for name, colour in (("base", GREY), ("adapter", "black")):
    right.axhline(scores[name].mean_loss, color=colour, linestyle="--", label=name)
for place, name in enumerate(ways):
    right.text(place, 0.1, f"{100 * scores[name].exact_match:.0f} %", ha="center", color="white", weight="bold")
right.set(title="held-out instructions", ylabel="loss (nats per token)")
for axis in (left, right):
    axis.set_xticks(range(len(ways)), [name.replace(" ", "\n") for name in ways])
figure.legend(loc="outside lower center", ncols=5)
save(figure, "8_merging")

# %% [markdown]
# ## What this lesson claims

# %%
assert gain > 0.5, f"training gained only {gain:.3f} nats"
assert drifts["W4 float32"].mean < 1e-4, f"the merged layer is not the layer: {drifts['W4 float32']}"
assert drifts["W4 bfloat16"].mean < 0.05, f"one rounding to 16 bits is not small: {drifts['W4 bfloat16']}"
assert same_codes > 0.9, f"the change is not smaller than a step of NF4: {same_codes:.3f} of the codes are as before"
further = drifts["W4 NF4"].mean / drifts["W4 bfloat16"].mean
assert further > 20 and kept < 0.7 and lost["W4 NF4"] > 0.1 > lost["W4 bfloat16"], f"NF4 loses nothing: {lost}"
assert drifts["W16 float32"].mean > 10 * drifts["W4 bfloat16"].mean, "the adapter does not belong to its 4-bit base"
