# %% [markdown]
# # 3. NF4 by hand
#
# A weight in 4 bits is one of 16 values. NF4 (QLoRA, arXiv 2305.14314, section 3) cuts the weights into blocks of 64,
# divides each block by the largest absolute value in it, its absmax, and takes the nearest of 16 values in [-1, 1]:
#
#     w  ~  absmax * value[code]        code 4 bits a weight, absmax one float32 a block: 4 + 32 / 64 = 4.5 bits
#
# Here are real ones to try it on: linear layers of the tiny model that lies in this repository, each W [out, in].

# %%
import math

import torch

import kernels
import maple
from kernels import naive, packed
from maple.lessons.picture import panels, save
from maple.lora import linear_layers
from maple.reporting.style import COLOURS, MARKS

layers = linear_layers(maple.load_model("tiny", bits=16, rank=0))
weights = {path: layer.packed.float() for path, layer in layers.items()}
w = weights["model.layers.0.mlp.down_proj"]
blocks = w.view(-1, 64)  # row by row: neighbours of a row share a block
absmax = blocks.abs().amax(1)
scaled = blocks / absmax[:, None]
print(
    f"one of {len(weights)} layers: {list(w.shape)}, the mean absmax of a block is {absmax.mean() / w.std():.1f} sigma"
)

# %% [markdown]
# ## The 16 values: quantiles of a normal distribution
#
# Weights of a layer are roughly normal, so most are near 0: there the values should be dense. Quantiles are: between
# two neighbours lies the same share of a normal distribution. With Q the inverse of its cumulative distribution:
#
#     positive   Q(p), 9 points p evenly from d to 1/2, without the last: 8 values, 5.8 % of the normal between two
#     negative  -Q(p), 8 points p evenly from d to 1/2, without the last: 7 values, 6.7 % between two
#     0          exactly: a padding or pruned weight stays 0
#
# all divided by the largest. Q(1) is infinite, so d stops half a share short of 1: 15 equal shares make that 1/30, 16
# make it 1/32, and d takes the mean: 1 - (1/30 + 1/32) / 2 = 0.9677083 (as bitsandbytes does; arXiv 2306.06965).

# %%
d = 1 - (1 / 30 + 1 / 32) / 2
positive, negative = (torch.special.ndtri(torch.linspace(d, 0.5, n, dtype=torch.float64)[:-1]) for n in (9, 8))
values = torch.cat([-negative, torch.zeros(1, dtype=torch.float64), positive.flip(0)]) / positive.max()
off = (values - torch.tensor(naive.NF4_VALUES, dtype=torch.float64)).abs().max().item()
print("derived:", [round(value, 4) for value in values.tolist()], f"largest difference to the kernels' table {off:.0e}")

# %% [markdown]
# ## One block, by hand
#
# The code of a weight is the number of the nearest value. Two codes share a byte, the first in the high half:
#
#     byte_j = 16 code_2j + code_2j+1        64 weights are 32 bytes
#
# Back: take the byte apart, look both values up, multiply by the absmax. Break at `by_hand` and follow one weight.

# %%
values = torch.tensor(naive.NF4_VALUES)  # from here on the float32 ones
codes = (scaled[:, :, None] - values).abs().argmin(2)  # [blocks, 64]
by_hand = (16 * codes[:, 0::2] + codes[:, 1::2]).to(torch.uint8)  # [blocks, 32]
plain = kernels.quantize(w, bits=4, block_size=64)
wrong_bytes = int((by_hand.flatten() != plain.codes).sum()) + int((absmax != plain.absmax).sum())
apart = torch.stack([by_hand >> 4, by_hand & 15], dim=2).flatten(1).long()  # high half first
back = (values[apart] * absmax[:, None]).view_as(w)
wrong_weights = int((back != kernels.dequantize(plain)).sum())
print("weights", blocks[0, :4].tolist(), "\ncodes  ", codes[0, :4].tolist(), "\nbytes  ", by_hand[0, :2].tolist())
print("back   ", back[0, :4].tolist(), f"\n{wrong_bytes} bytes and {wrong_weights} weights are not the kernels'")

# %% [markdown]
# ## Double quantisation
#
# The absmax are half a bit a weight. QLoRA packs them as well, in 8 bits: minus their mean (`nested_offset`), since all
# are positive and lie close together; in blocks of 256, each with an absmax of its own (`nested_absmax`); to the
# nearest of 256 values, dense near 0 (`nested_map`, arXiv 1511.04561). `absmax` of the packed weight then holds codes:
#
#     absmax  ~  mean + absmax2 * map[code]        4 + 8 / 64 + 32 / (64 * 256) = 4.127 bits a weight

# %%
double = kernels.quantize(w, bits=4, block_size=64, double_quant=True)
centred = torch.nn.functional.pad(absmax - absmax.mean(), (0, -len(absmax) % 256)).view(-1, 256)
absmax2 = centred.abs().amax(1, keepdim=True)
codes2 = (centred / absmax2)[:, :, None].sub(naive.dynamic_map()).abs().argmin(2).flatten()[: len(absmax)]
wrong_bytes2 = int((codes2 != double.absmax).sum())
of_7b = [packed.without_memory((4096, 11008), 4, 64, double_quant) for double_quant in (False, True)]
bits = [8 * one.nbytes / math.prod(one.shape) for one in of_7b]  # of a matrix where 256 floats of map are nothing
print(f"{wrong_bytes2} codes of absmax are not the kernels'; bits a weight at 7B: {bits[0]:.3f} and {bits[1]:.3f}")

# %% [markdown]
# ## The error on real weights, over the block size
#
#     error = |W' - W| / |W|        W' what comes back; norms over all layers
#
# A larger block costs fewer bits but has a larger absmax, over which the same 16 values are spread. Beside NF4 stands
# int4, equal steps of the same absmax: round(7 w / absmax) / 7, as fine where weights are rare as where most are.


# %%
def int4(w, block_size):
    blocks = w.view(-1, block_size)
    step = blocks.abs().amax(1, keepdim=True) / 7
    return ((blocks / step).round() * step).view_as(w)


def error(there_and_back, block_size):
    lost = sum((there_and_back(w, block_size) - w).square().sum() for w in weights.values())
    return math.sqrt(lost / sum(w.square().sum() for w in weights.values()))


FORMATS = {
    "NF4": lambda w, size: kernels.dequantize(kernels.quantize(w, 4, size)),
    "NF4, double": lambda w, size: kernels.dequantize(kernels.quantize(w, 4, size, double_quant=True)),
    "int4": int4,
}
errors = {name: [error(way, size) for size in kernels.BLOCK_SIZES] for name, way in FORMATS.items()}
at_64 = {name: found[kernels.BLOCK_SIZES.index(64)] for name, found in errors.items()}
added = at_64["NF4, double"] / at_64["NF4"] - 1
print("error at 64:", {name: f"{one:.2%}" for name, one in at_64.items()}, f"double adds {added:.3%} of it")
figure, (left, right) = panels("NF4 on the weights of a pre-trained model", 2)
left.hist(scaled.flatten(), bins=101, density=True, color=COLOURS[5], label="a layer (at -1, 1: absmax)")
left.vlines(values, 0, 0.25, color=COLOURS[1], linewidth=2, label="the 16 values")
left.set(xlabel="weight / absmax of its block of 64", ylabel="density", xticks=[-1, -0.5, 0, 0.5, 1])
for (name, found), colour, mark in zip(errors.items(), COLOURS, MARKS, strict=False):
    style = {"linestyle": "--", "markerfacecolor": "none", "markersize": 11} if "double" in name else {}
    right.plot(kernels.BLOCK_SIZES, [100 * one for one in found], color=colour, marker=mark, label=name, **style)
right.set(xscale="log", xlabel="block size (weights)", ylabel="RMS error (% of the RMS weight)", ylim=0)
right.set_xticks(kernels.BLOCK_SIZES, map(str, kernels.BLOCK_SIZES))
right.minorticks_off()
figure.legend(loc="outside lower center", ncols=5)
save(figure, "3_nf4")

# %% [markdown]
# ## What this lesson claims

# %%
assert off < 1e-6, f"the 16 values are not the quantiles of a normal distribution: {off} apart"
assert wrong_bytes == 0, f"{wrong_bytes} bytes packed by hand are not the kernels'"
assert wrong_weights == 0, f"{wrong_weights} weights unpacked by hand are not the kernels'"
assert wrong_bytes2 == 0, f"{wrong_bytes2} doubly quantised absmax are not the kernels'"
assert abs(bits[0] - 4.5) < 1e-3 and abs(bits[1] - 4.127) < 1e-3, f"a weight has {bits} bits, not 4.5 and 4.127"
assert abs(added) < 0.01, f"double quantisation adds {added:.1%} of error, not a little"
assert at_64["NF4"] < 0.9 * at_64["int4"], f"NF4 is no better than int4 on real weights: {at_64}"
for found in errors.values():
    assert found == sorted(found) and found[-1] > 1.3 * found[0], f"larger blocks do not cost more error: {errors}"
