"""The tokenizer of a model folder, and the tokens at which an answer ends."""

from __future__ import annotations

import functools
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from maple.errors import InputError, first_line


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that `folder` holds. Raises InputError where there is none or it makes no tokens."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"{folder}: neither tokenizer.json nor tokenizer.model is there")
    stats = ((path, path.stat()) for path in sorted(folder.glob("*")) if path.is_file())  # a link may lead nowhere
    return _load(folder, tuple((path.name, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


# One is kept for the next cell of a study: those that go leave the Rust library's cache of words behind (tokenizers
# 0.23.3), which was 10 MB for each cell of the embedded world, and no collection or malloc_trim brought it back.
@functools.lru_cache(maxsize=1)
def _load(folder: Path, files: tuple) -> PreTrainedTokenizerBase:
    """Of the files as they are now."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not tokenizer("maple", add_special_tokens=False)["input_ids"]:
            raise ValueError("it makes no token of any text")
    except Exception as error:  # its files fail wherever its readers first stumble
        raise InputError(f"{folder}: its tokenizer cannot be used ({first_line(error)})") from error
    tokenizer.model_max_length = 10**9  # what is too long is cut or refused by us, and said; its warning would be noise
    return tokenizer


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end an answer: those of the model's own settings, and the EOS that training puts behind each one."""
    eos = model.generation_config.eos_token_id
    ids = [*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id]
    if not all(isinstance(token, int | None) for token in ids):
        raise InputError(f"generation_config.json: eos_token_id is {eos!r}; a token id or a list of them is needed")
    return sorted({token for token in ids if token is not None})


def check_vocabulary(ids: list[int], rows: int) -> None:
    """Raise InputError for a token id beyond the rows of the model's embedding."""
    if max(ids) >= rows:
        raise InputError(
            f"the tokenizer makes id {max(ids)}, the model's embedding has {rows} rows; is it that of another model?"
        )
