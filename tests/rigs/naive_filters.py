"""Random filter policies and messages, and a naive reading of what the rules say of them (SNS: T32-T47).

The naive reading tries every way to pick one element of every array of the message; in each such world a path has one
value at most, and the policy is read rule by rule. It is slow, obvious, and shares no code with the compiled form.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import product
from random import Random
from typing import Any

NAMES = ("a", "b", "c")
STRINGS = ("", "a", "ab", "abc", "B", "aab", "10.0.0.1", "10.1.0.1", "a*", "1")
NUMBERS = (-1, 0, 1, 1.0, 2.5, 3)
SCALARS = (*STRINGS, *NUMBERS, True, False, None)
PATTERNS = ("*", "a*", "*b", "a*b", "*a*", "*a*b*", "a*a*", r"a\*", "", "ab", "*a*a*b", "*ab*b")
COMPARISONS = ("=", "<", "<=", ">", ">=")


class Maker:
    """Random messages, and policies that speak of what is in them more often than not."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def body(self, depth: int = 3) -> dict[str, Any]:
        names = self.random.sample(NAMES, self.random.randint(0 if depth < 3 else 1, 3))
        return {name: self.value(depth - 1) for name in names}

    def value(self, depth: int) -> Any:
        if depth == 0 or self.chance(0.3):
            return self.random.choice(SCALARS)
        if self.chance(0.5):
            return [self.value(depth - 1) for _ in range(self.random.randint(0, 3))]
        return self.body(depth)

    def policy(self, body: dict[str, Any], depth: int = 1) -> dict[str, Any]:
        known = [(path, value) for world in worlds(body)[:8] for path, value in world.items()]
        made: dict[str, Any] = {}
        for _ in range(self.random.randint(1, 2)):
            path, value = self.random.choice(known) if known and self.chance(0.85) else (self.path(), None)
            self.put(made, path, [self.rule(value) for _ in range(self.random.randint(1, 2))])
        if depth and self.chance(0.3):
            made["$or"] = [self.policy(body, depth - 1) for _ in range(2)]
        return made

    def path(self) -> str:
        return ".".join(self.random.choices(NAMES, k=self.random.randint(1, 3)))

    def put(self, policy: dict[str, Any], path: str, rules: list[Any]) -> None:
        head, dot, tail = path.partition(".")
        if dot and self.chance(0.7):
            inner = policy.setdefault(head, {})
            if isinstance(inner, dict):
                self.put(inner, tail, rules)
        else:
            policy[path] = rules

    def rule(self, value: Any) -> Any:
        if self.chance(0.3):
            return {"exists": self.chance(0.5)}
        if self.chance(0.3):
            return value
        if isinstance(value, str) or self.chance(0.4):
            return self.rule_on_text(value if isinstance(value, str) else self.random.choice(STRINGS))
        number = value if is_number(value) else self.random.choice(NUMBERS)
        return self.rule_on_number(number)

    def rule_on_text(self, text: str) -> Any:
        cut = self.random.randint(0, len(text))
        return self.random.choice(
            [
                {"prefix": text[:cut]},
                {"suffix": text[cut:]},
                {"equals-ignore-case": text.upper()},
                {"wildcard": self.random.choice(PATTERNS)},
                {"cidr": self.random.choice(["10.0.0.0/8", "10.0.0.0/16", "::/0"])},
                {"anything-but": [text, self.random.choice(STRINGS)]},
                {"anything-but": {"prefix": text[:cut]}},
                {"anything-but": {"suffix": [text[cut:], self.random.choice(STRINGS)]}},
                {"anything-but": {"equals-ignore-case": text.upper()}},
                {"anything-but": {"wildcard": [self.random.choice(PATTERNS)]}},
                self.random.choice(STRINGS),
            ]
        )

    def rule_on_number(self, number: float) -> Any:
        return self.random.choice(
            [
                {"numeric": [self.random.choice(COMPARISONS), number]},
                {"numeric": [self.random.choice([">", ">="]), number, self.random.choice(["<", "<="]), number + 1]},
                {"numeric": [self.random.choice([">", ">="]), number - 1, self.random.choice(["<", "<="]), number]},
                {"anything-but": [number]},
                number,
            ]
        )

    def respelled(self, value: Any) -> Any:
        """The same message with some objects in objects written as keys with dots."""
        if isinstance(value, list):
            return [self.respelled(each) for each in value]
        if not isinstance(value, dict):
            return value
        out: dict[str, Any] = {}
        for name, inner in value.items():
            inner = self.respelled(inner)
            if not isinstance(inner, dict) or not inner:
                out[name] = inner
                continue
            kept = {key: each for key, each in inner.items() if self.chance(0.5)}
            out.update({f"{name}.{key}": each for key, each in inner.items() if key not in kept})
            if kept:
                out[name] = kept
        return out


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
    number = is_number(value)
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
        return bool(value.casefold() == operand.casefold())
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


def no_leaf_above_another(choice: list[tuple[str, list[Any]]]) -> bool:
    """A value cannot be a scalar and an object at once; policies that ask for it are left out."""
    paths = {path for path, _ in choice}
    return not any(other.startswith(f"{path}.") for path in paths for other in paths)


def is_attribute(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return value is not None and all(isinstance(each, str | int | float | None) for each in values)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
