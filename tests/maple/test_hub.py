"""Downloads from a hub on this machine: a good one, and each way it can fail, in one sentence."""

import hashlib

import pytest

from maple.errors import InputError
from maple.hub import commit_of, model_folder, snapshot_with
from tests.fake_hub import COMMIT, Repository

MODEL = {
    "config.json": b"{}",
    "tokenizer.model": b"pieces",
    "model.safetensors": b"weights" * 1000,
    "pytorch_model.bin": b"a pickle",
    "modeling_own.py": b"code",
    "onnx/config.json": b"{}",
}
OTHER = "b" * 40


def test_a_model_comes_without_pickles_code_and_subfolders(hub):
    hub.repositories["owner/model"] = Repository(MODEL)
    folder = model_folder("owner/model")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.model"]
    assert (folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert folder.name == commit_of("owner/model", folder) == COMMIT


def test_its_small_files_come_first(hub):
    hub.repositories["owner/model"] = Repository(MODEL)
    folder = model_folder("owner/model", weights=False)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.model"]


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_second_time_needs_no_hub(hub, revision):
    hub.repositories["owner/model"] = Repository(MODEL)
    first = model_folder("owner/model", revision)
    hub.__exit__()
    assert model_folder("owner/model", revision) == first
    assert (first / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


def test_a_commit_that_is_cached_is_not_asked_for_again(hub):
    hub.repositories["owner/model"] = Repository(MODEL)
    model_folder("owner/model", COMMIT)
    hub.requests.clear()
    model_folder("owner/model", COMMIT)
    assert hub.requests == []


def refused(hub, repository, revision=None, kind="model", file="config.json"):
    page = "datasets/owner/name" if kind == "dataset" else "owner/name"
    if repository is not None:
        hub.repositories[page] = repository
    with pytest.raises(InputError) as error:
        snapshot_with("--flag owner/name", "owner/name", file, revision, kind)
    message = str(error.value)
    assert message.startswith("--flag owner/name: ") and "\n" not in message
    return message


@pytest.mark.parametrize(("status", "code"), [(401, "GatedRepo"), (403, "GatedRepo"), (401, ""), (403, "")])
@pytest.mark.parametrize(("kind", "page"), [("model", "owner/name"), ("dataset", "datasets/owner/name")])
def test_a_gated_repository_names_hf_token_and_the_page_of_its_licence(hub, status, code, kind, page):
    message = refused(hub, Repository(MODEL, status=status, error_code=code), kind=kind)
    assert f"the hub refuses access ({status}); accept its licence at https://huggingface.co/{page} and" in message
    assert "HF_TOKEN" in message


def test_a_gated_model_says_so_with_its_flag(hub):
    hub.repositories["owner/name"] = Repository(MODEL, status=403, error_code="GatedRepo")
    with pytest.raises(InputError, match=r"--model owner/name: .*https://huggingface.co/owner/name and set HF_TOKEN"):
        model_folder("owner/name")


def test_what_the_hub_does_not_have(hub):
    assert "no such repository (401); if the name is right, it is private or gated" in refused(hub, None)
    assert "has no such file (http" in refused(hub, Repository(MODEL), file="de.jsonl")
    assert "has no such revision (http" in refused(hub, Repository(MODEL), revision="v2")
    assert "has no such revision (http" in refused(hub, Repository(MODEL), revision=OTHER)


def test_a_name_that_no_repository_can_have(hub):
    with pytest.raises(InputError, match="--model a b/c: no name of a hub repository"):
        model_folder("a b/c")


def test_a_transfer_that_breaks_off_is_given_up_and_leaves_nothing(hub):
    message = refused(hub, Repository(MODEL, breaks_after=1))
    assert "the download failed and nothing of the file was kept; run again" in message
    assert list(hub.cache.glob("*/blobs/*")) == []
    assert sum(request.startswith("GET") for request in hub.requests) < 10
    hub.repositories["owner/name"].breaks_after = None
    folder = snapshot_with("--flag", "owner/name", "config.json", None)
    assert (folder / "config.json").read_bytes() == MODEL["config.json"]


def test_a_file_of_another_size_than_announced_leaves_nothing(hub):
    message = refused(hub, Repository(MODEL, lacks=3), file="model.safetensors")
    assert "the download failed" in message and "should be of size 7000 but has size 6997" in message
    assert list(hub.cache.glob("*/blobs/*")) == []


def test_a_model_whose_weights_break_off_is_whole_the_next_time(hub):
    hub.repositories["owner/name"] = repository = Repository(MODEL)
    model_folder("owner/name", weights=False)
    repository.breaks_after = 100
    with pytest.raises(InputError, match="download failed"):
        model_folder("owner/name")
    repository.breaks_after = None
    assert (model_folder("owner/name") / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


def test_a_hub_that_answers_another_commit_is_refused(hub):
    message = refused(hub, Repository(MODEL, answers=OTHER), revision=COMMIT)
    assert f"the hub answered commit {OTHER} where {COMMIT} was asked for" in message
    # and what it sent is not taken for the commit by a later run
    assert f"the hub answered commit {OTHER}" in refused(hub, Repository(MODEL, answers=OTHER), revision=COMMIT)


def test_a_branch_that_moved_gives_what_it_is_now(hub):
    hub.repositories["owner/name"] = Repository(MODEL)
    first = snapshot_with("--flag", "owner/name", "config.json", "main")
    hub.repositories["owner/name"] = Repository(MODEL | {"config.json": b"{ }"}, commit=OTHER)
    second = snapshot_with("--flag", "owner/name", "config.json", "main")
    assert [first.name, second.name] == [COMMIT, OTHER]
    assert [(folder / "config.json").read_bytes() for folder in (first, second)] == [b"{}", b"{ }"]


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_fails(hub, status):
    assert f"{status}" in refused(hub, Repository(MODEL, status=status))


def test_a_hub_that_cannot_be_reached(hub):
    hub.__exit__()
    message = refused(hub, None)
    assert "the hub cannot be reached, and no copy is cached (ConnectError" in message


def test_the_fake_hub_speaks_of_a_file_as_the_hub_does(hub):
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    hub.repositories["owner/name"] = Repository(MODEL)
    found = get_hf_file_metadata(hf_hub_url("owner/name", "tokenizer.model"))
    assert (found.commit_hash, found.size) == (COMMIT, 6)
    assert found.etag == hashlib.sha1(b"pieces").hexdigest()


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "x" * 5000, "/" + "x" * 5000, "a\0b", "\udcff"])
def test_a_name_that_no_folder_can_have(name):
    with pytest.raises(InputError, match="there is no such folder") as error:
        model_folder(name)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a/../b", "", "a\nb", "-x"])
def test_a_revision_that_would_leave_the_cache(hub, revision):
    with pytest.raises(InputError, match=r"--model a/b: .* is no name of a branch, tag or commit"):
        model_folder("a/b", revision)
