# %% [markdown]
# # 4. int8 per row, outliers, and why 8 bits cost a model less than 4
#
# In 8 bits a weight is one of 255 values, equally far apart. Each row of W [out, in] has its own: the largest absolute
# value of the row, its absmax, becomes 127 (LLM.int8(), arXiv 2208.07339):
#
#     q = round(w * 127 / absmax)        w' = q * absmax / 127        8 bits a weight, and one float32 a row
#
# LLM.int8() rounds the activations as well, and has to take some of them out. Here only the weights are in 8 bits; a
# product is in floats. So all that can go wrong is the rounding of the weights, and that is what this lesson measures.

# %%
import random

import numpy as np
import torch

import kernels
import maple
from maple import tiny
from maple.data.packing import collate, pack
from maple.lessons.picture import panels, save
from maple.lora import linear_layers
from maple.loss import score
from maple.reporting.style import COLOURS, MARKS
from maple.tiny.language import language
from maple.tiny.text import document
from maple.tokenizer import load_tokenizer

models = {bits: maple.load_model("tiny", bits=bits, rank=0) for bits in (16, 8, 4)}
weights = {path: layer.packed.float() for path, layer in linear_layers(models[16]).items()}
w = weights["model.layers.0.mlp.down_proj"]  # [128, 384]
absmax = w.abs().amax(1, keepdim=True)
codes = (w * (127 / absmax)).round().to(torch.int8)
packed = kernels.quantize(w, bits=8)
wrong = int((codes != packed.codes).sum()) + int((absmax[:, 0] != packed.absmax).sum())
print("weights", w[0, :5].tolist(), "\ncodes  ", codes[0, :5].tolist(), f"\n{wrong} are not the kernels'")
print("back   ", kernels.dequantize(packed)[0, :5].tolist())

# %% [markdown]
# ## The error of a row follows from its absmax
#
# Steps are step = absmax / 127 apart, and w lies anywhere between two of them: the error is uniform in [-step/2,
# step/2]. The mean square of that is step^2 / 12, so
#
#     RMS error of a row = absmax / (127 sqrt(12)) = absmax / 440
#
# whatever the other weights are. For each row of all layers, the measured error over this one should be near 1.

# %%
ratios = torch.cat([
    (kernels.dequantize(kernels.quantize(w, bits=8)) - w).square().mean(1).sqrt() / (w.abs().amax(1) / 127 / 12**0.5)
    for w in weights.values()
])  # fmt: skip
print(
    f"{len(ratios)} rows: measured / absmax/440 is {ratios.mean():.3f}, from {ratios.min():.2f} to {ratios.max():.2f}"
)

# %% [markdown]
# ## One outlier
#
# So one large weight makes the steps of its whole row coarse. To see it on rows as wide as Llama-2-7B's, the layer is
# cut anew into rows of 4,096 weights, and in each row one weight is set to so many times the RMS of the row. Measured
# is the error of all the *other* weights of the row:
#
#     int8   grows with the outlier as absmax/440, up to 100 %: then all others are rounded to 0, and nothing is left
#     NF4    the outlier takes one block of 64 with it: its 63 neighbours end as 0. The other 4,032 never hear of it
#
# Some pre-trained weights have such outliers; SpQR (arXiv 2306.03078) keeps them apart.

# %%
rows, place = w.view(-1, 4096), 1000
rms, others = rows.square().mean(1).sqrt(), torch.arange(4096) != place
beyond = torch.arange(4096) // 64 != place // 64  # in other blocks of 64
SIZES = [4, 8, 16, 32, 64, 128, 256, 512]  # times the RMS
errors, untouched = {"int8 per row": [], "NF4, blocks of 64": []}, True
clean = kernels.dequantize(kernels.quantize(rows, bits=4))
for size in SIZES:
    planted = rows.clone()
    planted[:, place] = size * rms
    for name, bits in zip(errors, (8, 4), strict=True):
        back = kernels.dequantize(kernels.quantize(planted, bits=bits))
        errors[name].append(((back - rows)[:, others].norm() / rows[:, others].norm()).item())
    untouched &= torch.equal(back[:, beyond], clean[:, beyond])  # of NF4, the last one
for name, found in errors.items():
    print(f"{name}:", {size: f"{error:.1%}" for size, error in zip(SIZES, found, strict=True)})

# %% [markdown]
# ## What it costs the model
#
# Near a minimum of the loss L a small change e of the weights has no slope to follow, only curvature H:
#
#     L(w + e) - L(w)  ~  e^T H e / 2        quadratic in e
#
# An error ten times smaller should cost a hundred times less. What does it cost in nats a token (mean of -log p), on
# documents that are new to the model? `score` is what `maple.fit` validates with; no document in a row sees another.
# The cost of 4 bits should be plain, that of 8 bits too small to tell its sign.

# %%
tokenizer = load_tokenizer(tiny.BASE)
losses = {}
for code in ("en", "de", "sw", "th"):
    rng = random.Random(f"lesson 4 {code}")
    texts = [document(rng, language(code)) for _ in range(40)]
    samples = [(np.array([*ids, tokenizer.eos_token_id]), 0) for ids in tokenizer(texts)["input_ids"]]  # no prompt
    packed_rows = [[samples[i] for i in row] for row in pack([len(ids) - 1 for ids, _ in samples], 384)]
    batch = collate(packed_rows, 384, tokenizer.eos_token_id)
    losses[code] = {bits: score(model, batch).mean_loss for bits, model in models.items()}
    print(f"{code}: {batch['tokens']} tokens,", {bits: f"{loss:.4f} nats" for bits, loss in losses[code].items()})
cost = {bits: {code: of[bits] - of[16] for code, of in losses.items()} for bits in (8, 4)}
norms = {bits: sum((layer.packed.dequantize() - weights[path]).square().sum().item()
                   for path, layer in linear_layers(models[bits]).items()) ** 0.5 for bits in (8, 4)}  # fmt: skip
print(
    f"the error of 4 bits is {norms[4] / norms[8]:.1f} times that of 8 bits: {(norms[4] / norms[8]) ** 2:.0f} squared"
)

# %% [markdown]
# Left, up to an outlier of 64 RMS int8 is the more exact all the same. Right, what both add to the loss in 16 bits.

# %%
figure, (left, right) = panels("What 8 and 4 bits do to weights, and to a model", 2)
for (name, found), colour, mark in zip(errors.items(), COLOURS, MARKS, strict=False):
    left.plot(SIZES, [100 * error for error in found], color=colour, marker=mark)
    bits = 8 if "int8" in name else 4
    places = [at + (0.2 if bits == 4 else -0.2) for at in range(len(losses))]
    heights = [1000 * loss for loss in cost[bits].values()]
    right.bar_label(right.bar(places, heights, 0.4, color=colour, label=f"{bits} bits: {name}"), fmt="%+.2f")
left.set(xscale="log", yscale="log", xlabel="one outlier (x RMS of its row)", ylabel="error of the others (% of RMS)")
left.set_xticks(SIZES, map(str, SIZES))
left.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
left.minorticks_off()
right.set(xlabel="language", ylabel="added loss (0.001 nats / token)")
right.margins(y=0.1)
right.set_xticks(range(len(losses)), losses)
figure.legend(loc="outside lower center", ncols=2)
save(figure, "4_int8")

# %% [markdown]
# ## What this lesson claims

# %%
int8, nf4 = errors.values()
assert wrong == 0, f"{wrong} codes or absmax by hand are not the kernels'"
assert abs(ratios.mean() - 1) < 0.02, f"the error of a row is {ratios.mean():.2f} times absmax/440"
assert abs(int8[4] / int8[2] - 4) < 0.2, (
    f"an outlier 4 times as large makes int8's error {int8[4] / int8[2]:.1f} times it"
)
assert untouched and nf4[-1] < 0.2 < int8[-1], f"an outlier does not stay in its block of NF4: {errors}"
assert all(abs(cost[8][code]) < cost[4][code] / 10 for code in losses), f"8 bits cost no less than 4: {cost}"
