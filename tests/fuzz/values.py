"""Odd texts and values, and the ways in which a valid value or a valid line is changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from coordination.base.json_values import is_too_deep

SECRET = "sk-live-fuzz-0123456789abcdef"

CONTROLS = [
    "\0",
    "\x07",
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\r",
    "\n",
    "\u2028",
    "\x7f",
    "\u202e",
    "\u2066x\u2069",
]
TEXTS = [
    *CONTROLS,
    *("", " ", "%", "_", "-", "--", "-x", "--help", ".", "..", "*", "?", "'", '"', "\\", "`", "$(false)", "${HOME}"),
    *("/", "../..", "../../../nowhere", "/nowhere/at/all", "~", "~nobody", "a/../b", "a//b", "file:///nowhere", "CON"),
    *(
        "{{ needs }}",
        "{% for x in y %}",
        "{{ 9 ** 9 ** 9 }}",
        "{#",
        "%s%n",
        "' OR 1=1 --",
        "null",
        "true",
        "NaN",
        "inf",
    ),
    *("0", "-1", "1e999", "1e-999", "9" * 400, "٣", "²", "0x10", "1_000", "9223372036854775808", "2147483648", "1.5"),
    *(
        "\ud800",
        "\udc80\udcff",
        "e\u0301",
        "\u00e9",
        "İ",
        "ß",
        "\u212a",
        "\ufeffx",
        "\u200b",
        "\U0001f469\u200d\U0001f680",
    ),
    *("x" * 300, "x" * 70_000, "[" * 5_000, "ab" * 4, "deadbeef", "00000000-0000-0000-0000-000000000000"),
    *("main", "HEAD", "-b", "refs/heads/x", "@{-1}", "x.lock", "a..b", "a b", "x~1", ":x", SECRET),
]

texts = st.one_of(st.integers(0, len(TEXTS) - 1).map(TEXTS.__getitem__), st.text(st.characters(), max_size=12))

_LEAVES = [None, True, False, 0, -1, 7, 10**30, 10**400, 2**63, 1.5, float("nan"), float("inf"), 1e308]
leaves = st.one_of(st.sampled_from(_LEAVES), texts)
values: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


def spoiled_text(text: str) -> st.SearchStrategy[str]:
    """Return *text* cut, doubled, in another case, or with an odd character in it."""

    def put(odd: str, place: int) -> str:
        place %= len(text) + 1
        return text[:place] + odd + text[place:]

    return st.one_of(
        st.just(text),
        st.just(text),
        st.integers(0, len(text)).map(lambda end: text[:end]),
        st.integers(0, len(text)).map(lambda start: text[start:]),
        st.just(text + text),
        st.just(text.upper()),
        st.just(text.swapcase()),
        st.just(f" {text} "),
        st.builds(put, texts, st.integers(0, 1_000)),
    )


@st.composite
def spoiled(draw: st.DrawFn, right: Any, *, most: int = 3) -> Any:
    """Return the value *right* with up to *most* of its parts replaced, removed, repeated or wrapped."""
    value = copy.deepcopy(right)
    for _ in range(draw(st.integers(0, most))):
        places = list(_places(value))
        if not places:
            return draw(values)
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        _change(draw, holder, key)
    return value


def _places(value: Any) -> Any:
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


def _change(draw: st.DrawFn, holder: Any, key: Any) -> None:
    now = holder[key]
    match draw(st.integers(0, 6)):
        case 0:
            holder[key] = draw(values)
        case 1:
            del holder[key]
        case 2:
            holder[key] = [now]
        case 3:
            holder[key] = {"x": now}
        case 4 if not is_too_deep(holder):
            holder[key] = deep(draw(st.sampled_from([10, 99, 101, 500])), now)
        case 5 if isinstance(holder, dict):
            holder[draw(texts)] = now
        case _:
            holder[key] = draw(spoiled_text(now)) if isinstance(now, str) else draw(leaves)


def deep(levels: int, inner: Any) -> Any:
    """Return *inner* in so many lists."""
    for _ in range(levels):
        inner = [inner]
    return inner


Spoil = Callable[[bytes, int], bytes]

_SPOILS: Sequence[Spoil] = (
    lambda line, _: line,
    lambda line, _: line,
    lambda line, _: line,
    lambda line, n: line[: n % (len(line) + 1)],
    lambda line, n: line[n % (len(line) + 1) :],
    lambda line, n: line[: n % (len(line) + 1)] + b"\0" + line[n % (len(line) + 1) :],
    lambda line, n: line[: n % (len(line) + 1)] + b"\xff\xfe\xc0\x80" + line[n % (len(line) + 1) :],
    lambda line, n: line[: n % (len(line) + 1)] + b"\n" + line[n % (len(line) + 1) :],
    lambda line, _: line.replace(b"{", b'{"do": "done", "token": "", "token": 5, ', 1),
    lambda line, _: line + line,
    lambda line, _: b"\xef\xbb\xbf" + line,
    lambda line, _: line.decode("utf-8", "replace").encode("utf-16"),
    lambda _, n: b"[" * (n * 101),
    lambda _, n: b'{"a":' * (n * 101),
    lambda _, n: b"9" * (n * 11),
    lambda line, n: line[:-1] + b" " * (n * 1_099) + line[-1:],
    lambda line, _: line[:-1] + b', "x": ' + b"1" * 5_000 + b"}",
    lambda line, _: line[:-1] + b', "x": 1e999, "y": -Infinity, "z": NaN}',
)


@st.composite
def spoiled_lines(draw: st.DrawFn, right: Any) -> bytes:
    """Return the JSON of *right*, changed as a value and then as a line."""
    value = draw(spoiled(right))
    line = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    return draw(st.sampled_from(_SPOILS))(line, draw(st.integers(0, 1_000)))
