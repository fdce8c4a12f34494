"""What the fuzz tests share: valid files with changes that nobody meant to make, and what a parser may answer."""

import contextlib
import copy
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FEW, MANY = 40, 3000
EXAMPLES = pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.faults)])
SECONDS = 10  # that a file of some kilobytes may take
MEMORY = 16 << 30  # bytes of address space, of which the stacks and heaps of threads take some, used or not

# What breaks parsers: ends of lines and of texts, quotes, marks, bytes that are no UTF-8, numbers that are no sizes,
# depth. The last ones are rarely drawn, so they stand alone in files, too.
DEEP = [b"[" * 12_000, b'{"a":' * 12_000, b"9" * 5000]
PIECES = [
    *(b"\0 \xff \xfe\xff \xed\xa0\x80 \xef\xbb\xbf \xe2\x80\xa8 \xc2\x85 \xf4\x90\x80\x80".split(b" ")),
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\t", b" ", b'"', b"'", b"\\", b",", b"#", b"-", b"[", b"{", b"]", b"}", b":"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"1.5", b"18446744073709551616"),
    *(b"\\ud800", b'"\\u0000"', b"[]", b"{}", b'""', b"<doc>", b"</doc>", b'<doc title="', b"-DOCSTART-", b"1-2\t"),
    *(b"# newdoc", b"[CLS]", b"##", *DEEP),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["", "0", "bert"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated(draw: Callable, seeds: list[bytes]) -> bytes:
    """Arbitrary bytes, or a valid file with some changes."""
    content = draw(st.sampled_from([*seeds, *seeds, b""]))
    if not content:
        return draw(st.binary(max_size=300) | st.sampled_from(DEEP))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.sampled_from([0, 0, 1, 1, 2, 8, 100, len(content)])))
        inside = draw(st.sampled_from([*PIECES, content[start:stop] * 2]) | st.binary(max_size=8))
        content = content[:start] + inside + content[stop:]
    return content


@st.composite
def changed(draw: Callable, seeds: list[Any]) -> bytes:
    """JSON in which some values are others, or have moved, and some fields are missing or new."""
    content = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(content))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["value", "value", "move", "drop", "add"]))
        if kind == "value":
            holder[key] = draw(VALUES)
        elif kind == "move":
            source, at = draw(st.sampled_from(places))
            holder[key] = copy.deepcopy(source[at])
        elif kind == "drop":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from([*(str(at) for _, at in places), "", "class"]))] = draw(VALUES)
    return json.dumps(content).encode()


def _places(content: Any):
    """(container, key) of every value inside."""
    for key in list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ():
        yield content, key
        yield from _places(content[key])


@contextlib.contextmanager
def _memory_limited() -> Iterator[None]:
    """Has an allocation fail that goes beyond what is taken now by more than MEMORY."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":  # others count address space otherwise
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(parse: Callable[[bytes], Any], contents: st.SearchStrategy[bytes], examples: int, named: str | Path) -> None:
    """Has `parse` read many contents. It may return, or raise ValueError or FileNotFoundError (of their
    subclasses only our own) with `named` in the message, within some seconds and in bounded memory."""
    counts = {"read": 0, "refused": 0}

    # The few are always the same ones, the many are others each time.
    @settings(
        max_examples=examples,
        derandomize=examples == FEW,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(contents)
    def one(content: bytes) -> None:
        began = time.monotonic()
        try:
            parse(content)
            counts["read"] += 1
        except (ValueError, FileNotFoundError) as error:
            own = type(error).__module__.startswith("bert_jax.")
            assert own or type(error) in (ValueError, FileNotFoundError), f"{type(error).__name__}: {error}"
            assert str(named) in str(error), f"names no file: {error}"
            counts["refused"] += 1
        assert time.monotonic() - began < SECONDS

    with _memory_limited():
        for content in DEEP:
            one.hypothesis.inner_test(content)
        one()
    assert min(counts.values()) > 0, counts  # else the contents say nothing about one of the two
