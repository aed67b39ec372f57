"""Where the real data lies, and the rule that in CI nothing is skipped while it lies there."""

import os
import secrets
import sys
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub

SHARED = Path(__file__).resolve().parents[2] / "shared"
REAL = SHARED / "real"
# Set for the processes beside this one, which inherit it.
SEED = int(os.environ.setdefault("MAPLE_TEST_SEED", str(secrets.randbelow(2**31))))
# The Triton kernels run on a GPU, or in the interpreter in a process of its own: `make test` starts it.
if os.environ.get("TRITON_INTERPRET") != "1":
    import torch

    collect_ignore = [] if torch.cuda.is_available() else ["triton"]
_skipped = []


def pytest_report_header():
    return f"random inputs from MAPLE_TEST_SEED={SEED}"


@pytest.fixture(autouse=True)
def fresh_random_inputs():
    """Other inputs in every run, the same ones again with the seed that the run's header names."""
    import torch

    torch.set_num_threads(1)  # these inputs are small: two threads would mostly wait for each other
    torch.manual_seed(SEED)


@pytest.fixture(autouse=True)
def tokenizer_of_its_own():
    """A test may change the tokenizer that it loads; the next one gets another."""
    if "maple.tokenizer" in sys.modules:
        sys.modules["maple.tokenizer"]._load.cache_clear()


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real models and data, which is not part of the repository."""
    if not REAL.is_dir():
        pytest.skip("needs the real models and data in ../shared/real, which this checkout does not have")
    return REAL


@pytest.fixture(scope="session")
def stories(real) -> Path:
    """A real pre-trained Llama of 260,032 parameters, its MLP 172 wide."""
    return real / "models" / "stories260k"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, empty, with a cache of its own; retries do not wait."""
    from huggingface_hub import close_session, constants

    with FakeHub() as fake:
        # read from HF_ENDPOINT and HF_HOME when huggingface_hub was imported
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        template = fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        fake.cache = tmp_path / "hub"
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(fake.cache))
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield fake
    close_session()


def pytest_collection_modifyitems(items):
    """With MAPLE_TEST_SHARD=2/8 every eighth test from the third on: `make test-gpu` compiles on as many cores."""
    shard, of = map(int, os.environ.get("MAPLE_TEST_SHARD", "0/1").split("/"))
    items[:] = items[shard::of]


def pytest_runtest_logreport(report):
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session):
    if os.environ.get("CI") and SHARED.is_dir() and _skipped:
        print(f"\nskipped in CI although {SHARED.name} is there: {', '.join(_skipped)}")
        session.exitstatus = 1
