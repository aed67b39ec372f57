# %% [markdown]
# # 1. What LoRA computes
#
# A linear layer is y = W x with W [out, in], x [in] and y [out]. Fine-tuning changes all out * in numbers of W. LoRA
# (low-rank adaptation, arXiv 2106.09685) freezes W and learns a change of it, of low rank, beside it:
#
#     y = W x + s B (A x)            A [r, in], B [out, r]: r (in + out) numbers; s = alpha / r, and you choose alpha
#
# B A is [out, in] like W, but of rank r at most: r directions of x are looked at, and r directions of y are moved.
# With M rows X [M, in], as the code has it:  Y = X W^T + s (X A^T) B^T.

# %%
import numpy as np
import torch

import kernels
from kernels import naive
from maple.lessons.picture import panels, save
from maple.lora import LoRALinear
from maple.quantized import QuantizedLinear
from maple.reporting.style import COLOURS, MARKS

torch.manual_seed(1)
M, IN, OUT, RANK = 5, 96, 64, 8
weight = torch.randn(OUT, IN, dtype=torch.float64) / IN**0.5
x = torch.randn(M, IN, dtype=torch.float64)
print(f"W has {OUT * IN:,} numbers; A and B of rank {RANK} have {RANK * (IN + OUT):,}")

# %% [markdown]
# ## The gradients, by hand
#
# A layer needs only dY = dL/dY [M, out] of the loss L; here it is random, as if L were the sum of dY * Y. The chain
# rule, each line with its shapes:
#
#     G  = s dY B          [M, r]         what reaches X A^T from above; used twice
#     dA = G^T X           [r, in]
#     dB = s dY^T (X A^T)  [out, r]       X A^T was computed in the forward pass, and is kept
#     dX = dY W + G A      [M, in]        for the layers below
#     dW                                  is never computed, W being frozen: a third of the work of a layer

# %%
a = torch.randn(RANK, IN, dtype=torch.float64, requires_grad=True)
b = torch.randn(OUT, RANK, dtype=torch.float64, requires_grad=True)
x.requires_grad_()
s = 0.5
y = x @ weight.T + s * (x @ a.T) @ b.T  # autograd writes down what it needs to go back
dy = torch.randn_like(y)
(y * dy).sum().backward()

with torch.no_grad():
    g = s * dy @ b
    by_hand = {"dA": g.T @ x, "dB": s * dy.T @ (x @ a.T), "dX": dy @ weight + g @ a}
    # what maple.fit runs on a CPU; lists, as several layers may share x; [None]: no bias; 0.0, None: no dropout or seed
    (computed,), xa = naive.lora_linear(x, [weight], [None], [s], [a], [b], 0.0, None)
    dx, da, (db,) = naive.lora_linear_backward([dy], x, xa, [weight], [s], [a], [b], 0.0, None, needs_dx=True)
of_maple, autograd = {"dA": da, "dB": db, "dX": dx}, {"dA": a.grad, "dB": b.grad, "dX": x.grad}
errors = {name: (grad - by_hand[name]).abs().max().item() for name, grad in autograd.items()}
errors |= {f"{name} of maple": (of_maple[name] - grad).abs().max().item() for name, grad in autograd.items()}
errors["Y of maple"] = (computed - y).abs().max().item()
print("largest difference to autograd:", {name: f"{error:.0e}" for name, error in errors.items()})

# %% [markdown]
# ## Why B starts at zero
#
# LoRALinear is the layer as a module; its `base` is a frozen QuantizedLinear, which holds a packed weight or, as here,
# a plain tensor. LoRALinear draws A at random and sets B to 0, so training begins at the base model.
# dA = G^T X is 0 too, since G = s dY B, but dB is not: the first step moves B alone, the second one both. With A = 0 as
# well both gradients would be 0, and nothing would ever move.

# %%
x = torch.randn(M, IN)
layer = LoRALinear(QuantizedLinear(weight.float()), RANK, alpha=RANK)
y = layer(x)
(y * torch.randn_like(y)).sum().backward()
unchanged = (y - kernels.linear(x, weight.float())).abs().max().item()
first_gradients = {"A": layer.lora_a.grad.abs().max().item(), "B": layer.lora_b.grad.abs().max().item()}
print(f"Y differs from the base by {unchanged}; largest gradients {first_gradients}")

# %% [markdown]
# ## What alpha does as the rank grows
#
# s = alpha / r. With x as the only row, a step of gradient descent with learning rate lr takes B from 0 to
# -lr dB = -lr s dY^T (x A^T), which changes y by
#
#     s B A x = -lr s^2 |A x|^2 dY         |A x|^2 is a sum of r squares, so it grows as r
#
# so by s^2 r. With a fixed alpha that is 1/r: a larger rank learns more slowly. rsLoRA (arXiv 2312.03732) takes
# s = alpha / sqrt(r), where it is constant. alpha = r, this project's default, has s = 1: the scale of the adapter does
# not change along a sweep of ranks, but the first step grows as r. The picture shows the three rules fall, stay, rise.
# (AdamW, which trains here, divides by the size of the gradient: its first step changes y by s r, so as 1, sqrt(r), r.)

# %%
RANKS, DRAWS, LR = [1, 2, 4, 8, 16, 32, 64], 40, 1e-3
RULES = {
    "alpha = 8": lambda r: {"alpha": 8},
    "alpha = 8, rsLoRA": lambda r: {"alpha": 8, "rslora": True},
    "alpha = r": lambda r: {"alpha": r},
}


def step(rank: int, settings: dict) -> float:
    """By how much the first step of gradient descent changes y, relative to dY."""
    layer = LoRALinear(QuantizedLinear(weight.float()), rank, **settings)
    x, dy = torch.randn(1, IN), torch.randn(1, OUT)
    before = layer(x)
    (before * dy).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=LR).step()
    return ((layer(x) - before).norm() / (LR * dy.norm())).item()


steps = {name: [sum(step(r, rule(r)) for _ in range(DRAWS)) / DRAWS for r in RANKS] for name, rule in RULES.items()}
slopes = {name: np.polyfit(np.log2(RANKS), np.log2(sizes), 1)[0] for name, sizes in steps.items()}
figure, (axis,) = panels("The first step of a LoRA layer over its rank")
for name, colour, mark in zip(steps, COLOURS, MARKS, strict=False):
    axis.plot(RANKS, steps[name], color=colour, marker=mark, label=f"{name}: as rank^{round(slopes[name], 1) + 0:g}")
axis.set(xscale="log", yscale="log", xlabel="rank", ylabel="change of y / (learning rate x |dY|)")
axis.set_xticks(RANKS, map(str, RANKS))
axis.minorticks_off()
figure.legend(loc="outside lower center", ncols=3)
save(figure, "1_lora")

# %% [markdown]
# ## What this lesson claims

# %%
assert max(errors.values()) < 1e-12, f"gradients by hand are not autograd's: {errors}"
assert unchanged == 0 and first_gradients["A"] == 0 < first_gradients["B"], "training does not begin at the base"
for (name, slope), expected in zip(slopes.items(), (-1, 0, 1), strict=True):
    assert abs(slope - expected) < 0.15, f"{name}: the first step grows as rank^{slope:.2f}, not as rank^{expected}"
