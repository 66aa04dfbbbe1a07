"""What an expression is made of, once it is parsed. Nothing here knows how it is written or run."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct


class Identity(Struct, frozen=True):
    """`.`"""


class Field(Struct, frozen=True):
    """`of.name`; `optional` is the question mark behind it."""

    of: Node
    name: str
    optional: bool = False


class Index(Struct, frozen=True):
    """`of[at]`"""

    of: Node
    at: int
    optional: bool = False


class Slice(Struct, frozen=True):
    """`of[start:stop]`"""

    of: Node
    start: int | None
    stop: int | None
    optional: bool = False


class Try(Struct, frozen=True):
    """`(body)?`"""

    body: Node


class Literal(Struct, frozen=True):
    """A number, a text without interpolation, `true`, `false` or `null`."""

    value: float | int | str | bool | None


class Text(Struct, frozen=True):
    """A text with interpolations, in pieces."""

    parts: tuple[str | Node, ...]


class Construction(Struct, frozen=True):
    """`{name: value, ...}`; a name may be a text with interpolations."""

    entries: tuple[tuple[Node, Node], ...]


class Listing(Struct, frozen=True):
    """`[item, ...]`"""

    items: tuple[Node, ...]


class Pipe(Struct, frozen=True):
    """`left | right`"""

    left: Node
    right: Node


class Operation(Struct, frozen=True):
    """`left op right`, for arithmetic, comparisons, `and`, `or` and `//`."""

    op: str
    left: Node
    right: Node


class Negation(Struct, frozen=True):
    """`-body`"""

    body: Node


class Choice(Struct, frozen=True):
    """`if test then chosen else otherwise end`"""

    test: Node
    chosen: Node
    otherwise: Node


class Call(Struct, frozen=True):
    """A function of the input and of arguments."""

    name: str
    arguments: tuple[Node, ...]


Node: TypeAlias = (
    Identity
    | Field
    | Index
    | Slice
    | Try
    | Literal
    | Text
    | Construction
    | Listing
    | Pipe
    | Operation
    | Negation
    | Choice
    | Call
)
