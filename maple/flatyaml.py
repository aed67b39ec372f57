"""YAML that holds flags and nothing else: names and plain values, no nesting, anchors, aliases or tags.

The text is looked at event by event before anything is constructed of it. An alias makes nine lines into gigabytes
("billion laughs"), a thousand opening brackets overflow the C stack of libyaml's composer, and neither has a use here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from jsonargparse import get_loader, set_loader

from maple.errors import InputError, nearest, shown

LARGEST = 64 * 2**10  # bytes; a recipe with a reason beside each flag has 2 KiB, and PyYAML reads 64 in 0.2 s

LONGEST = 64  # characters of what is no text; the longest choice has 10, a float written out in full 24

Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def flat_load(text: str) -> object:
    """A plain value, or a mapping of names to such: jsonargparse's loader for files and for single flags.

    Raises YAMLError for anything else, which makes a flag's value the text itself.
    """
    try:
        for _ in flat_entries(text):
            pass
        return get_loader("yaml")(text)
    except (ValueError, RecursionError) as error:  # what YAML's constructors raise, as of a number of 5,000 digits
        raise yaml.YAMLError(str(error)) from error


set_loader("flat-yaml", flat_load, (yaml.YAMLError,))


def flat_entries(text: str) -> Iterator[tuple[str, str, int]]:
    """(name, value as it is written, line) of each entry, nothing for a plain value. Raises YAMLError for all else."""
    names: list[yaml.ScalarEvent] = []  # one whose value is to come
    inside = over = False  # the mapping; the document
    for event in yaml.parse(text, Loader=Parser):
        over = over or isinstance(event, yaml.DocumentEndEvent)
        if not isinstance(event, yaml.NodeEvent):
            continue
        if over or event.anchor or getattr(event, "tag", None):
            raise _unwanted(event)
        if isinstance(event, yaml.MappingStartEvent) and not inside:
            inside = True
        elif not isinstance(event, yaml.ScalarEvent):
            raise _unwanted(event)
        elif inside and not names:
            names = [event]
        elif inside:
            name = names.pop()
            yield name.value, event.value, name.start_mark.line + 1


def _unwanted(event: yaml.NodeEvent) -> yaml.YAMLError:
    found = "a list, a mapping inside another or a second document"
    if event.anchor:  # an alias carries its anchor's name
        found = "an anchor or alias"
    elif getattr(event, "tag", None):
        found = "a tag"
    return yaml.MarkedYAMLError(problem=f"{found} where a plain value is needed", problem_mark=event.start_mark)


def check_flags(file: str, texts: dict[str, bool]) -> None:
    """Raise InputError, with file and line, for a --config that is more or else than flags, each once.

    texts   every name, and whether its value may be text of any length
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"--config {file}: there is no such file")
    if path.stat().st_size > LARGEST:
        raise InputError(f"--config {file}: more than {LARGEST} bytes, which no file of flags has")
    lines: dict[str, int] = {}
    try:
        for key, value, line in flat_entries(path.read_text(encoding="utf-8-sig")):
            name, where = key.replace("-", "_"), f"--config {file}:{line}"
            if name not in texts:
                raise InputError(f"{where}: unknown key {key[:80]!r}{nearest(name[:80], texts)}")
            if name in lines:
                raise InputError(f"{where}: {key} is there already, in line {lines[name]}")
            if not texts[name]:
                check_length(f"{where}: {key}", value)
            lines[name] = line
    except UnicodeDecodeError as error:
        raise InputError(f"--config {file}: not UTF-8 (byte {error.start})") from error
    except yaml.YAMLError as error:
        raise InputError(_sentence(file, error)) from error


def check_length(where: str, value: str) -> None:
    """Raise InputError where a number, a truth value or a choice is long: jsonargparse would read nested YAML of it."""
    if len(value) > LONGEST:
        raise InputError(f"{where} is {shown(value)}, which is no number and no choice")


def _sentence(file: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"--config {file}{f':{mark.line + 1}' if mark else ''} is not YAML of flags: {reason}"
