"""A function's signature as a command line: flat flags, a YAML file under them, errors of one sentence.

    if __name__ == "__main__":
        cli.main(fit)

Types, defaults and `Literal` choices come from the signature; the help of a flag is the line `name: text` in the
function's docstring. A positional-only parameter has no flag: `def report(folder: str, /)` is `report FOLDER`. Nothing
heavy is imported here: a verb imports torch inside its function, so `--help` and typing errors answer in a fraction of
a second.

Exit codes: 0 done, 2 wrong input (one message on stderr, no traceback), 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import signal
import sys
import typing
import warnings
from collections.abc import Callable
from itertools import pairwise

from jsonargparse import ArgumentError as ParseError
from jsonargparse import ArgumentParser

from maple import ranks
from maple.errors import InputError, InputWarning, LostError, nearest, one_line, refuse_kernels_distribution
from maple.flatyaml import check_flags, check_length

TERMINATED = 128 + signal.SIGTERM  # as shells count the end by a signal


def main(
    function: Callable, argv: list[str] | None = None, under: Callable[[dict], str | None] | None = None
) -> typing.NoReturn:
    """Parse the command line, call `function`, and leave with its exit code.

    under   the arguments -> a file of flags that they are to lie over, or None
    """
    argv = sys.argv[1:] if argv is None else argv
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
    try:
        arguments = parse(function, argv)
        if under and (file := under(arguments)):
            arguments = parse(function, ["--config", file, *argv])
        refuse_kernels_distribution()
        placed = [arguments.pop(name) for name in _placed(function)]
        function(*placed, **arguments)
    except InputError as error:
        leave(2, f"error: {error}")
    except BrokenPipeError:  # whoever read our output has left, as `head` does: nothing remains to be said to anyone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at its exit
        sys.exit(1)
    except OSError as error:  # a file that may not be read, a name that is too long, a folder that is gone
        if error.filename is None:
            raise
        leave(2, f"error: {error.filename}: {error.strerror}")
    except LostError as error:
        leave(1, f"error: {error}")
    except KeyboardInterrupt:
        leave(130, "stopped by Ctrl-C")
    except SystemExit as leaving:  # Lightning turns Ctrl-C into exit(1) after its teardown
        if isinstance(leaving.__context__, KeyboardInterrupt):
            leave(130, "stopped by Ctrl-C")
        if leaving.code == TERMINATED:
            leave(TERMINATED, "stopped by SIGTERM")
        raise
    sys.exit(0)


def leave(code: int, message: str) -> typing.NoReturn:
    """Say one sentence and exit, without a traceback; of several processes of a run one says it."""
    if ranks.here().world > 1:  # whoever started this process may end it now; in Python's own exit that would be told
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if ranks.is_to_say(one_line(message)):
        say(message)
    sys.exit(code)


def say(message: str) -> None:
    """One sentence on stderr, without control characters that a name may hold."""
    print(one_line(message), file=sys.stderr, flush=True)


def _show_warning(otherwise: Callable, message, category, *where) -> None:
    """Our own warnings as one sentence; those of libraries as they are."""
    if not issubclass(category, InputWarning):
        otherwise(message, category, *where)
    elif ranks.is_first():
        say(f"warning: {message}")


def parse(function: Callable, argv: list[str]) -> dict[str, object]:
    """The arguments that a command line and its --config give; raises InputError with the nearest valid name."""
    parser = build_parser(function)
    flags = {f"--{_dashed(name)}" for name in inspect.signature(function).parameters if name not in _placed(function)}
    own_config = "--config" in flags  # a verb whose file is more than flags reads it itself
    known = flags | ({"--help"} if own_config else {"--config", "--print_config", "--help"})
    for word in argv:
        flag = word.split("=")[0]
        if flag.startswith("--") and flag not in known:
            raise InputError(f"unknown flag {flag}{nearest(flag, known)}")
        if word.startswith("--print_config="):
            raise InputError("--print_config takes no value")
    files = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]
    files += [word for flag, word in pairwise(argv) if flag == "--config"]
    files = [] if own_config else files
    texts = {name: _takes_text(hint) for name, hint in typing.get_type_hints(function).items() if name != "return"}
    for file in files:
        check_flags(file, texts)
    for flag, value in [*pairwise(argv), *(word.partition("=")[::2] for word in argv)]:
        if not texts.get(flag[2:].replace("-", "_"), True):
            check_length(flag, value)
    try:
        arguments = parser.parse_args(argv).as_dict()
    except ParseError as error:
        raise InputError(_one_sentence(str(error), flags, files)) from error
    except (ValueError, OverflowError, RecursionError) as error:  # a number that Python neither converts nor prints
        raise InputError(f"a flag's value cannot be read: {' '.join(str(error).split())}") from error
    if not own_config:
        arguments.pop("config")
    for name, parameter in inspect.signature(function).parameters.items():
        if arguments[name] is None and parameter.default is not None:
            raise InputError(f"--{_dashed(name)} is null, but it needs a value")
        if isinstance(arguments[name], int) and abs(arguments[name]) >= 2**63:  # no tensor has so many of anything
            raise InputError(f"--{_dashed(name)} is a number of more than 18 digits")
    return arguments


@functools.cache  # the flags of a study are parsed one by one, and building takes twice as long as parsing
def build_parser(function: Callable) -> ArgumentParser:
    """One flag a parameter: --max-steps on the command line, max_steps in YAML."""
    module = inspect.getmodule(function)
    parser = ArgumentParser(
        prog=f"python -m {module.__spec__.name if module.__spec__ else module.__name__}",
        description=inspect.getdoc(function).split("\n\n")[0],
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode="flat-yaml",
    )
    parameters = inspect.signature(function).parameters
    if "config" not in parameters:
        parser.add_argument("--config", action="config", help="YAML file with any of these flags; flags win over it")
    lines = re.findall(r"^(\w+): (.+(?:\n +.+)*)", inspect.getdoc(function), flags=re.MULTILINE)
    helps = {name: " ".join(text.split()) for name, text in lines}
    types = typing.get_type_hints(function)
    for name, parameter in parameters.items():
        given = parameter.default is not inspect.Parameter.empty
        if name in _placed(function):
            parser.add_argument(name, type=types[name], metavar=name.upper(), help=helps[name])
            continue
        parser.add_argument(
            f"--{_dashed(name)}",
            type=types[name],
            help=helps[name],
            **({"nargs": "?", "const": True} if types[name] is bool else {}),  # --resume alone means true
            **({"default": parameter.default} if given else {"required": True}),
        )
    return parser


def _placed(function: Callable) -> list[str]:
    """The names of the parameters that are given by their place and have no flag."""
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_ONLY]


def written(arguments: dict[str, object]) -> list[str]:
    """The command line that gives these arguments again."""
    texts = {None: "null", True: "true", False: "false"}
    return [
        f"--{_dashed(name)}={texts[value] if value is None or value is True or value is False else value}"
        for name, value in arguments.items()
    ]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _takes_text(hint: object) -> bool:
    return hint is str or any(_takes_text(part) for part in typing.get_args(hint))


def _one_sentence(message: str, flags: set[str], files: list[str]) -> str:
    """jsonargparse's errors, shortened to flag, value and what would do."""
    keys = {flag[2:].replace("-", "_") for flag in flags}
    if wrong := re.search(r'Parser key "(\w+)":\s*(.*)', message, flags=re.DOTALL):
        flag, reason = f"--{_dashed(wrong.group(1))}", wrong.group(2)
        kinds = re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.(.+?\])|(\w+))", reason)
        value = re.search(r"(?:Got value|Given value): (.*)", reason)
        if not (kinds and value):
            return f"{flag}: {' '.join(reason.split())}"
        names = [name for kind in kinds for name in kind if name and name != "NoneType"]
        expected = " or ".join(names).replace("Literal[", "one of ").rstrip("]")
        return f"{flag} is {value.group(1)}, expected {expected}"
    if unknown := re.search(r"Option '([\w.]+)' is not accepted", message):
        return f"--config: unknown key {unknown.group(1)!r}{nearest(unknown.group(1), keys)}"
    if missing := re.search(r"arguments are required: (.*)", message):
        names = [key.strip() for key in missing.group(1).split(",")]
        return f"missing: {', '.join(f'--{_dashed(key)}' if key in keys else key.upper() for key in names)}"
    if "config: " in message:
        return f"--config {' '.join(files)} is not YAML of flags: {' '.join(message.split('config: ', 1)[1].split())}"
    return " ".join(message.split())
