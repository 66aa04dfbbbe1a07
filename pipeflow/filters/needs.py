"""What a message must have for a policy to match it: by this, policies are filed, so that few are asked.

A need says less than its policy: a message without it cannot match, one that has it may.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from math import inf
from struct import pack, unpack
from typing import Literal, TypeAlias, assert_never

from pipeflow.filters.rules import (
    Alternative,
    AnythingBut,
    Cidr,
    IgnoringCase,
    Leaf,
    Numeric,
    Operator,
    Path,
    Prefix,
    Scalar,
    Suffix,
    Wildcard,
)

Kind: TypeAlias = Literal[
    "value", "literal", "start", "end", "folded", "cell", "IPv4", "IPv6", "above", "below", "something"
]
Key: TypeAlias = tuple[Kind, Scalar | tuple[int, int]]
"""What a value is filed and looked up by. Literals have a kind of their own, because 1 equals true in Python."""
Need: TypeAlias = tuple[Path, tuple[Key, ...]]
"""A path, and keys of which the value there has at least one."""

SOMETHING: Key = ("something", None)


def needs_of(alternative: Alternative) -> list[Need]:
    """What one way to satisfy a policy needs: of needs each of which is enough to file it by, the narrowest."""
    # A field that may be absent needs nothing.
    needs = [(path, tuple(_keys(leaf))) for path, leaf in alternative if not leaf.missing]
    widths = [max(map(_width, keys)) for _, keys in needs]
    return [need for need, width in zip(needs, widths, strict=True) if width == min(widths)]


def _width(key: Key) -> int:
    # Half of all numbers are above a number, and every value is something.
    return 2 if key == SOMETHING else 1 if key[0] in ("above", "below") else 0


def _keys(leaf: Leaf) -> Iterator[Key]:
    for text in sorted(leaf.strings):
        yield "value", text
    for number in sorted(leaf.numbers):
        yield "value", number
    for literal in leaf.literals:
        yield "literal", literal
    if leaf.exists:
        yield SOMETHING
    for operator in leaf.operators:
        yield from _operator_keys(operator)


def _operator_keys(operator: Operator) -> Sequence[Key]:
    match operator:
        case Prefix(start):
            return [("start", start)]
        case Suffix(end):
            return [("end", end)]
        case IgnoringCase(text):
            return [("folded", text)]
        case Wildcard(parts):
            if len(parts) == 1:
                return [("value", parts[0])]
            return [("start", parts[0])] if parts[0] else [("end", parts[-1])]
        case Numeric(low, high) if low is not None and high is not None:
            return [("value", low)] if low == high else _cells(low, high)
        case Numeric(low, high) if low is not None:
            return [("above", low)]
        case Numeric(low, high) if high is not None:
            return [("below", high)]
        case Cidr(network):
            kind, length = _kind(network.version), network.prefixlen
            return [(kind, (length, int(network.network_address) >> network.max_prefixlen - length))]
        case Numeric() | AnythingBut():
            return [SOMETHING]
    assert_never(operator)


def _kind(version: int) -> Literal["IPv4", "IPv6"]:
    return "IPv4" if version == 4 else "IPv6"


def networks_of(text: str, lengths: Mapping[str, Iterable[int]]) -> Iterator[Key]:
    """The networks of these lengths, by kind, that an address lies in; none of a text that is no address."""
    try:
        address = ip_address(text)
    except ValueError:
        return
    kind = _kind(address.version)
    for length in lengths.get(kind, ()):
        yield kind, (length, int(address) >> address.max_prefixlen - length)


def _cells(low: float, high: float) -> list[Key]:
    """The smallest cells of the line of numbers, two at most, that a range lies in; cells of a level are alike."""
    first, last = ordinal(low), ordinal(high)
    level = max(0, (last - first).bit_length() - 1)
    while (last >> level) - (first >> level) > 1:
        level += 1
    return [("cell", (level, cell)) for cell in range(first >> level, (last >> level) + 1)]


def cell(number: float, level: int) -> tuple[int, int]:
    """The cell of this level that a number lies in."""
    return level, ordinal(number) >> level


def ordinal(number: float) -> int:
    """An integer that orders as the numbers do: the bits of a double, which are spaced finer the smaller it is."""
    bits: int
    try:
        (bits,) = unpack("<q", pack("<d", float(number)))
    except OverflowError:
        return ordinal(inf) if number > 0 else ordinal(-inf)
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)
