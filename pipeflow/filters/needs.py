"""What a message must have for a policy to match it: by this, policies are filed, so that few are asked.

A need says less than its policy: a message without it cannot match, one that has it may.
"""

from __future__ import annotations

from collections.abc import Iterator
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

Kind: TypeAlias = Literal["value", "literal", "start", "end", "folded", "something"]
Key: TypeAlias = tuple[Kind, Scalar]
"""What a value is filed and looked up by. Literals have a kind of their own, because 1 equals true in Python."""
Need: TypeAlias = tuple[Path, tuple[Key, ...]]
"""A path, and keys of which the value there has at least one."""

SOMETHING: Key = ("something", None)
_ANYTHING = (SOMETHING,)


def needs_of(alternative: Alternative) -> list[Need]:
    """What one way to satisfy a policy needs: of needs each of which is enough to file it by, the narrow ones."""
    # A field that may be absent needs nothing.
    needs = [(path, _keys(leaf)) for path, leaf in alternative if not leaf.missing]
    return [need for need in needs if need[1] != _ANYTHING] or needs


def _keys(leaf: Leaf) -> tuple[Key, ...]:
    keys = tuple(_all_keys(leaf))
    return _ANYTHING if SOMETHING in keys else keys


def _all_keys(leaf: Leaf) -> Iterator[Key]:
    for text in sorted(leaf.strings):
        yield "value", text
    for number in sorted(leaf.numbers):
        yield "value", number
    for literal in leaf.literals:
        yield "literal", literal
    if leaf.exists:
        yield SOMETHING
    for operator in leaf.operators:
        yield _key(operator)


def _key(operator: Operator) -> Key:
    match operator:
        case Prefix(start):
            return "start", start
        case Suffix(end):
            return "end", end
        case IgnoringCase(text):
            return "folded", text
        case Wildcard(parts):
            if len(parts) == 1:
                return "value", parts[0]
            return ("start", parts[0]) if parts[0] else ("end", parts[-1])
        case Numeric(low, high) if low is not None and low == high:
            return "value", low
        case Numeric() | Cidr() | AnythingBut():
            return SOMETHING
    assert_never(operator)
