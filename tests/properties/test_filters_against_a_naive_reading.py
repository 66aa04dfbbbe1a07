"""Compiled filters say what a naive reading of the rules says, on random policies and messages (SNS: T32-T47).

The naive reading tries every way to pick one element of every array of the message; in each such world a path has one
value at most, and the policy is read rule by rule. It is slow, obvious, and shares no code with the compiled form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import product
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeflow.filters import compile_filter
from pipeflow.specs import FilterPolicy

NAMES = st.sampled_from(["a", "b", "c"])
STRINGS = st.sampled_from(["", "a", "ab", "abc", "B", "10.0.0.1", "10.1.0.1", "a*", "1"])
NUMBERS = st.sampled_from([-1, 0, 1, 1.0, 2.5, 3])
SCALARS = st.one_of(STRINGS, NUMBERS, st.booleans(), st.none())


def ranges() -> st.SearchStrategy[list[Any]]:
    one = st.tuples(st.sampled_from(["=", "<", "<=", ">", ">="]), NUMBERS).map(list)
    two = st.tuples(st.sampled_from([">", ">="]), NUMBERS, st.sampled_from(["<", "<="]), NUMBERS)
    return one | two.filter(lambda ends: ends[1] < ends[3]).map(list)


PATTERNS = st.lists(st.sampled_from(["a", "b", "*", r"\*"]), max_size=4).map("".join).filter(lambda p: "**" not in p)
RULES = st.one_of(
    SCALARS,
    STRINGS.map(lambda text: {"prefix": text}),
    STRINGS.map(lambda text: {"suffix": text}),
    STRINGS.map(lambda text: {"equals-ignore-case": text}),
    PATTERNS.map(lambda text: {"wildcard": text}),
    st.booleans().map(lambda present: {"exists": present}),
    st.sampled_from(["10.0.0.0/8", "10.0.0.0/16", "::/0"]).map(lambda text: {"cidr": text}),
    ranges().map(lambda terms: {"numeric": terms}),
    st.lists(STRINGS, min_size=1, max_size=2).map(lambda values: {"anything-but": values}),
    st.lists(NUMBERS, min_size=1, max_size=2).map(lambda values: {"anything-but": values}),
    STRINGS.map(lambda text: {"anything-but": {"prefix": text}}),
    st.lists(PATTERNS, min_size=1, max_size=2).map(lambda texts: {"anything-but": {"wildcard": texts}}),
)
LEAVES = st.lists(RULES, min_size=1, max_size=3)


def policies(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    nested = LEAVES if depth == 0 else LEAVES | policies(depth - 1)
    names = NAMES if depth == 0 else NAMES | st.sampled_from(["a.b", "b.c"])
    fields = st.dictionaries(names, nested, min_size=1, max_size=3)
    if depth == 0:
        return fields
    branches = st.lists(policies(depth - 1), min_size=2, max_size=2)
    return st.tuples(fields, st.none() | branches).map(
        lambda pair: pair[0] if pair[1] is None else {**pair[0], "$or": pair[1]}
    )


BODIES = st.dictionaries(
    NAMES,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


# The naive reading


def naive(policy: dict[str, Any], body: dict[str, Any]) -> bool:
    everywhere = {path for world in worlds(body) for path in world}
    return any(
        all(field_holds(rules, path, world, everywhere) for path, rules in choice)
        for choice in choices(policy, ())
        for world in worlds(body)
    )


def choices(policy: dict[str, Any], path: tuple[str, ...]) -> Iterator[list[tuple[str, list[Any]]]]:
    """Every list of (dotted path, rules) that satisfies the policy when all of it holds."""
    options: list[list[list[tuple[str, list[Any]]]]] = []
    for name, value in policy.items():
        if name == "$or":
            options.append([each for branch in value for each in choices(branch, path)])
        elif isinstance(value, dict):
            options.append(list(choices(value, (*path, name))))
        else:
            options.append([[(".".join((*path, name)), value)]])
    for picked in product(*options):
        yield [pair for part in picked for pair in part]


def worlds(value: Any, path: str = "") -> list[dict[str, Any]]:
    """Every way to pick one element of every array: what each dotted path then holds."""
    if isinstance(value, dict):
        made: list[dict[str, Any]] = [{}]
        for name, inner in value.items():
            below = worlds(inner, f"{path}.{name}" if path else name)
            made = [{**one, **other} for one in made for other in below]
        return made
    if isinstance(value, list):
        return [world for each in value for world in worlds(each, path)] or [{}]
    return [{path: value}]


def field_holds(rules: list[Any], path: str, world: dict[str, Any], everywhere: set[str]) -> bool:
    return any(rule_holds(rule, path, world, everywhere) for rule in rules)


def rule_holds(rule: Any, path: str, world: dict[str, Any], everywhere: set[str]) -> bool:
    if rule == {"exists": False} and rule["exists"] is False:
        return path not in everywhere
    return path in world and value_holds(rule, world[path])


def value_holds(rule: Any, value: Any) -> bool:
    if not isinstance(rule, dict):
        return equal(rule, value)
    ((operator, operand),) = rule.items()
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if operator == "exists":
        return value is not None and value != ""
    if operator == "numeric":
        return number and all(compare(value, *operand[at : at + 2]) for at in range(0, len(operand), 2))
    if operator == "anything-but":
        if isinstance(operand, dict):
            ((inner, patterns),) = operand.items()
            listed = patterns if isinstance(patterns, list) else [patterns]
            return not any(value_holds({inner: pattern}, value) for pattern in listed)
        return not any(equal(each, value) for each in operand)
    if not isinstance(value, str):
        return False
    if operator == "prefix":
        return bool(value[: len(operand)] == operand)
    if operator == "suffix":
        return len(operand) <= len(value) and bool(value[len(value) - len(operand) :] == operand)
    if operator == "equals-ignore-case":
        return bool(value.lower() == operand.lower())
    if operator == "cidr":
        try:
            return ip_address(value) in ip_network(operand)
        except ValueError:
            return False
    assert operator == "wildcard"
    return runs(operand, value)


def equal(one: Any, other: Any) -> bool:
    kinds = [
        bool if isinstance(each, bool) else float if isinstance(each, int | float) else type(each)
        for each in (one, other)
    ]
    return kinds[0] is kinds[1] and bool(one == other)


def compare(value: float, operator: str, operand: float) -> bool:
    return {
        "=": value == operand,
        "<": value < operand,
        "<=": value <= operand,
        ">": value > operand,
        ">=": value >= operand,
    }[operator]


def runs(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(runs(pattern[1:], text[at:]) for at in range(len(text) + 1))
    if pattern[0] == "\\":
        pattern = pattern[1:]
    return bool(text) and text[0] == pattern[0] and runs(pattern[1:], text[1:])


# The properties


@settings(max_examples=400, deadline=None, derandomize=True)
@given(policies(2), BODIES)
def test_t38_t47_a_policy_on_bodies_says_what_the_naive_reading_says(
    policy: dict[str, Any], body: dict[str, Any]
) -> None:
    assume(all(no_leaf_above_another(choice) for choice in choices(policy, ())))
    compiled = compile_filter(FilterPolicy(json.dumps(policy), "body"))
    assert compiled(json.dumps(body).encode(), {}) is naive(policy, body)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(policies(1), BODIES, st.data())
def test_t44_spelling_nested_objects_with_dots_changes_nothing(
    policy: dict[str, Any], body: dict[str, Any], data: st.DataObject
) -> None:
    assume(all(no_leaf_above_another(choice) for choice in choices(policy, ())))
    compiled = compile_filter(FilterPolicy(json.dumps(policy), "body"))
    spelled = respelled(body, data)
    assert compiled(json.dumps(spelled).encode(), {}) is compiled(json.dumps(body).encode(), {})


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    policies(0), st.dictionaries(NAMES, STRINGS | NUMBERS | st.booleans() | st.lists(SCALARS, max_size=3), max_size=3)
)
def test_t39_t43_a_policy_on_attributes_says_what_the_naive_reading_says(
    policy: dict[str, Any], attributes: dict[str, Any]
) -> None:
    expected = naive(policy, attributes)
    if not attributes:
        expected = False  # an empty set of attributes never matches
    assert compile_filter(FilterPolicy(json.dumps(policy)))(b"", attributes) is expected


def no_leaf_above_another(choice: list[tuple[str, list[Any]]]) -> bool:
    """A value cannot be a scalar and an object at once; policies that ask for it are left out."""
    paths = {path for path, _ in choice}
    return not any(other.startswith(f"{path}.") for path in paths for other in paths)


def respelled(value: Any, data: st.DataObject) -> Any:
    """The same message with some objects in objects written as keys with dots."""
    if isinstance(value, list):
        return [respelled(each, data) for each in value]
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for name, inner in value.items():
        inner = respelled(inner, data)
        if isinstance(inner, dict) and inner:
            lifted = data.draw(st.sets(st.sampled_from(sorted(inner))))
            out.update({f"{name}.{key}": inner[key] for key in sorted(lifted)})
            inner = {key: each for key, each in inner.items() if key not in lifted}
            if not inner:
                continue
        out[name] = inner
    return out
