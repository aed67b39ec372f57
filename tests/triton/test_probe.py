"""The start-up comparison finds a kernel that is wrong, and lets those that are right pass."""

import pytest
import torch

import maple
from kernels import elementwise, gpu
from maple.errors import InputError
from maple.probe import compare_kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def batch():
    ids = torch.randint(300, (1, 24), device=DEVICE)
    return {"input_ids": ids, "position_ids": torch.arange(24, device=DEVICE)[None]}


@pytest.mark.parametrize("bits", [4, 8])
def test_right_kernels_pass_each_group_of_shapes_once(batch, bits):
    model = maple.load_model("tiny", bits=bits, rank=4, dropout=0.2, device=DEVICE).train()
    state = torch.get_rng_state()
    assert compare_kernels(model, batch) == 4  # q/k/v together, o, gate/up together, down
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        (
            "lora_linear",
            lambda ys, xa: ([y * 1.01 for y in ys], xa),
            r"kernel's y of .*q_proj is 0.01 of ",
        ),
        ("lora_linear", lambda ys, xa: ([y.fill_(float("nan")) for y in ys], xa), r"kernel's y of .* is nan"),
        ("lora_linear_backward", lambda dx, da, dbs: (dx, da * 1.01, dbs), r"kernel's dA of .* is 0.01"),
        ("lora_linear_backward", lambda dx, da, dbs: (dx * 0, da, dbs), r"kernel's dX of .* is 1 "),
    ],
)
def test_wrong_kernels_are_refused(batch, monkeypatch, name, harm, words):
    model = maple.load_model("tiny", rank=4, targets="qv", device=DEVICE)
    right = getattr(gpu, name)
    monkeypatch.setattr(gpu, name, lambda *arguments: harm(*right(*arguments)))
    with pytest.raises(InputError, match=words):
        compare_kernels(model, batch)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("rms_norm", lambda y, scale: (y * 1.01, scale)),
        ("rms_norm_backward", lambda dx: dx * 1.01),
        ("rotary", lambda q, k: (q, k.flip(-1))),
        ("swiglu", lambda y: y.fill_(float("nan"))),
        ("swiglu_backward", lambda dgate, dup: (dup, dgate)),
    ],
)
def test_wrong_kernels_between_the_layers_are_refused(batch, monkeypatch, name, harm):
    model = maple.load_model("tiny", rank=4, device=DEVICE)
    right = getattr(elementwise, name)

    def wrong(*arguments):
        results = right(*arguments)
        return harm(*results) if isinstance(results, tuple) else harm(results)

    monkeypatch.setattr(elementwise, name, wrong)
    with pytest.raises(InputError, match=f"kernel's {name.removesuffix('_backward')} or its gradient is "):
        compare_kernels(model, batch)
