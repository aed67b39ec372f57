# %% [markdown]
# # 7. Packing and masks
#
# Samples have unlike lengths, and a batch is a rectangle: filled up to its longest sample it is partly padding, which
# teaches nothing. Packing puts several samples into a row. Then, without a word, one may see its neighbour, or a token
# weigh too much. A sample is BOS, prompt, answer, EOS; the last two are supervised. These are in English and Hindi.

# %%
import torch
from lightning.pytorch import Trainer
from matplotlib.colors import ListedColormap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import maple
from maple.data.packing import IGNORED, collate, plan
from maple.data.sources import open_source
from maple.data.tokens import Limits, tokenize
from maple.lessons.picture import panels, save
from maple.lora import lora_parameters
from maple.loss import hidden_states, token_loss
from maple.module import FineTuning
from maple.quiet import quieten
from maple.reporting.style import COLOURS, MARKS
from maple.tiny import BASE
from maple.tokenizer import load_tokenizer

quieten()  # Lightning's hints
torch.manual_seed(7)
tokenizer, limits, read = load_tokenizer(BASE), Limits(max_length=512, window=512), open_source("tiny").read
tables = [tokenize(code, read(code)[0][:150], "bactrian", tokenizer, limits) for code in ("en", "hi")]
samples = [table[number] for number in range(150) for table in tables]  # (token ids, how many of them are prompt)
print(repr(tokenizer.decode(samples[0][0])), f"has {len(samples[0][0])} tokens, {samples[0][1]} of them prompt")

# %% [markdown]
# ## How much of a batch is padding
#
# Batches of 16 in the order of the data, each as wide as its longest sample; and `plan`: rows of a few lengths, each
# sample in the fullest row that has room for it (best fit), at most 1,024 tokens a micro-batch. A sample of n tokens
# takes n - 1 places: its last token is predicted and never read.

# %%
places = torch.tensor([len(ids) - 1 for ids, _ in samples])
taken = {"padded": sum(len(some) * some.max().item() for some in places.split(16))}
taken["packed"] = sum(length * len(rows) for length, rows in plan(places.tolist(), limits.max_length, 1024))
padding = {name: 1 - places.sum().item() / tokens for name, tokens in taken.items()}
print("share of padding:", {name: f"{100 * share:.1f} %" for name, share in padding.items()})

# %% [markdown]
# ## A row of three samples
#
#     input_ids     a1 a2 a3 a4   b1 b2 b3   c1 c2 ...   pad pad      each sample without its last token
#     position_ids   0  1  2  3    0  1  2    0  1 ...     0   1      begin again at 0: these zeros are the boundaries
#     labels         -  - a4 a5    - b3 b4    - c3 ...     -   -      the next token of the same sample; - is IGNORED
#
# a1 a2 a3 are a's prompt. Labels are shifted inside each sample; along the row, a's last place would learn to say b1.

# %%
LENGTH = 96
three = sorted(samples, key=lambda sample: len(sample[0]))[:3]
row = collate([three], LENGTH, pad=tokenizer.eos_token_id)
ids, positions, labels = row["input_ids"], row["position_ids"], row["labels"]
ends = torch.tensor([len(ids) - 1 for ids, _ in three]).cumsum(0)
for at in range(ends[0] - 3, ends[0] + 2):  # the end of the first sample and the beginning of the second
    expected = "nothing" if labels[0, at] == IGNORED else repr(tokenizer.decode(labels[0, at]))
    print(f"place {at}, position {positions[0, at]}: {tokenizer.decode(ids[0, at])!r} expects {expected}")

# %% [markdown]
# ## What a sample sees
#
# We measure it: change token j, and whichever state is not the same to the last bit has seen it. Row j of the batch is
# the row above with token j changed, so one pass tries all j. Once with `hidden_states`, which hands attention the
# boundaries in place of a mask, once as a causal model reads one long text.

# %%
model = maple.load_model("tiny", bits=4, rank=8)
changed = ids.repeat(LENGTH, 1)
changed.diagonal().copy_((ids[0] + 1) % len(tokenizer))
readers = {
    "packed": lambda ids: hidden_states(model, {"input_ids": ids, "position_ids": positions.expand_as(ids)}),
    "causal": lambda ids: model.base_model(input_ids=ids, use_cache=False).last_hidden_state,
}
number = torch.searchsorted(ends, torch.arange(LENGTH), right=True)  # of the sample; the padding is the last
own = (number[:, None] == number).tril()
with torch.no_grad():
    seen = {name: (read(changed) != read(ids.expand_as(changed))).any(2).T for name, read in readers.items()}  # [i, j]
    alone = torch.cat([hidden_states(model, collate([[one]], len(one[0]) - 1, pad=0))[0] for one in three])
    apart = {name: (read(ids)[0, : ends[-1]] - alone).abs().max().item() for name, read in readers.items()}
print(
    "seen across samples:", {name: matrix[~own].sum().item() for name, matrix in seen.items()}, "pairs; apart:", apart
)

# %% [markdown]
# ## The mean over the supervised tokens of a step
#
# An optimizer step accumulates k micro-batches, with sums of losses S_m over n_m supervised tokens. One large batch of
# all of them has the first of these losses; averaging the means of the micro-batches, as is usual, gives the second:
#
#     (S_1 + ... + S_k) / (n_1 + ... + n_k)    against    1/k (S_1 / n_1 + ... + S_k / n_k)
#
# There a token of a small micro-batch weighs more. `FineTuning` accumulates the gradients of the sums and divides by
# all n just before they are applied. Lightning runs one step of it with SGD of rate 1: B moves by the gradient itself.

# %%
parameters = [parameter for _, parameter in lora_parameters(model)]
module = FineTuning(model, lr=1.0, schedule="constant", warmup_steps=0, total_steps=1, languages=[])
module.configure_optimizers = lambda: torch.optim.SGD(parameters, lr=1.0)
start, counts, errors = parameters_to_vector(parameters).detach(), [], {"mean of means": [], "FineTuning": []}


def gradient(batch: dict) -> torch.Tensor:  # of the mean loss of one batch, by autograd
    loss, tokens = token_loss(model, batch)
    return parameters_to_vector(torch.autograd.grad(loss / tokens, parameters))


for many in (8, 12, 20, 36):  # samples of a step: 4 in the first micro-batch, all others in the second
    two = [collate([[one] for one in some], LENGTH, pad=0) for some in (samples[:4], samples[4:many])]
    large = gradient({name: torch.cat([batch[name] for batch in two]) for name in row if name != "tokens"})
    trainer = Trainer(accelerator="cpu", max_epochs=1, accumulate_grad_batches=2, barebones=True)
    trainer.fit(module, torch.utils.data.DataLoader(two, batch_size=None))
    applied = start - parameters_to_vector(parameters).detach()
    vector_to_parameters(start.clone(), parameters)
    for name, found in zip(errors, ((gradient(two[0]) + gradient(two[1])) / 2, applied), strict=True):
        errors[name].append(((found - large).norm() / large.norm()).item())
    counts.append([(batch["labels"] != IGNORED).sum().item() for batch in two])
    print(f"{counts[-1]} supervised tokens: wrong by", {name: f"{values[-1]:.0e}" for name, values in errors.items()})

# %%
figure, (*maps, axis) = panels("What a packed sample sees, and what a token weighs", 3)
for panel, (name, matrix), shade, whose in zip(maps, seen.items(), COLOURS, ("its own", "another"), strict=False):
    panel.imshow(matrix.int() + (matrix & ~own), cmap=ListedColormap(["white", *COLOURS[:2]]), vmin=0, vmax=2)
    panel.plot([], [], "s", color=shade, label=f"a state sees {whose} sample")
    panel.grid(False)
    panel.set(title=f"{name}: which token moves which state", xlabel="token changed (place)", ylabel="state (place)")
for (name, values), colour, mark in zip(errors.items(), COLOURS[2:], MARKS, strict=False):
    axis.semilogy([second / first for first, second in counts], values, color=colour, marker=mark, label=name)
axis.set(title="two micro-batches", xlabel="supervised tokens, second / first", ylabel="error of gradient / its length")
figure.legend(loc="outside lower center", ncols=4)
save(figure, "7_packing")

# %% [markdown]
# ## What this lesson claims

# %%
answers = [token for ids, prompt in three for token in ids[prompt:].tolist()]  # with EOS
assert padding["packed"] < 0.1 < 0.25 < padding["padded"], f"packing does not save the padding: {padding}"
assert labels[labels != IGNORED].tolist() == answers, "the labels of a row are not the answers of its samples"
assert torch.equal(seen["packed"], own), "a packed sample does not see its own past and nothing else"
assert apart["packed"] < 1e-3 < 1 < apart["causal"], f"packed states are not those of the sample alone: {apart}"
assert max(errors["FineTuning"]) < 1e-4 < 0.3 < errors["mean of means"][-1], f"not the mean over its tokens: {errors}"
