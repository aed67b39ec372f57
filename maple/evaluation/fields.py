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


def string(value: object) -> str | None:
    """As `text`, and it may be blank."""
    return None if isinstance(value, str) and not value.strip() else text(value)


def one_of(*allowed: object) -> Check:
    """One of the values, of the same type: True is not 1."""

    def wrong(value: object) -> str | None:
        if any(type(value) is type(one) and value == one for one in allowed):
            return None
        return f"must be one of {', '.join(map(repr, allowed))}"

    return wrong


def answers(value: object) -> str | None:
    """SQuAD's {"text": [...], "answer_start": [...]}, at least one of each, as many of one as of the other."""
    lists = (value.get("text"), value.get("answer_start")) if isinstance(value, Mapping) else ()
    if not lists or not all(isinstance(one, list) for one in lists):
        return "must be {'text': [...], 'answer_start': [...]}"
    if not value["text"]:
        return "has no answer in 'text'"
    if len(value["text"]) != len(value["answer_start"]):
        return "has not as many in 'answer_start' as in 'text'"
    for one in value["text"]:
        if reason := text(one):
            return f"has an answer in 'text' that {reason}"
    if any(type(start) is not int or start < 0 for start in value["answer_start"]):
        return "has something in 'answer_start' that is no place in the context"
    return None


def passage(exact: bool) -> Callable[[Mapping[str, object], str], None]:
    """A check of a question on a passage: context, question, and answers that stand in the context.

    exact   at their `answer_start`; else anywhere
    """
    check_fields = fields(context=text, question=text, answers=answers)

    def check(row: Mapping[str, object], where: str) -> None:
        check_fields(row, where)
        context = row["context"]
        for answer, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            if exact and not context.startswith(answer, start):
                found = context[start : start + len(answer)]
                raise InputError(
                    f"{where}: the answer {shown(answer)} does not stand in the context at its answer_start {start}, "
                    f"where {shown(found)} is"
                )
            if answer not in context:
                raise InputError(f"{where}: the answer {shown(answer)} does not stand in the context")

    return check
