"""From a model's name to a folder on this disk: a folder as it is, a hub id downloaded without any pickle or code."""

from pathlib import Path

from maple.errors import InputError

# What a model folder needs: its configuration, its tokenizer, its safetensors. Never *.bin, *.pt or *.py, nothing of
# its subfolders, and not the copy of the weights in Mistral's own layout.
SMALL_FILES = ["*.json", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt"]
WEIGHTS = ["*.safetensors"]
OTHERS = ["*/*", "consolidated*"]


def looks_like_folder(name: str) -> bool:
    """Whether a name means a folder: it starts like a path, is one, or is not of a hub id's form `owner/name`."""
    return name.startswith((".", "/", "~")) or Path(name).exists() or name.count("/") != 1


def check_model_name(name: str) -> None:
    """Raise InputError, before anything heavy is imported, for a folder that is not there or holds no model."""
    if not looks_like_folder(name):
        return
    folder = Path(name).expanduser()
    if folder.is_file():
        raise InputError(f"--model {name} is a file; give the folder that holds config.json and the safetensors")
    if not folder.is_dir():
        raise InputError(f"--model {name}: there is no such folder, and it is no hub id of the form owner/name")
    if not (folder / "config.json").is_file():
        raise InputError(f"--model {name}: the folder has no config.json; give the folder that holds it")


def model_folder(name: str, revision: str | None = None, weights: bool = True) -> Path:
    """The folder of a model: `name` itself, or the snapshot of a hub id at `revision` (downloaded once, then cached).

    Without `weights` only its small files are fetched: enough to check everything else before gigabytes are.
    Raises InputError where neither can be had.
    """
    check_model_name(name)
    if looks_like_folder(name):
        if revision is not None:
            raise InputError(f"--revision {revision}: {name} is a folder; a revision belongs to a hub id")
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = SMALL_FILES + WEIGHTS if weights else SMALL_FILES
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=OTHERS))
    except GatedRepoError as error:
        raise InputError(
            f"--model {name}: accept its licence on the hub first, and set HF_TOKEN to a token of that account"
        ) from error
    except LocalEntryNotFoundError as error:
        raise InputError(f"--model {name}: no such folder, the hub cannot be reached, and no copy is cached") from error
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--model {name}: the hub has no such model or revision ({reason})") from error
