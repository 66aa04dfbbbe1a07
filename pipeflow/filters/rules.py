"""What a filter policy says, after reading: the rules of a field as values."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from msgspec import Struct

Scalar: TypeAlias = str | int | float | bool | None
Json: TypeAlias = Scalar | list["Json"] | dict[str, "Json"]
Path: TypeAlias = tuple[str, ...]


class Prefix(Struct, frozen=True, tag=True):
    """Strings that start with the operand."""

    operand: str


class Suffix(Struct, frozen=True, tag=True):
    """Strings that end with the operand."""

    operand: str


class IgnoringCase(Struct, frozen=True, tag=True):
    """Strings equal to the operand but for case."""

    operand: str


class Wildcard(Struct, frozen=True, tag=True):
    """Strings that consist of these literal parts in order, with anything between them."""

    parts: tuple[str, ...]


class Cidr(Struct, frozen=True, tag=True):
    """Strings that are an IP address of this network."""

    network: IPv4Network | IPv6Network


class Numeric(Struct, frozen=True, tag=True):
    """Numbers between two ends; None is no end."""

    low: float | None = None
    high: float | None = None
    with_low: bool = False
    with_high: bool = False


class AnythingBut(Struct, frozen=True, tag=True):
    """Values that are none of these and match none of these (SNS: T41)."""

    strings: frozenset[str] = frozenset()
    numbers: frozenset[float] = frozenset()
    tests: tuple[Prefix | Suffix | IgnoringCase | Wildcard, ...] = ()


Operator: TypeAlias = Prefix | Suffix | IgnoringCase | Wildcard | Cidr | Numeric | AnythingBut


class Leaf(Struct, frozen=True):
    """The rules of one field, ORed."""

    strings: frozenset[str]
    numbers: frozenset[float]
    literals: frozenset[bool | None]
    operators: tuple[Operator, ...]
    exists: bool
    missing: bool
    """Also satisfied where the field is absent: `{"exists": false}` (SNS: T43)."""
    values: int
    depth: int

    @property
    def steps(self) -> int:
        """What one value costs here."""
        return 1 + sum(_steps(operator) for operator in self.operators)


Alternative: TypeAlias = tuple[tuple[Path, Leaf], ...]
"""One way to satisfy a policy: all of these leaves."""


def _steps(operator: Operator) -> int:
    match operator:
        case Wildcard(parts):
            return len(parts)
        case AnythingBut(tests=tests):
            return 1 + sum(_steps(test) for test in tests)
        case _:
            return 1
