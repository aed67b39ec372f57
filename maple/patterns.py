"""Regular expressions that somebody else wrote, matched in a process of their own that can be ended.

Python's `re` may take exponential time: `(.|[a-z])*!` on a path of forty characters outlives its reader, and nothing in
the same process can stop it. An adapter's target_modules come from whoever made the adapter. To refuse nested
quantifiers would not do: alternatives and back-references blow up too, and the patterns in use are not simple (several
`.*?` in a row, from Unsloth's get_peft_regex). A linear engine, RE2, lacks look-aheads. The module `regex` has a time
limit for matching but none for compiling: a nest of `(?:a{1000}){1000}` takes all memory there. So it is `re` itself,
in a process with a time limit, for some 20 ms.
"""

from __future__ import annotations

import json
import subprocess
import sys

from maple.errors import InputError, shown

# Of all patterns on all paths; an adapter has three such sets. A pattern for each of the 560 layers of a 70B model
# takes 0.15 s on one core.
SECONDS = 1.5
MOST = 4096  # patterns; the largest dense model has 882 linear layers to tell apart

MATCHER = """
import json, re, sys
ends, patterns, paths = json.load(sys.stdin)
compiled = []
for pattern in patterns:
    try:
        compiled.append(re.compile(rf"(.*\\.)?({pattern})$").match if ends else re.compile(pattern).fullmatch)
    except Exception as error:  # also a RecursionError, an OverflowError of a{99999999999}
        sys.exit(print(json.dumps([pattern, str(error) or type(error).__name__])))
print(json.dumps([next((n for n, match in enumerate(compiled) if match(path)), None) for path in paths]))
"""


def first_matches(patterns: list[str], paths: list[str], where: str, ends: bool = False) -> list[int | None]:
    """Of each path the number of the first pattern that matches all of it, None where none does.

    ends    as PEFT matches rank_pattern and alpha_pattern (its get_pattern_key): the end of a path, from a dot on
    where   what begins the message of the InputError for what is no pattern, and for what takes too long
    """
    if not patterns or not paths:
        return [None] * len(paths)
    if len(patterns) > MOST:
        raise InputError(f"{where}: {len(patterns)} patterns; {MOST} are enough for every layer of every model")
    try:
        process = subprocess.run(
            # -I and -S: neither the folder one stands in nor site-packages decide what `import re` is
            [sys.executable, "-I", "-S", "-W", "ignore", "-c", MATCHER],
            input=json.dumps([ends, patterns, paths]),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        answer = json.loads(process.stdout)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{where}: matching {shown(patterns[0])} takes more than {SECONDS} s; write it without nested repetitions"
        ) from error
    except ValueError as error:  # it has died
        raise InputError(f"{where}: {shown(patterns[0])} cannot be matched") from error
    if isinstance(answer[0], str):
        raise InputError(f"{where}: {shown(answer[0])} is no regular expression ({answer[1]})")
    return answer
