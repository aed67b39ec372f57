"""The packages that only some languages need: the extra `rouge` brings them."""

from __future__ import annotations

import importlib
from types import ModuleType

from maple.errors import InputError


def imported(package: str, language: str) -> ModuleType:
    """The package, or an InputError that says what asked for it and how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"ROUGE in the language {language!r} needs the package {package!r}: pip install 'maple-lora[rouge]'"
        ) from error
