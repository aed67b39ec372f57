# %% [markdown]
# # 6. Backward through a frozen packed weight
#
# Projections i = 1..g of one x (q, k and v of attention), each a frozen packed W_i and a LoRA pair (arXiv 2106.09685):
#
#     y_i = x W_i^T + s x' A_i^T B_i^T       x' = dropout(x) [M, in], W_i [out_i, in], A_i [r, in], B_i [out_i, r]
#
# with s the scaling. Three ways: `formula` is that line. `layers` is the way of PEFT, Hugging Face's library: a linear
# layer with a backward pass of its own for the packed weight, a dropout and two small linear layers beside it, and the
# sum. `by hand` is this project's operator: all projections in one, with the gradients of lesson 1 written out.

# %%
from collections import Counter
from unittest import mock

import numpy as np
import torch
from torch.nn.functional import linear
from torch.utils._pytree import tree_leaves

import kernels
from kernels import naive
from maple.lessons.picture import panels, save
from maple.live import LiveBytes
from maple.reporting.style import COLOURS, HATCHES

torch.manual_seed(6)
M, IN, OUTS, RANK, S, DROPOUT = 384, 512, (768, 256, 256), 8, 2.0, 0.1
ws = [kernels.quantize(torch.randn(out, IN) / IN**0.5, bits=4, double_quant=True) for out in OUTS]
a = [torch.randn(RANK, IN, requires_grad=True) for _ in OUTS]
b = [torch.randn(out, RANK, requires_grad=True) for out in OUTS]
x, dys = torch.randn(M, IN, requires_grad=True), [torch.randn(M, out) for out in OUTS]
parts = list(zip(ws, a, b, strict=True))


def beside(p, a, b):  # native_dropout is what a GPU runs: its mask has one byte an element
    return S * linear(linear(torch.native_dropout(x, p, True)[0] if p else x, a), b)


WAYS = {
    "formula": lambda p: [linear(x, w.dequantize()) + beside(p, a, b) for w, a, b in parts],
    "layers": lambda p: [kernels.linear(x, w) + beside(p, a, b) for w, a, b in parts],
    "by hand": lambda p: kernels.lora_linear_grouped(x, ws, a, b, [S] * len(ws), dropout=p, seed=7),
}

# %% [markdown]
# ## What is kept for the backward pass
#
#     G = s dY B    dA = G^T x'    dB = s dY^T XA    dX = dY W + dropout'(G A)          XA = x' A^T [M, r]
#
# A frozen W needs nothing of x. `formula` keeps W in floats, beside the packed one. `layers` keeps a mask and an x' for
# each projection. `by hand` keeps x once, XA, which is small, and the seed of the mask. What autograd keeps passes
# through saved_tensors_hooks; packed W, A and B are there anyway and do not count.

# %%
saved, kept = {way: Counter() for way in WAYS}, []
there = {t.untyped_storage().data_ptr() for t in [*a, *b, *(t for w in ws for t in w.tensors().values())]}
NAMES = {(M, IN): "dropout(x)", (M, RANK): "XA", (M, RANK * len(ws)): "XA", (): "seed"}
for way, forward in WAYS.items():
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        forward(DROPOUT)
    for place, t in {t.untyped_storage().data_ptr(): t for t in kept}.items():
        kind = "mask" if t.dtype == torch.bool else NAMES.get(tuple(t.shape), "W in floats")
        saved[way]["x" if place == x.data_ptr() else kind] += t.nbytes * (place not in there)
    print(f"{way:8} keeps {sum(saved[way].values()):9,} bytes: {dict(+saved[way])}")

# %% [markdown]
# ## What is computed again
#
# Each W_i is decoded a second time: one multiplication for each weight, where dY W takes 2 M operations for each. The
# mask is computed again too: an element is dropped or not by a hash of seed, row and column, which gives the same bits.
# The gradients are held against autograd through the decoded weight, in float64, with that mask.

# %%
ran = []


def noted(name):  # the real function, and a note of each call with its result
    real = getattr(naive, name)
    return mock.patch.object(naive, name, lambda *given: ran.append((name, real(*given))) or ran[-1][1])


with noted("_nf4_rows"), noted("dropout_mask"):
    ys = WAYS["by hand"](DROPOUT)
    again = len(ran)
    grads = torch.autograd.grad(ys, [x, *a, *b], dys)
print("forward:", [name for name, _ in ran[:again]], " backward:", [name for name, _ in ran[again:]])
masks, wide = [result for name, result in ran if name == "dropout_mask"], x.double()
rows = wide * masks[0] / (1 - DROPOUT)
ys = [wide @ w.dequantize().double().T + S * rows @ a.double().T @ b.double().T for w, a, b in parts]
exact = torch.autograd.grad(ys, [x, *a, *b], [dy.double() for dy in dys])
error = max(((grad - right).norm() / right.norm()).item() for grad, right in zip(grads, exact, strict=True))
print(f"decoding again: {0.5 / M:.2%} of the operations of dY W; largest relative error of a gradient: {error:.0e}")

# %% [markdown]
# ## No pass of its own
#
# LoRA has few operations, but x, y, dY and dX are large, and it may read and write all of them again. `layers` writes
# s XA B^T beside y and adds the two; in the backward pass each W_i and each A_i gives a dX, and all are summed.
# `by hand` adds into what is there (addmm): y_i is written, then added to; dX = G A, then += dY_i W_i; all A_i read x
# once. So it reads and writes of these matrices, in numbers for each of the M rows:
#
#     forward   (g + 1) in + 3 sum of out_i          backward   (2 + 2 g) in + 3 sum of out_i


# %%
class Moved(LiveBytes):
    moved = 0  # bytes of the matrices with M rows that operators read and write; LiveBytes counts those alive

    def run(self, operator, args, kwargs):
        result = super().run(operator, args, kwargs)
        read, written = ([t for t in tree_leaves(of) if isinstance(t, torch.Tensor)] for of in (args, result))
        if operator.namespace == "aten" and read and not operator.is_view:
            self.moved += sum(t.nbytes for t in read + written if M in t.shape and t.numel() > 100 * M)
        return result


moved = {"forward": [], "backward": []}
for way, forward in WAYS.items():
    with Moved() as counter:  # no dropout: its hash is matrices of words here, where a GPU kernel has registers
        ys = forward(0.0)
        moved["forward"].append(counter.moved)
        torch.autograd.grad(ys, [x, *a, *b], dys)
        moved["backward"].append(counter.moved - moved["forward"][-1])
    print(f"{way:8} moves {counter.moved:,} bytes; at most {sum(counter.peak.values()):,} are alive")

figure, (left, right) = panels("Three LoRA projections of one x, 384 rows, 4-bit weights, float32", 2)
kinds = {kind: [saved[way][kind] for way in WAYS] for kind in ("W in floats", "dropout(x)", "mask", "x", "XA")}
for axis, bars, label in (left, kinds, "MB kept for backward"), (right, moved, "MB of x, y, dY, dX read and written"):
    bottom = np.zeros(len(WAYS))
    for (name, sizes), colour, hatch in zip(bars.items(), COLOURS, HATCHES, strict=False):
        axis.bar(list(WAYS), np.divide(sizes, 1e6), 0.6, bottom, color=colour, hatch=hatch, ec="white", label=name)
        bottom += np.divide(sizes, 1e6)
    axis.set_ylabel(label)
    axis.legend()
save(figure, "6_backward")

# %% [markdown]
# ## What this lesson claims

# %%
needed = {"x": x.nbytes, "XA": 4 * M * RANK * len(ws), "seed": 8}
assert +saved["by hand"] == needed, f"not x, XA and the seed are kept for backward, once: {saved['by hand']}"
assert Counter(n for n, _ in ran[again:]) == {"_nf4_rows": 3, "dropout_mask": 1}, "backward does not compute W and mask"
assert masks[0].equal(masks[-1]), "the mask computed again is another one"
assert error < 1e-5, f"the gradients are not autograd's: {error}"
for (way, sizes), times_x in zip(moved.items(), (len(ws) + 1, 2 + 2 * len(ws)), strict=True):
    assert sizes[-1] == 4 * M * (times_x * IN + 3 * sum(OUTS)), f"{way} passes over x or y once more"
