"""A scripted judge, a cache of its own, and a clock on which waiting takes no time."""

import pytest

from maple.judging import pause
from tests.maple.judging.fake_judge import KEY, FakeJudge


class Clock:
    """Moves on by what is slept; also the list of that."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def own_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pause, "sleep", clock.sleep)
    monkeypatch.setattr(pause, "monotonic", lambda: clock.now)
    monkeypatch.setattr(pause, "random", lambda: 0.0)
    return clock


@pytest.fixture
def server():
    with FakeJudge() as fake:
        yield fake


@pytest.fixture
def annotations(real):
    """The folder of real annotations and outputs of one model."""
    return lambda name: real / "tasks" / "alpaca_eval" / name
