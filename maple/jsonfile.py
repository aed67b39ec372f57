"""JSON that somebody else wrote, in a file, in a header or over the network: read whole, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

from maple.errors import InputError, readable

# Bytes. The shard index of a dense 70B model has 70 KB, that of DeepSeek-V3, with 91,000 tensors, 9 MB; and what 16 MiB
# of JSON become in memory is some hundreds of MiB at the worst.
LARGEST = 16 * 2**20


def read_object(path: Path) -> dict:
    """The object in a file. Raises InputError that names it where there is none."""
    return parse_object(_bytes_of(path), str(path))


def read_array(path: Path) -> list:
    """The array in a file. Raises InputError that names it where there is none."""
    content = _parse(_bytes_of(path), str(path))
    if not isinstance(content, list):
        raise InputError(f"{path}: not a JSON array")
    return content


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path} is missing")
    size = path.stat().st_size
    if size > LARGEST:
        raise InputError(f"{path}: {size} bytes of JSON; no file of this kind has more than {LARGEST}")
    with readable(path):
        return path.read_bytes()


def parse_object(text: bytes | str, where: str) -> dict:
    """The object that a text is; `where` begins the message of the InputError.

    A key that is there twice is refused, since two readers may take different ones of it. NaN and infinity pass, as in
    Python's own reader, so who takes a number from here asks whether it is finite.
    """
    content = _parse(text, where)
    if not isinstance(content, dict):
        raise InputError(f"{where}: not a JSON object")
    return content


def _parse(text: bytes | str, where: str) -> object:
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise InputError(f"{where}: JSON that is nested too deep") from error
    except ValueError as error:  # also a whole number of more digits than Python converts
        raise InputError(f"{where}: not JSON ({error})") from error


def _unique(pairs: list[tuple[str, object]]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:80]!r} is there twice")
    return content
