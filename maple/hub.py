"""From a name to files on this disk: the embedded model or a folder as it is, a hub id downloaded, no pickle, no code.

A file in the cache is whole: huggingface_hub writes it under another name, compares its size with the announced one and
renames it. A broken transfer it continues, five times without a new byte, then it gives up. What is cached at a commit
is never asked for again, so a second run needs no network.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maple import tiny
from maple.errors import InputError, first_line, shown

# What a model folder needs: its configuration, its tokenizer, its safetensors. Never *.bin, *.pt or *.py, nothing of
# its subfolders, and not the copy of the weights in Mistral's own layout.
SMALL_FILES = ["*.json", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt"]
WEIGHTS = ["*.safetensors"]
OTHERS = ["*/*", "consolidated*"]

COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"(?!.*\.\.)\w[\w./+-]*")  # the cache has a file of its name, and an adapter may name one
HUB = "https://huggingface.co"  # where licences are accepted, whatever HF_ENDPOINT serves the files


def looks_like_folder(name: str) -> bool:
    """Whether a name means a folder: it starts like a path, is one, or is not of a hub id's form `owner/name`."""
    # Here and below os.path, not Path: it answers for every name, also one that is too long or the home of nobody.
    return name.startswith((".", "/", "~")) or os.path.exists(name) or name.count("/") != 1


def check_model_name(name: str, revision: str | None = None) -> None:
    """Raise InputError, before anything heavy is imported, for a folder that is not there or holds no model."""
    if not looks_like_folder(name):
        return
    if revision is not None:
        raise InputError(f"--revision {revision}: {name} is on this disk; a revision belongs to a hub id")
    if name == tiny.NAME:
        return
    folder = Path(os.path.expanduser(name))
    if os.path.isfile(folder):
        raise InputError(f"--model {name} is a file; give the folder that holds config.json and the safetensors")
    if not os.path.isdir(folder):
        raise InputError(
            f"--model {name}: there is no such folder, and it is no hub id of the form owner/name, nor {tiny.NAME!r}"
        )
    if not (folder / "config.json").is_file():
        raise InputError(f"--model {name}: the folder has no config.json; give the folder that holds it")


def model_folder(name: str, revision: str | None = None, weights: bool = True) -> Path:
    """The folder of a model: the embedded one's, `name` itself, or the snapshot of a hub id at `revision`.

    A snapshot is downloaded once, then cached. Without `weights` only its small files are fetched: enough to check
    everything else before gigabytes are. Raises InputError where neither can be had.
    """
    check_model_name(name, revision)
    if looks_like_folder(name):
        return tiny.BASE if name == tiny.NAME else Path(os.path.expanduser(name))
    from huggingface_hub import snapshot_download

    flag = f"--model {name}"
    folder = snapshot_with(flag, name, "config.json", revision)
    patterns = SMALL_FILES + WEIGHTS if weights else SMALL_FILES
    with _one_sentence(flag, f"{HUB}/{name}"):
        snapshot_download(name, revision=folder.name, allow_patterns=patterns, ignore_patterns=OTHERS)
    return folder


def commit_of(name: str, folder: Path) -> str | None:
    """The commit of a hub id whose `model_folder` is `folder`; None where the name is a folder."""
    return None if looks_like_folder(name) else folder.name


def snapshot_with(flag: str, repo: str, file: str, revision: str | None, kind: str = "model") -> Path:
    """The snapshot folder of a hub repository, named by its commit, once it holds `file`.

    flag       what the user gave; an error begins with it
    revision   branch, tag or commit; None: main
    kind       model or dataset

    Raises InputError, also for a hub that answers another commit than the one asked for.
    """
    from huggingface_hub import hf_hub_download

    if revision is not None and not REVISION.fullmatch(revision):
        raise InputError(f"{flag}: {shown(revision)} is no name of a branch, tag or commit")
    with _one_sentence(flag, f"{HUB}/{'datasets/' if kind == 'dataset' else ''}{repo}"):
        path = hf_hub_download(repo, file, repo_type=kind, revision=revision)
    folder = Path(path).parents[file.count("/")]
    if COMMIT.fullmatch(revision or "") and folder.name != revision:
        raise InputError(
            f"{flag}: the hub answered commit {folder.name} where {revision} was asked for; what is there now is "
            "something else"
        )
    return folder


@contextmanager
def _one_sentence(flag: str, page: str) -> Iterator[None]:
    """Turn whatever a download raises into an InputError; `page` is the repository's own."""
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        yield
    except (HTTPError, HFValidationError, OSError, RuntimeError) as error:  # hf_xet raises the last two
        raise InputError(f"{flag}: {_reason(error, page)}") from error


def _reason(error: Exception, page: str) -> str:
    from huggingface_hub import errors

    # Without network and without a cached copy, the reason is the cause of what is raised.
    missing = isinstance(error, errors.LocalEntryNotFoundError)
    cause = error.__cause__ or error if missing else error
    status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None
    account = f"accept its licence at {page} and set HF_TOKEN to a token of that account"
    if isinstance(cause, errors.RepositoryNotFoundError) and not isinstance(cause, errors.GatedRepoError):
        return f"the hub shows no such repository ({status}); if the name is right, it is private or gated: {account}"
    if status in (401, 403):
        return f"the hub refuses access ({status}); {account}"
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"{page} has no such revision ({cause.response.url})"
    if isinstance(cause, errors.RemoteEntryNotFoundError):
        return f"{page} has no such file ({cause.response.url})"
    if isinstance(cause, errors.HFValidationError):
        return f"no name of a hub repository ({first_line(cause)})"
    if missing:
        return f"the hub cannot be reached, and no copy is cached ({first_line(cause)})"
    return f"the download failed and nothing of the file was kept; run again once this is mended: {first_line(cause)}"
