"""What the fields of a row must hold. Each check raises InputError naming file, line and field.

check = fields(premise=text, hypothesis=text, label=one_of(0, 1, 2))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from maple.errors import InputError, nearest, shown

Check = Callable[[object], str | None]  # a value -> what is wrong with it


def fields(**checks: Check) -> Callable[[Mapping[str, object], str], None]:
    """A check of a row: each of these fields is there and passes its check; other fields may be there too."""

    def check(row: Mapping[str, object], where: str) -> None:
        for name, wrong in checks.items():
            if name not in row:
                raise InputError(f"{where}: the field {name!r} is missing{nearest(name, row)}")
            if reason := wrong(row[name]):
                raise InputError(f"{where}: {name!r} {reason}, found {shown(row[name])}")

    return check


def text(value: object) -> str | None:
    """Text that is not blank, in whole characters."""
    if not isinstance(value, str):
        return "must be text"
    if not value.strip():
        return "is empty"
    return "holds half of a surrogate pair" if any("\ud800" <= c <= "\udfff" for c in value) else None


def one_of(*allowed: object) -> Check:
    """One of the values, of the same type: True is not 1."""

    def wrong(value: object) -> str | None:
        if any(type(value) is type(one) and value == one for one in allowed):
            return None
        return f"must be one of {', '.join(map(repr, allowed))}"

    return wrong
