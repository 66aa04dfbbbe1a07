"""What one value must be: the rules of a field as one closure over a scalar (SNS: T38-T42).

`str` is a string, `int` and `float` numbers compared by value; `bool` and `None` match only `true`, `false` and `null`.
Strings are compared as they are, never as numbers: "1" is not 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypeAlias, assert_never

from pipeflow.filters.rules import (
    AnythingBut,
    Cidr,
    IgnoringCase,
    Leaf,
    Numeric,
    Operator,
    Prefix,
    Suffix,
    Wildcard,
)

Test: TypeAlias = Callable[[object], bool]
"""Says whether one value satisfies the rules of a field."""


def test_of(leaves: Sequence[Leaf]) -> Test:
    """All of these leaves, on one value."""
    tests = [_leaf_test(leaf) for leaf in leaves]
    if len(tests) == 1:
        return tests[0]
    return lambda value: all(test(value) for test in tests)


def _leaf_test(leaf: Leaf) -> Test:
    tests: list[Test] = []
    if leaf.strings:
        tests.append(_one_of_strings(leaf.strings))
    if leaf.numbers:
        tests.append(_one_of_numbers(leaf.numbers))
    if leaf.literals:
        tests.append(_one_of_literals(leaf.literals))
    if leaf.exists:
        tests.append(_is_something)
    prefixes = tuple(operator.operand for operator in leaf.operators if isinstance(operator, Prefix))
    suffixes = tuple(operator.operand for operator in leaf.operators if isinstance(operator, Suffix))
    if prefixes:
        tests.append(lambda value: isinstance(value, str) and value.startswith(prefixes))
    if suffixes:
        tests.append(lambda value: isinstance(value, str) and value.endswith(suffixes))
    tests += [_operator_test(operator) for operator in leaf.operators if not isinstance(operator, Prefix | Suffix)]
    if len(tests) == 1:
        return tests[0]
    return lambda value: any(test(value) for test in tests)


def _one_of_strings(strings: frozenset[str]) -> Test:
    return lambda value: isinstance(value, str) and value in strings


def _one_of_numbers(numbers: frozenset[float]) -> Test:
    return lambda value: _is_number(value) and value in numbers


def _one_of_literals(literals: frozenset[bool | None]) -> Test:
    # Equality would let 1 pass for true.
    return lambda value: any(value is literal for literal in literals)


def _is_something(value: object) -> bool:
    return value is not None and value != ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _operator_test(operator: Operator) -> Test:
    match operator:
        case Prefix(start):
            return lambda value: isinstance(value, str) and value.startswith(start)
        case Suffix(end):
            return lambda value: isinstance(value, str) and value.endswith(end)
        case IgnoringCase(text):
            return lambda value: isinstance(value, str) and value.casefold() == text
        case Wildcard(parts):
            return _wildcard(parts)
        case Cidr(network):
            return _in_network(network)
        case Numeric():
            return _numeric(operator)
        case AnythingBut():
            return _anything_but(operator)
    assert_never(operator)


def _wildcard(parts: tuple[str, ...]) -> Test:
    """Greedy search of the literal parts, leftmost first: no backtracking, so no pattern is expensive."""
    head, middle, tail = parts[0], parts[1:-1], parts[-1]
    if len(parts) == 1:
        return lambda value: value == head
    shortest = len(head) + len(tail)

    def matches(value: object) -> bool:
        if not isinstance(value, str) or len(value) < shortest:
            return False
        if not value.startswith(head) or not value.endswith(tail):
            return False
        at, end = len(head), len(value) - len(tail)
        for part in middle:
            at = value.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return matches


def _in_network(network: IPv4Network | IPv6Network) -> Test:
    version, mask, address = network.version, int(network.netmask), int(network.network_address)

    def matches(value: object) -> bool:
        if not isinstance(value, str) or "%" in value:
            return False
        try:
            ip = ip_address(value)
        except ValueError:
            return False
        return ip.version == version and int(ip) & mask == address

    return matches


def _numeric(bounds: Numeric) -> Test:
    low, high, with_low, with_high = bounds.low, bounds.high, bounds.with_low, bounds.with_high

    def matches(value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
            return False
        if low is not None and (value < low or (value == low and not with_low)):
            return False
        return high is None or value < high or (value == high and with_high)

    return matches


def _anything_but(excluded: AnythingBut) -> Test:
    strings, numbers = excluded.strings, excluded.numbers
    tests = [_operator_test(test) for test in excluded.tests]

    def matches(value: object) -> bool:
        if isinstance(value, str):
            return value not in strings and not any(test(value) for test in tests)
        return not numbers or not _is_number(value) or value not in numbers

    return matches
