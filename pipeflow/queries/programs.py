"""Expressions compiled to closures: one Python call for each part, nothing looked up by name while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, assert_never

from pipeflow.queries.functions import FUNCTIONS, OPERATORS
from pipeflow.queries.syntax import (
    Call,
    Choice,
    Construction,
    Field,
    Identity,
    Index,
    Listing,
    Literal,
    Negation,
    Node,
    Operation,
    Pipe,
    Slice,
    Text,
    Try,
)
from pipeflow.queries.values import Meter, Nothing, QueryError, Run, double, is_number, is_true, kind, plain_text


def compiled(node: Node, meter: Meter, attributes: Mapping[str, str] | None = None) -> Run:
    """The call that makes an expression's value of a document.

    `attributes`: the document comes as an object with these attributes for its top-level names, and nothing else of it
    is asked for (see `top_level`).
    """
    return _Compiler(meter, attributes or {})(node, bool(attributes))


def top_level(node: Node) -> frozenset[str] | None:
    """The top-level names that an expression looks at; None when it looks at the document as a whole."""
    match node:
        case Identity():
            return None
        case Field(of=Identity(), name=name):
            return frozenset([name])
        case Field(of=of) | Index(of=of) | Slice(of=of) | Try(body=of) | Negation(body=of):
            return top_level(of)
        case Literal():
            return frozenset()
        case Text(parts):
            return _union([part for part in parts if not isinstance(part, str)])
        case Construction(entries):
            return _union([each for entry in entries for each in entry])
        case Listing(items):
            return _union(items)
        case Pipe(left, _):
            return top_level(left)
        case Operation(_, left, right):
            return _union([left, right])
        case Choice(test, chosen, otherwise):
            return _union([test, chosen, otherwise])
        case Call():
            return None
    assert_never(node)


def _union(nodes: list[Node] | tuple[Node, ...]) -> frozenset[str] | None:
    names: frozenset[str] = frozenset()
    for node in nodes:
        more = top_level(node)
        if more is None:
            return None
        names |= more
    return names


class _Compiler:
    def __init__(self, meter: Meter, attributes: Mapping[str, str]) -> None:
        self._meter = meter
        self._attributes = attributes

    def __call__(self, node: Node, root: bool) -> Run:
        """`root`: the input of this part is the document itself, as an object with attributes."""
        match node:
            case Identity():
                return lambda value: value
            case Field(of=Identity(), name=name) if root:
                return attrgetter(self._attributes[name])
            case Field(of, name, optional):
                return self._access(of, root, optional, lambda value: _field(value, name))
            case Index(of, at, optional):
                return self._access(of, root, optional, lambda value: _item(value, at))
            case Slice(of, start, stop, optional):
                piece = slice(start, stop)
                return self._access(of, root, optional, lambda value: _piece(value, piece))
            case Try(body):
                return _tried(self(body, root))
            case Literal(constant):
                return lambda value: constant
            case Text(parts):
                return self._text(parts, root)
            case Construction(entries):
                return self._construction(entries, root)
            case Listing(items):
                return _listing([self(item, root) for item in items])
            case Pipe(left, right):
                first, then = self(left, root), self(right, False)
                return lambda value: then(first(value))
            case Operation(op, left, right):
                return self._operation(op, self(left, root), self(right, root))
            case Negation(body):
                return _negated(self(body, root))
            case Choice(test, chosen, otherwise):
                tested, yes, no = self(test, root), self(chosen, root), self(otherwise, root)
                return lambda value: yes(value) if is_true(tested(value)) else no(value)
            case Call(name, arguments):
                return self._call(name, [self(argument, root) for argument in arguments])
        assert_never(node)

    def _access(self, of: Node, root: bool, optional: bool, access: Callable[[Any], Any]) -> Run:
        inner = _tried(access) if optional else access
        if isinstance(of, Identity):
            return inner
        before = self(of, root)
        return lambda value: inner(before(value))

    def _text(self, parts: tuple[str | Node, ...], root: bool) -> Run:
        meter = self._meter
        runs = [_constant(part) if isinstance(part, str) else self(part, root) for part in parts]

        def text(value: Any) -> str:
            # The last piece first, as jq does.
            texts = [plain_text(run(value), meter) for run in reversed(runs)]
            meter.charge(sum(map(len, texts)))
            return "".join(reversed(texts))

        return text

    def _construction(self, entries: tuple[tuple[Node, Node], ...], root: bool) -> Run:
        runs = [(self(name, root), self(value, root)) for name, value in entries]
        return lambda value: {name(value): run(value) for name, run in runs}

    def _operation(self, op: str, left: Run, right: Run) -> Run:
        meter = self._meter
        if op == "//":
            return _alternative(left, right)
        if op == "and":
            return lambda value: is_true(left(value)) and is_true(right(value))
        if op == "or":
            return lambda value: is_true(left(value)) or is_true(right(value))
        operator = OPERATORS[op]

        def operate(value: Any) -> Any:
            second = right(value)  # before the first, as jq does
            return operator(meter, left(value), second)

        return operate

    def _call(self, name: str, arguments: list[Run]) -> Run:
        meter, function = self._meter, FUNCTIONS[name, len(arguments)]
        if not arguments:
            return lambda value: function(meter, value)
        (argument,) = arguments
        return lambda value: function(meter, value, argument(value))


def _field(value: Any, name: str) -> Any:
    if type(value) is dict:
        return value.get(name)
    if value is None:
        return None
    raise QueryError(f"{kind(value)} has no field {name!r}")


def _item(value: Any, at: int) -> Any:
    if type(value) is list:
        return value[at] if -len(value) <= at < len(value) else None
    if value is None:
        return None
    raise QueryError(f"{kind(value)} has no item {at}")


def _piece(value: Any, piece: slice) -> Any:
    if type(value) is str or type(value) is list:
        return value[piece]
    if value is None:
        return None
    raise QueryError(f"{kind(value)} has no pieces")


def _tried(run: Run) -> Run:
    def tried(value: Any) -> Any:
        try:
            return run(value)
        except QueryError as error:
            raise Nothing(str(error)) from None

    return tried


def _alternative(left: Run, right: Run) -> Run:
    def alternative(value: Any) -> Any:
        try:
            found = left(value)
        except Nothing:
            return right(value)
        return found if is_true(found) else right(value)

    return alternative


def _listing(runs: list[Run]) -> Run:
    def listing(value: Any) -> list[Any]:
        items = []
        for run in runs:
            try:
                items.append(run(value))
            except Nothing:
                continue
        return items

    return listing


def _negated(run: Run) -> Run:
    def negated(value: Any) -> float:
        found = run(value)
        if not is_number(found):
            raise QueryError(f"{kind(found)} cannot be negated")
        return -double(found)

    return negated


def _constant(text: str) -> Run:
    return lambda value: text
