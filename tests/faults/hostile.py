"""What the fuzzers feed: valid files with a few things wrong, and now and then nothing but noise."""

import json
import struct

from hypothesis import strategies as st


def nested(depth: int, one=list):
    value = one()
    for _ in range(depth):
        value = [value] if one is list else {"a": value}
    return value


# fmt: off
NUMBERS = [
    0, 1, 2, -1, 3, 64, 1000, 2**31, 2**63, -(2**63), 10**9, 10**12, 10**18, 10**30, 10**400, True, False,
    0.0, 0.5, -0.5, 1.0, 4.0, 1e9, 1e38, 1e300, 5e-324, float("inf"), float("-inf"), float("nan"),
]
TEXTS = [
    "", " ", "\0", "\n", "a\nb", "\r\x1b[2J\x1b]0;x\x07", "\u202ex", "\ud800", "a\udcffb", "\u2028", "é" * 300,
    "../x", "/etc/passwd", "..", ".", "~", "~x/y", "C:\\x", "file:///x", "a/b", "-", "--", "x" * 300, "x" * 5000, "{",
    "[red]", "null", "true",
    "nan", "1e999", "0x" + "f" * 5000, "1" * 5000, "[" * 3000, "&a [*a]", "!!python/name:os.system",
]
PATTERNS = [
    "(a+)+$", r"(\w+)+!", "(.*)*!", "(.|[a-z])*!", ".*.*.*.*.*.*.*.*.*!", r"(.+)\1+!", "((", "*", "[", "a{99999999999}",
    "(?i)q_proj", "q_proj|v_proj", ".*", ".*q_proj", "(?!x).*", "(?P<a>.)(?P=a)", "all-linear", "a)|(b", "(" * 500,
]
# fmt: on
TREES = [  # made anew each time, since they are changed
    list,
    dict,
    lambda: [[]],
    lambda: [None],
    lambda: nested(50),
    lambda: nested(3000),
    lambda: nested(400, dict),
    lambda: ["q_proj"] * 1000,
    lambda: {"a": "b"},
]  # fmt: skip

scalars = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.none(), st.integers(), st.floats(), st.text(max_size=12)
)
trees = st.sampled_from(TREES).map(lambda make: make())
values = st.one_of(scalars, scalars, trees, st.sampled_from(PATTERNS), st.lists(scalars, max_size=3))
keys = st.one_of(st.sampled_from(TEXTS), st.sampled_from(PATTERNS), st.text(max_size=8))


def places(tree, path=()):
    """The paths of all that is inside a tree of lists and objects."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree[:9]) if isinstance(tree, list) else ()
    if len(path) == 4:  # what was put in may be nested deeper than Python recurses
        return
    for key, value in list(inside):
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def changed(draw, tree, most=3):
    """A copy of a tree with some values replaced, left away, renamed, put in a list or added."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(0, most))):
        found = list(places(tree))
        if not found:
            break
        *path, key = draw(st.sampled_from(found))
        parent = tree
        for step in path:
            parent = parent[step]
        how = draw(st.sampled_from(("replace", "replace", "replace", "delete", "rename", "wrap", "add")))
        if how == "replace":
            parent[key] = draw(values)
        elif how == "delete":
            del parent[key]
        elif how == "wrap":
            parent[key] = [parent[key]]
        elif isinstance(parent, list):
            parent.append(draw(values))
        else:
            parent[draw(keys)] = parent.pop(key) if how == "rename" else draw(values)
    return tree


def dumps(tree) -> str:
    try:
        return json.dumps(tree)
    except RecursionError:
        return "[" * 100_000


@st.composite
def damaged(draw, content: bytes):
    """Bytes as they are, or cut, with some replaced, doubled or put in, or other ones altogether."""
    how = draw(st.sampled_from(("keep",) * 6 + ("cut", "put", "over", "double", "noise", "nothing")))
    at = draw(st.integers(0, len(content)))
    some = draw(st.binary(min_size=1, max_size=8)) if how in ("put", "over") else b""
    return {
        "keep": content,
        "cut": content[:at],
        "put": content[:at] + some + content[at:],
        "over": content[:at] + some + content[at + len(some) :],
        "double": content[:at] + content,
        "noise": draw(st.binary(max_size=100)) if how == "noise" else b"",
        "nothing": b"",
    }[how]


@st.composite
def json_file(draw, tree):
    """The bytes of a JSON file that began as `tree`; a key may be there twice."""
    text = dumps(draw(changed(tree)))
    if draw(st.integers(0, 9)) == 0 and isinstance(tree, dict) and text.startswith("{") and len(text) > 2:
        text = "{" + json.dumps(draw(st.sampled_from(sorted(tree)))) + ":" + dumps(draw(scalars)) + "," + text[1:]
    return draw(damaged(text.encode("utf-8", "surrogatepass")))


DTYPES = ["F32", "F16", "BF16", "F64", "F8_E4M3", "F4", "C64", "I8", "U8", "I64", "U16", "BOOL", "X", "", 7, None]


@st.composite
def safetensors_file(draw, content: bytes):
    """A safetensors file with a header that says something else than before, or with other bytes."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(header)))
        how = draw(st.sampled_from(("dtype", "shape", "offsets", "twin", "flip", "tree")))
        entry = header[name]
        if how == "tree" or "shape" not in entry:
            header = draw(changed(header, 2))
            break
        if how == "dtype":
            entry["dtype"] = draw(st.sampled_from(DTYPES))
        elif how == "shape":
            sizes = st.one_of(st.sampled_from([0, 1, 2**32, 2**62, 2**63, 2**64, -1, 10**30]), st.integers(0, 64))
            entry["shape"] = draw(st.lists(sizes, max_size=4))
        elif how == "offsets":
            offsets = st.one_of(st.sampled_from([0, -1, 2**63, 2**64]), st.integers(0, len(data) + 9))
            entry["data_offsets"] = draw(st.lists(offsets, min_size=1, max_size=3))
        elif how == "twin":
            header[draw(keys)] = entry
        else:
            entry["shape"] = entry["shape"][::-1]
    text = dumps(header).encode()
    if draw(st.integers(0, 9)) == 0:
        text = draw(damaged(text))
    said = len(text)
    if draw(st.integers(0, 14)) == 0:
        said = draw(st.sampled_from([0, 1, 2**20, 2**27, 2**40, 2**63, 2**64 - 1]) | st.integers(0, 2 * said))
    return struct.pack("<Q", said) + text + draw(damaged(data))
