"""One base for all cells that share it, and the bytes that each cell has by itself."""

import gc
import json
import weakref
from types import SimpleNamespace

import pytest
import torch

import maple.cells.bases
from maple.cells import work
from maple.cells.bases import Bases
from maple.evaluate import evaluate
from maple.fit import fit
from maple.lora import lora_layers
from tests.fake_hub import COMMIT, Repository
from tests.studies import jobs_in, run, write

# What a cell may leave in a base: patched forwards, dropout, pairs of another size or elsewhere, an end in the middle.
CELLS = [
    {"rank": 4, "recompute": "layer", "dropout": 0.3, "targets": "all-linear"},
    {"rank": 4, "lr": 1, "alpha": 1e30},  # diverges in its first steps
    {"rank": 1, "recompute": "selective"},
    {"rank": 2, "rslora": True},
    {"rank": 4, "bits": 16},
]


class Loads:
    """Counts the loads, and how many models that were loaded before are alive at each."""

    def __init__(self):
        self.names, self.alive, self.load = [], [], maple.cells.bases.load_model

    def __call__(self, name, **settings):
        self.names.append((name, settings["bits"]))
        before = sum(model() is not None for model in self.alive)
        assert before == 0, f"{before} bases in memory while {self.names[-1]} is loaded"
        model = self.load(name, **settings)
        self.alive.append(weakref.ref(model))
        return model


@pytest.fixture(scope="module")
def together(tmp_path_factory, data):
    """A study of these cells, what it loaded, and what it ended with."""
    folder, loads = tmp_path_factory.mktemp("together"), Loads()
    work.BASES.drop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maple.cells.bases, "load_model", loads)
        fit = {"recompute": None, "lr": None, "targets": "all-linear"}
        slices = [{"recompute": "none", "lr": 0.005, "targets": "qv"} | cell for cell in CELLS]
        code = run(write(folder, data, fit=fit, grid={}, slices=slices), folder / "study")
    work.BASES.drop()
    return SimpleNamespace(out=folder / "study", loads=loads, code=code, jobs=jobs_in(folder / "study"))


def test_one_cell_fails_and_the_others_do_not(together):
    assert together.code == 1
    failed = [job for job in together.jobs if job.has_failed]
    assert [job.cell.fit["lr"] for job in failed] == [1.0]
    assert sum(job.is_finished for job in together.jobs) == len(CELLS) - 1 + 2


def test_each_base_is_loaded_once_and_never_with_another(together):
    assert together.loads.names == [("tiny", 4), ("tiny", 4), ("tiny", 16)]  # after the failure once more


def adapters(together):
    return [job for job in together.jobs if job.cell.rank and not job.has_failed]


def predictions(folder):
    return {path.name: path.read_bytes() for path in (folder / "predictions").iterdir()}


def rows(folder):
    """scores.json but where the adapter lies."""
    found = json.loads((folder / "scores.json").read_text())
    return [row | {"settings": row["settings"] | {"adapter": None}} for row in found]


def test_every_cell_has_the_bytes_that_it_has_by_itself(together, tmp_path):
    assert len(adapters(together)) == len(CELLS) - 1
    for number, job in enumerate(adapters(together)):
        alone, scored = tmp_path / f"fit-{number}", tmp_path / f"scores-{number}"
        fit(**{name: value for name, value in job.cell.fit.items() if value is not None}, out=str(alone))
        for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "config.yaml"):
            assert (job.fit / name).read_bytes() == (alone / name).read_bytes(), (job.cell.name, name)
        asked = job.evaluate | {"model": "tiny", "bits": job.cell.fit["bits"], "device": "cpu"}
        evaluate(**asked | {"adapter": str(alone / "adapter"), "out": str(scored)})
        assert predictions(job.scores) == predictions(scored) and rows(job.scores) == rows(scored)
        assert not (job.fit / "checkpoints").exists()


def test_every_base_has_the_scores_that_it_has_by_itself(together, tmp_path):
    for job in (job for job in together.jobs if not job.cell.rank):
        scored = tmp_path / str(job.cell.fit["bits"])
        asked = job.evaluate | {"model": "tiny", "bits": job.cell.fit["bits"], "template": "alpaca", "device": "cpu"}
        evaluate(**asked | {"out": str(scored)})
        assert predictions(job.scores) == predictions(scored) and rows(job.scores) == rows(scored)


# ------------------------------------------------------------------------------------------------- by itself

SETTINGS = {"bits": 4, "block_size": 64, "double_quant": True, "revision": None, "dtype": torch.float32}
SETTINGS |= {"device": torch.device("cpu")}


@pytest.fixture
def loads(monkeypatch):
    monkeypatch.setattr(maple.cells.bases, "load_model", Loads())
    return maple.cells.bases.load_model


def test_a_base_is_kept_until_another_is_asked_for(loads):
    bases = Bases()
    one = bases.load("tiny", rank=0, **SETTINGS)
    assert bases.load("tiny", rank=4, **SETTINGS) is one and len(lora_layers(one)) == 28
    assert bases.load("tiny", rank=2, targets="qv", **SETTINGS) is one and len(lora_layers(one)) == 8
    assert bases.load("tiny", rank=0, **SETTINGS) is one and not lora_layers(one) and not one.training
    del one
    for other in ({"bits": 8}, {"block_size": 128}, {"double_quant": False}, {"dtype": torch.bfloat16}):
        bases.load("tiny", rank=0, **SETTINGS | other)
    assert len(loads.names) == 5
    bases.drop()
    gc.collect()
    assert not any(model() for model in loads.alive)


def test_how_nf4_is_packed_does_not_matter_to_other_bits(loads):
    bases = Bases()
    for size in (64, None, 128):
        bases.load("tiny", rank=1, **SETTINGS | {"bits": 16, "block_size": size, "double_quant": size})
    assert len(loads.names) == 1


def test_the_next_cell_starts_from_its_own_seed(loads):
    bases, found = Bases(), []
    for rank in (4, 2, 4):
        torch.manual_seed(7)
        model = bases.load("tiny", rank=rank, **SETTINGS)
        found.append(next(iter(lora_layers(model).values())).lora_a.detach().clone())
    assert torch.equal(found[0], found[2])
    torch.manual_seed(7)
    assert torch.equal(found[0], next(iter(lora_layers(maple.load_model("tiny", rank=4)).values())).lora_a)


def test_a_base_of_the_hub_is_loaded_once_whatever_calls_it(hub, stories, loads):
    hub.repositories["owner/name"] = Repository({path.name: path.read_bytes() for path in stories.iterdir()})
    bases = Bases()
    for revision in (None, COMMIT, "main", None):
        bases.load("owner/name", rank=0, **SETTINGS | {"revision": revision})
    assert len(loads.names) == 1


def test_nothing_is_kept_of_a_base_that_could_not_be_loaded(loads, monkeypatch):
    bases = Bases()
    bases.load("tiny", rank=0, **SETTINGS)
    monkeypatch.setattr(loads, "load", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bases.load("tiny", rank=0, **SETTINGS | {"bits": 8})
    assert bases.model is None and bases.key is None
