"""The grammar of filter policies: text in, alternatives of (path, leaf) pairs out, or InvalidFilter (SNS: T31-T37).

The first line of every error is the text SNS answers with; the line after it says where, and what to write instead.
`$or` is multiplied out here, so that matching knows only "one of these alternatives, all of its leaves" (SNS: T46).
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Final, NoReturn, TypeGuard

import msgspec

from pipeflow.errors import InvalidFilter
from pipeflow.filters.rules import (
    Alternative,
    AnythingBut,
    Cidr,
    IgnoringCase,
    Json,
    Leaf,
    Numeric,
    Operator,
    Path,
    Prefix,
    Suffix,
    Wildcard,
)
from pipeflow.specs import FilterPolicy

EVALUATION_BUDGET: Final = 10_000
"""Steps that one policy may take on one value of a message: one per leaf and operator, in every alternative of `$or`.
A list of plain strings or numbers is one step, however long. Counted when the policy is made, so that none is ever
cut short on a message."""

MAX_POLICY: Final = 256 << 10  # bytes; SNS: T31
MAX_DEPTH: Final = 100
"""Segments of a path. Beyond it is a mistake; the matcher may then recurse along a policy without a care."""

AWS_KEYS: Final = 5
AWS_COMPLEXITY: Final = 150
AWS_NUMBER: Final = 10**9
AWS_STARS: Final = 3
AWS_WILDCARD_POINTS: Final = 100

OPERATORS: Final = frozenset(
    ["prefix", "suffix", "equals-ignore-case", "wildcard", "exists", "cidr", "numeric", "anything-but"]
)

PATTERNS: Final = ("prefix", "suffix", "equals-ignore-case", "wildcard")
"""What may stand inside anything-but ..."""
PATTERNS_OF_AWS: Final = ("prefix", "wildcard")
"""... and what SNS takes of it (SNS: T41)."""


def parse_policy(policy: FilterPolicy, *, aws_limits: bool) -> list[Alternative]:
    """What the policy asks for: one of these alternatives, whole. An empty policy is one alternative without leaves."""
    tree = _read(policy.policy)
    if aws_limits and len(tree) > AWS_KEYS:
        _refuse("Filter policy can not have more than 5 keys", f"the policy, which has {len(tree)}")
    alternatives = _Parser(policy.scope == "attributes", aws_limits).policy(tree, (), 1)
    if aws_limits and sum(map(_combinations, alternatives)) > AWS_COMPLEXITY:
        _refuse("Filter policy is too complex", "the policy", "at most 150 combinations of values times depth")
    steps = sum(leaf.steps for alternative in alternatives for _, leaf in alternative)
    if steps > EVALUATION_BUDGET:
        _refuse_cost(steps)
    return alternatives


def _read(text: str) -> dict[str, Json]:
    size = len(text.encode(errors="replace"))
    if size > MAX_POLICY:
        _refuse("Filter policy is too long", "the policy", f"it has {size} bytes, at most {MAX_POLICY}")
    try:
        tree: Json = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidFilter(f"FilterPolicy: failed to parse JSON. {error}") from error
    if not isinstance(tree, dict):
        _refuse("Filter is not an object", "the policy", 'write an object such as {"kind": ["placed"]}')
    return tree


class _Parser:
    """Reads one policy tree; knows the scope and whose limits hold."""

    def __init__(self, flat: bool, aws_limits: bool) -> None:
        self._flat = flat
        self._aws_limits = aws_limits

    def policy(self, fields: dict[str, Json], path: Path, depth: int) -> list[Alternative]:
        alternatives: list[Alternative] = [()]
        for name, value in fields.items():
            found = self._field(name, value, path, depth)
            if len(alternatives) * len(found) > EVALUATION_BUDGET:
                _refuse_cost(len(alternatives) * len(found))
            alternatives = [one + other for one in alternatives for other in found]
        return alternatives

    def _field(self, name: str, value: Json, path: Path, depth: int) -> list[Alternative]:
        if name == "$or" and _is_choice(value):
            return [each for branch in value for each in self._nested(branch, path, depth)]
        inner = (*path, name) if self._flat else (*path, *name.split("."))
        place = ".".join(inner)
        if len(inner) > MAX_DEPTH:
            _refuse("Filter policy is too complex", place[:80] + "...", f"a path has at most {MAX_DEPTH} segments")
        match value:
            case dict() if self._flat:
                _refuse(
                    "Filter policy scope MessageAttributes does not support nested filter policy",
                    place,
                    "nest in a body policy, or write a list of rules",
                )
            case dict():
                return self._nested(value, inner, depth + 1)
            case list():
                return [((inner, self._leaf(value, place, depth)),)]
            case _:
                _refuse(f'"{name}" must be an object or an array', place, f"write [{_show(value)}]")

    def _nested(self, value: dict[str, Json], path: Path, depth: int) -> list[Alternative]:
        if not value:
            _refuse("Empty objects are not allowed", ".".join(path) or "$or")
        return self.policy(value, path, depth)

    def _leaf(self, rules: list[Json], place: str, depth: int) -> Leaf:
        if not rules:
            _refuse("Empty arrays are not allowed", place, 'name a value, or write [{"exists": true}]')
        strings, numbers, literals = set[str](), set[float](), set[bool | None]()
        operators: list[Operator] = []
        presence: set[bool] = set()
        for rule in rules:
            match rule:
                case str():
                    strings.add(rule)
                case bool() | None:
                    literals.add(rule)
                case int() | float():
                    numbers.add(self._number(rule, place))
                case dict():
                    found = self._match(rule, place)
                    presence.add(found) if isinstance(found, bool) else operators.append(found)
                case _:
                    _refuse("Match value must be String, number, true, false, or null", place, "write one flat list")
        if self._aws_limits:
            _check_wildcards(operators, place)
        return Leaf(
            frozenset(strings),
            frozenset(numbers),
            frozenset(literals),
            tuple(operators),
            True in presence,
            False in presence,
            len(rules),
            depth,
        )

    def _number(self, number: float, place: str) -> float:
        if self._aws_limits and abs(number) > AWS_NUMBER:
            _refuse("Value must be between -1.0E9 and 1.0E9, inclusive", place)
        return number

    def _match(self, rule: dict[str, Json], place: str) -> Operator | bool:
        name, operand = _only_entry(rule, "Match expression name not found", place)
        match name:
            case "prefix":
                return Prefix(_text(operand, name, place))
            case "suffix":
                return Suffix(_text(operand, name, place))
            case "equals-ignore-case":
                return IgnoringCase(_text(operand, name, place).casefold())
            case "wildcard":
                return _wildcard(_text(operand, name, place), place)
            case "exists":
                if not isinstance(operand, bool):
                    _refuse("exists match pattern must be either true or false.", place)
                return operand
            case "cidr":
                # SNS names `prefix` here too (T33).
                return _cidr(_text(operand, "prefix", place), place)
            case "numeric":
                return self._numeric(operand, place)
            case "anything-but":
                return self._anything_but(operand, place)
            case _:
                _refuse(f"Unrecognized match type {name}", place, f"use one of {', '.join(sorted(OPERATORS))}")

    def _numeric(self, terms: Json, place: str) -> Numeric:
        if not isinstance(terms, list):
            _refuse("Value of numeric must be an array.", place, 'write {"numeric": [">=", 0, "<", 10]}')
        if not terms:
            _refuse("Invalid member in numeric match: ]", place, 'write {"numeric": [">=", 0, "<", 10]}')
        op = terms[0]
        if not isinstance(op, str):
            _refuse(f"Invalid member in numeric match: {_show(op)}", place, 'an operator comes first, such as ">"')
        if op not in ("=", "<", "<=", ">", ">="):
            _refuse(f"Unrecognized numeric range operator: {op}", place, "use =, <, <=, > or >=")
        bound = self._bound(op, terms[1:2], place)
        rest = terms[2:]
        if op == "=":
            _no_more(rest, place)
            return Numeric(bound, bound, True, True)
        if op[0] == "<":
            _no_more(rest, place)
            return Numeric(high=bound, with_high=op == "<=")
        if not rest:
            return Numeric(low=bound, with_low=op == ">=")
        return self._range(bound, op == ">=", rest, place)

    def _range(self, low: float, with_low: bool, rest: list[Json], place: str) -> Numeric:
        op = rest[0]
        if not isinstance(op, str):
            _refuse(f"Bad value in numeric range: {_show(op)}", place, 'the upper end starts with "<" or "<="')
        if op not in ("<", "<="):
            _refuse(f"Bad numeric range operator: {op}", place, "the upper end starts with < or <=")
        high = self._bound(op, rest[1:2], place)
        if high <= low:
            _refuse("Bottom must be less than top", place, f"{_show(low)} is not below {_show(high)}")
        if len(rest) > 2:
            _refuse("Too many terms in numeric range expression", place, "a range has two ends")
        return Numeric(low, high, with_low, op == "<=")

    def _bound(self, op: str, operand: list[Json], place: str) -> float:
        number = operand[0] if operand else None
        if isinstance(number, bool) or not isinstance(number, int | float):
            _refuse(f"Value of {'equals' if op == '=' else op} must be numeric", place)
        return self._number(number, place)

    def _anything_but(self, operand: Json, place: str) -> AnythingBut:
        match operand:
            case dict():
                return _anything_but_pattern(operand, place, PATTERNS_OF_AWS if self._aws_limits else PATTERNS)
            case list() if not operand:
                _refuse("Empty arrays are not allowed", place)
            case list():
                return self._anything_but_values(operand, place)
            case bool() | None:
                _refuse("Value of anything-but must be an array or single string/number value.", place)
            case _:
                return self._anything_but_values([operand], place)

    def _anything_but_values(self, values: list[Json], place: str) -> AnythingBut:
        strings = [value for value in values if isinstance(value, str)]
        numbers = [
            self._number(value, place)
            for value in values
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        if len(strings) + len(numbers) < len(values):
            _refuse("Inside anything-but list, start|null|boolean is not supported.", place)
        if strings and numbers:
            _refuse(
                "Inside anything-but list, either all values are number or string, mixed type is not supported", place
            )
        return AnythingBut(frozenset(strings), frozenset(numbers))


def _anything_but_pattern(operand: dict[str, Json], place: str, known: Sequence[str]) -> AnythingBut:
    name, patterns = _only_entry(operand, "Anything-But expression name not found", place)
    if name not in known:
        _refuse(
            f"Unsupported anything-but pattern: {name}", place, f"inside anything-but use one of {', '.join(known)}"
        )
    listed = patterns if isinstance(patterns, list) else [patterns]
    if not listed:
        _refuse("Empty arrays are not allowed", place)
    texts = [_text(pattern, name, place) for pattern in listed]
    match name:
        case "prefix":
            return AnythingBut(tests=tuple(map(Prefix, texts)))
        case "suffix":
            return AnythingBut(tests=tuple(map(Suffix, texts)))
        case "equals-ignore-case":
            return AnythingBut(tests=tuple(IgnoringCase(text.casefold()) for text in texts))
        case _:
            return AnythingBut(tests=tuple(_wildcard(text, place) for text in texts))


def _wildcard(pattern: str, place: str) -> Wildcard:
    parts, literal, at = list[str](), "", 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
            if pattern[at : at + 1] not in ("*", "\\"):
                _refuse(f"Invalid escape character at pos {at - 1}", place, r"a backslash is written \\, a star \*")
            literal += pattern[at]
        elif char == "*":
            if pattern[at + 1 : at + 2] == "*":
                _refuse(f"Consecutive wildcard characters at pos {at}", place, "one star matches any run")
            parts.append(literal)
            literal = ""
        else:
            literal += char
        at += 1
    return Wildcard((*parts, literal))


def _cidr(text: str, place: str) -> Cidr:
    address, slash, mask = text.partition("/")
    if not slash or "/" in mask:
        _refuse("Malformed CIDR, one '/' required", place, "write 10.0.0.0/8")
    if not mask.lstrip("-").isdecimal() or not mask.isascii():
        _refuse("Malformed CIDR, mask bits must be an integer", place, "write 10.0.0.0/8")
    if mask.startswith("-"):
        _refuse("Malformed CIDR, mask bits must not be negative", place)
    try:
        ip = ip_address(address)
    except ValueError:
        _refuse(f"Nonstandard IP address: {address}", place)
    if "%" in address:
        _refuse(f"Nonstandard IP address: {address}", place)
    if len(mask) > 3 or int(mask) > ip.max_prefixlen:
        _refuse(f"IPv{ip.version} mask bits must be <= {ip.max_prefixlen}", place)
    return Cidr(ip_network((ip, int(mask)), strict=False))


def _is_choice(value: Json) -> TypeGuard[list[dict[str, Json]]]:
    """Whether the value of `$or` makes it an operator; otherwise it is a field of that name (SNS: T46)."""
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(isinstance(branch, dict) and OPERATORS.isdisjoint(branch) for branch in value)
    )


def _only_entry(rule: dict[str, Json], nameless: str, place: str) -> tuple[str, Json]:
    if not rule:
        _refuse(nameless, place)
    if len(rule) > 1:
        _refuse("Only one key allowed in match expression", place, f"write {', '.join(rule)} as rules of their own")
    return next(iter(rule.items()))


def _text(operand: Json, name: str, place: str) -> str:
    if not isinstance(operand, str):
        _refuse(f"{name} match pattern must be a string", place, f"not {_show(operand)}")
    return operand


def _no_more(rest: list[Json], place: str) -> None:
    if rest:
        _refuse("Too many elements in numeric expression", place, "a range starts with its lower end")


def _combinations(alternative: Alternative) -> int:
    product = 1
    for _, leaf in alternative:
        product *= leaf.values * leaf.depth
    return product


def _check_wildcards(operators: list[Operator], place: str) -> None:
    patterns = [operator for operator in operators if isinstance(operator, Wildcard)]
    patterns += [
        test
        for operator in operators
        if isinstance(operator, AnythingBut)
        for test in operator.tests
        if isinstance(test, Wildcard)
    ]
    stars = [len(pattern.parts) - 1 for pattern in patterns]
    if any(count > AWS_STARS for count in stars):
        _refuse("Rule is too complex - try using fewer wildcard characters", place, "at most 3 stars in a pattern")
    points = sum(count if count < 2 else 3 * count for count in stars)
    if points * len(patterns) > AWS_WILDCARD_POINTS:
        _refuse("Rule is too complex - try using fewer wildcard characters", place, "fewer patterns, or prefixes")


def _show(value: Json) -> str:
    return msgspec.json.encode(value).decode()


def _refuse_cost(steps: int) -> NoReturn:
    _refuse(
        "Filter policy is too complex",
        "the policy",
        f"it takes {steps} steps on one value, at most {EVALUATION_BUDGET}: use fewer operators or $or branches",
    )


def _refuse(text: str, place: str, remedy: str = "") -> NoReturn:
    raise InvalidFilter(f"FilterPolicy: {text}\n at {place}" + (f": {remedy}" if remedy else ""))
