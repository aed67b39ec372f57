"""One process at a time in a folder."""

import errno
import multiprocessing
import os
import signal

import pytest

from maple.errors import InputError
from maple.lock import locked
from maple.outputs import claim

SPAWN = multiprocessing.get_context("spawn")


def hold(folder, ready):
    with locked(folder):
        ready.set()
        signal.pause()


@pytest.fixture
def owner(tmp_path):
    """Another process that holds the lock of the folder."""
    ready = SPAWN.Event()
    process = SPAWN.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path, owner):
    with pytest.raises(InputError, match=rf"process {owner.pid} on .* is at work in it"), locked(tmp_path):
        pass


def test_the_lock_does_not_outlive_a_killed_owner(tmp_path, owner):
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_name_was_taken_away_meanwhile_is_not_mistaken_for_one(tmp_path, monkeypatch):
    """The owner ends, and removes the name, between our opening the file and our locking it."""
    import fcntl

    calls, flock = [], fcntl.flock

    def removed_first(descriptor, how):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(descriptor)
        return flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists() and len(calls) == 2


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(InputError, match="its file system has no locks"), claim(str(tmp_path / "run")):
        pass
    assert not list(tmp_path.iterdir())


def test_no_room_for_the_owners_name_is_no_reason_not_to_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with locked(tmp_path), pytest.raises(InputError, match="another process is at work"), locked(tmp_path):
        pass


def test_two_runs_with_one_out(tmp_path):
    with (
        claim(str(tmp_path / "run")),
        pytest.raises(InputError, match="is at work in it"),
        claim(str(tmp_path / "run")),
    ):
        pass


def test_a_folder_into_which_nothing_was_written_is_taken_away_with_its_parents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with claim("a/b/c"):
        pass
    with claim(None) as out:
        assert out.as_posix() == "runs/0001"
    (tmp_path / "mine").mkdir()
    with claim("mine"):
        pass
    assert os.listdir(tmp_path) == ["mine"]


def test_a_run_that_began_and_ended_since_is_not_written_over(tmp_path, monkeypatch):
    """Both had seen an empty folder; the other one was quicker."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").touch()
    with pytest.raises(InputError, match="is not empty"), claim(str(tmp_path / "run")):
        pass
