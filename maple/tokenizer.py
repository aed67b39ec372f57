"""The tokenizer of a model folder."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from maple.errors import InputError, first_line


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that `folder` holds. Raises InputError where there is none or it makes no tokens."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"{folder}: neither tokenizer.json nor tokenizer.model is there")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not tokenizer("maple", add_special_tokens=False)["input_ids"]:
            raise ValueError("it makes no token of any text")
    except Exception as error:  # its files fail wherever its readers first stumble
        raise InputError(f"{folder}: its tokenizer cannot be used ({first_line(error)})") from error
    tokenizer.model_max_length = 10**9  # what is too long is cut or refused by us, and said; its warning would be noise
    return tokenizer
