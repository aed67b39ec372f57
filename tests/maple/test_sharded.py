"""FSDP2 over packed weights: every device has its share and no more, and computes what the whole model computes."""

import json
import weakref

import pytest
import torch
import torch.distributed as dist

import maple
from maple.lora import lora_parameters
from maple.loss import hidden_states
from maple.recompute import enable_recompute
from maple.sharded import Sharding, gather, is_part, share, whole
from tests.ranks import Forks

RANK = 5  # of LoRA: not divisible by two or three devices
CLOSE = 1e-5  # sums of float32 in another order


def loaded(bits, sharding=None):
    torch.manual_seed(0)
    model = maple.load_model("tiny", bits=bits, rank=RANK, dropout=0.1, sharding=sharding).train()
    for number, (_, parameter) in enumerate(lora_parameters(model)):
        generator = torch.Generator().manual_seed(number)
        values = torch.randn(parameter.shape, generator=generator) / 10
        with torch.no_grad():
            parameter.copy_(share(values, parameter))
    return model


def loss_of(model):
    """A number that depends on everything, with gradients."""
    ids = torch.arange(60).view(2, 30) * 7
    torch.manual_seed(1)  # of the dropout
    states = hidden_states(model, {"input_ids": ids, "position_ids": torch.arange(30).expand(2, 30)})
    return states.pow(2).mean()


def on_ranks(tmp_path, work, world):
    """What `work` returns on each rank."""

    def met():
        torch.set_num_threads(1)
        dist.init_process_group("gloo")
        (tmp_path / f"{dist.get_rank()}.json").write_text(json.dumps(work()))
        dist.destroy_process_group()

    forks = Forks(met, tmp_path / "logs", world)
    assert set(forks.wait()) == {0}, forks.said()
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.parametrize(("bits", "world"), [(4, 3), (8, 3), (16, 2)])
def test_every_byte_is_on_some_device_and_the_gradients_are_those_of_the_whole_model(tmp_path, bits, world):
    def work():
        expected, model = loaded(bits), loaded(bits, Sharding(torch.device("cpu")))
        enable_recompute(model, {4: "none", 8: "layer", 16: "selective"}[bits])
        pairs = list(zip(expected.named_parameters(), model.named_parameters(), strict=True))
        assert all(name == other for (name, _), (other, _) in pairs)
        layers = [(name, p) for _, (name, p) in pairs if "layers" in name]
        replicated = {name.rsplit(".", 1)[-1] for name, p in layers if not is_part(p)}
        assert replicated <= {"nested_absmax", "nested_offset"}
        uneven = [name for name, p in layers if is_part(p) and p.shape[0] % world]
        assert uneven, "what is not divisible is to be among them"
        assert all(torch.equal(one, whole(two)) for (_, one), (_, two) in pairs)
        loss_of(expected).backward()
        loss = loss_of(model)
        group = model.base_model.layers[0]._get_fsdp_state()._fsdp_param_group
        kept = sum(p._unsharded_param.untyped_storage().nbytes() for p in group.fsdp_params)
        assert kept == 0, "between forward and backward nothing of a layer is whole"
        loss.backward()
        for (name, one), (_, two) in zip(lora_parameters(expected), lora_parameters(model), strict=True):
            difference = (whole(two.grad) - one.grad).norm() / one.grad.norm()
            assert difference < CLOSE, (name, float(difference))
        return True

    assert on_ranks(tmp_path, work, world) == [True] * world


def test_no_device_ever_holds_the_whole_model(tmp_path):
    def work():
        world, most, shares, before = dist.get_world_size(), [], [], []
        original = Sharding.layer

        def watched(self, layer):
            codes = [p for name, p in layer.named_parameters() if name.endswith("codes")]
            whole_layer = sum(p.nbytes for p in codes)
            before.extend(weakref.ref(p) for p in codes)
            most.append(sum(shares) + whole_layer)
            del codes
            original(self, layer)
            shares.append(sum(p.to_local().nbytes for name, p in layer.named_parameters() if name.endswith("codes")))
            assert shares[-1] * world == pytest.approx(whole_layer, rel=0.01)
            assert not any(reference() is not None for reference in before), "the whole ones are gone"

        Sharding.layer = watched
        model = maple.load_model("tiny", rank=RANK, sharding=Sharding(torch.device("cpu")))
        layers = model.config.num_hidden_layers
        assert len(shares) == layers
        total = sum(p.nbytes for name, p in model.named_parameters() if name.endswith("codes"))
        return max(most) / total, layers

    for share_and_one, layers in on_ranks(tmp_path, work, 2):
        assert share_and_one <= ((layers - 1) / 2 + 1) / layers + 0.01


def test_what_is_gathered_comes_back_as_shares(tmp_path):
    def work():
        model = loaded(4, Sharding(torch.device("cpu")))
        tensors = dict(lora_parameters(model))
        found = gather(tensors, keep=dist.get_rank() == 0)
        assert len(found) == (len(tensors) if dist.get_rank() == 0 else 0)
        for name, tensor in found.items():
            assert not is_part(tensor) and tensor.shape == tensors[name].shape
        full = gather(tensors, keep=True)
        for name, tensor in full.items():
            again = share(tensor, tensors[name])
            assert torch.equal(again.to_local(), tensors[name].to_local())
        return True

    assert on_ranks(tmp_path, work, 2) == [True, True]
