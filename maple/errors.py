"""The error and the warning that a user's input can cause, and the error that a user's environment can."""

import importlib.metadata
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class InputError(Exception):
    """What the user gave is wrong: one sentence that names it, what was found and what would do. Exit code 2."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class LostError(Exception):
    """What was to come is not there, though the input is right: a process was lost, a cell failed. Exit code 1."""


def one_line(text: str) -> str:
    """A message that may quote what files and flags hold: what is not printable is escaped, and a long middle left out.

    A message ends with the remedy and begins with the place, so both ends are kept.
    """
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} [...] {text[-_LONGEST // 2 :]}"


_LONGEST = 4000  # characters, about a screen: what a table of differing settings may take, and a hostile value may not


def shown(value: object) -> str:
    """A value from a file for a message, cut where it is long or deep."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80  # so that a message stays one line of a terminal or two
_SHORT.maxlevel = 3


class InputWarning(UserWarning):
    """Something about what the user gave should be known, and the work goes on."""


def nearest(name: str, known: Iterable[str]) -> str:
    """', did you mean ...?' for a name close to one of the known, else a list of them."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def refuse(problems: Sequence[str]) -> None:
    """Raise InputError with all of them in one message; do nothing where there is none."""
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        listed = "; ".join(f"({number}) {problem}" for number, problem in enumerate(problems, 1))
        raise InputError(f"{len(problems)} problems: {listed}")


def first_line(error: BaseException) -> str:
    """The beginning of another library's message, which may be long and hold a stack of C++ frames."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the system says of a file that cannot be read into an InputError that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or path}: cannot be read ({error.strerror})") from error


def refuse_kernels_distribution() -> None:
    """Raise InputError where the distribution `kernels` is installed: transformers would import ours in its place."""
    try:
        version = importlib.metadata.version("kernels")
    except importlib.metadata.PackageNotFoundError:
        return
    raise InputError(
        f"the package 'kernels' {version} is installed, and transformers would mistake maple's own kernels for it: "
        "pip uninstall kernels"
    )
