"""Filter policies in Python clothes: what is written here is exactly a JSON policy, checked when it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Literal, TypeAlias, TypeGuard

import msgspec
from msgspec import Struct

from pipeflow.errors import InvalidFilter
from pipeflow.filters.grammar import OPERATORS
from pipeflow.filters.matching import check_filter
from pipeflow.filters.rules import Scalar
from pipeflow.specs import FilterPolicy, FilterScope

Comparison: TypeAlias = Literal["=", "<", "<=", ">", ">="]


class Rule(Struct, frozen=True):
    """One rule of a field that is more than a plain value; made by `num`, `prefix` and the others below."""

    operator: str
    operand: object

    def written(self) -> dict[str, object]:
        """The rule as it stands in a policy."""
        operand = self.operand.written() if isinstance(self.operand, Rule) else self.operand
        return {self.operator: operand}


Alternatives: TypeAlias = Scalar | Rule | Sequence[Scalar | Rule | Mapping[str, object]]


def where(**attributes: Alternatives) -> FilterPolicy:
    """A policy on attributes: all of them, each one value, one rule or a list of alternatives. InvalidFilter if bad."""
    return _checked(_attributes(attributes), "attributes")


def where_body(fields: Mapping[str, object]) -> FilterPolicy:
    """A policy on the body, as the JSON itself or with rules and plain values in it. InvalidFilter if bad."""
    return _checked(_fields(fields), "body")


def num(
    comparison: Comparison, number: float, upper: Literal["<", "<="] | None = None, end: float | None = None
) -> Rule:
    """Numbers: `num(">", 100)`, or between two ends: `num(">=", 0, "<", 10)`."""
    rest: list[object] = [] if upper is None else [upper, end]
    return Rule("numeric", [comparison, number, *rest])


def prefix(text: str) -> Rule:
    """Strings that start with `text`."""
    return Rule("prefix", text)


def suffix(text: str) -> Rule:
    """Strings that end with `text`."""
    return Rule("suffix", text)


def equals_ignore_case(text: str) -> Rule:
    """Strings equal to `text` but for case."""
    return Rule("equals-ignore-case", text)


def wildcard(pattern: str) -> Rule:
    r"""Strings of this pattern: `*` is any run of characters, `\*` a star, `\\` a backslash (SNS: T42)."""
    return Rule("wildcard", pattern)


def cidr(network: str) -> Rule:
    """Strings that are an address of the network, such as "10.0.0.0/8"."""
    return Rule("cidr", network)


def exists(present: bool = True) -> Rule:
    """The field is there with a value, or with `exists(False)` it is not there at all (SNS: T43)."""
    return Rule("exists", present)


def anything_but(*values: str | float | Rule) -> Rule:
    """There, and none of these: all strings, all numbers, or rules of one kind: `prefix`, `suffix`,
    `equals_ignore_case` or `wildcard` (SNS: T41)."""
    rules = [value for value in values if isinstance(value, Rule)]
    if not rules:
        return Rule("anything-but", list(values))
    operators = {rule.operator for rule in rules}
    if len(rules) < len(values) or len(operators) > 1:
        raise InvalidFilter(f"anything_but{values!r}: name values, or rules of one kind, such as prefix('a')")
    operands = [rule.operand for rule in rules]
    return Rule("anything-but", {operators.pop(): operands[0] if len(operands) == 1 else operands})


def _checked(policy: Mapping[str, object], scope: FilterScope) -> FilterPolicy:
    try:
        text = msgspec.json.encode(policy).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidFilter(f"FilterPolicy: not JSON: {error}\n at {policy!r}") from error
    written = FilterPolicy(text, scope)
    check_filter(written)
    return written


def _attributes(attributes: Mapping[str, object]) -> dict[str, object]:
    return {
        name: [_attributes(branch) for branch in value] if name == "$or" and _is_choice(value) else _values(name, value)
        for name, value in attributes.items()
    }


def _values(name: str, value: object) -> list[object]:
    rules = _rules(value)
    if any(isinstance(each, bytes | bytearray | memoryview) for each in rules):
        # As JSON it would be a text in base64, which no attribute is.
        raise InvalidFilter(
            f"FilterPolicy: bytes are never looked at in attributes\n at {name}: publish and match text"
        )
    return rules


def _rules(value: object) -> list[object]:
    values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    if any(isinstance(each, float) and not isfinite(each) for each in values):
        raise InvalidFilter(f"FilterPolicy: a value is {value!r}, which would be written as null: name a finite number")
    return [each.written() if isinstance(each, Rule) else each for each in values]


def _fields(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: _field(name, value) for name, value in fields.items()}


def _field(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        return _fields(value)
    if name == "$or" and _is_choice(value):
        return [_fields(branch) for branch in value]
    return _rules(value)


def _is_choice(value: object) -> TypeGuard[Sequence[Mapping[str, object]]]:
    return isinstance(value, Sequence) and all(
        isinstance(each, Mapping) and OPERATORS.isdisjoint(each) for each in value
    )
