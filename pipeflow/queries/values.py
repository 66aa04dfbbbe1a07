"""JSON values as jq sees them: one kind of number, an order over everything, and the text of each.

A value is what msgspec makes of a JSON document: None, bool, int, float, str, list, dict. Python's own `==` is never
used on them, as it takes True for 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

MAX_DEPTH: Final = 200
"""Levels of a value that are compared, merged or written as text."""

LARGEST: Final = "1.7976931348623157e+308"
"""What jq writes for infinity."""


class QueryError(Exception):
    """The expression does not answer for this record."""


class Nothing(QueryError):
    """It answers nothing: an error that a question mark hid."""


class Meter:
    """What one run may spend; the size of a program and of its record bound everything that is not counted here."""

    __slots__ = ("left",)

    BUDGET = 16 << 20
    """Characters, items and comparisons that one record may cost: as many as a record has bytes at most, by default."""

    def __init__(self) -> None:
        self.left = self.BUDGET

    def charge(self, cost: int) -> None:
        """QueryError when that is more than is left."""
        self.left -= cost
        if self.left < 0:
            raise QueryError(f"costs more than {self.BUDGET} steps on this record")


def kind(value: Any) -> str:
    """How jq calls what it is."""
    return _KINDS[type(value)]


def is_true(value: Any) -> bool:
    """Everything but null and false."""
    return value is not None and value is not False


def is_number(value: Any) -> bool:
    """Whether it is a number; true and false are none."""
    return type(value) is int or type(value) is float


def double(value: int | float) -> float:
    """The number as jq computes with it."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def number_text(value: int | float) -> str:
    """The shortest JSON text that reads back as the same number, as jq writes it: `100`, `0.5`, `1e-05`."""
    if type(value) is int:
        return int_text(value)
    if value != value:
        return "null"
    if math.isinf(value):
        return LARGEST if value > 0 else f"-{LARGEST}"
    if value == int(value) and 0 < abs(value) < 1e16:
        return str(int(value))
    negative, numerals, exponent = Decimal(repr(value)).as_tuple()
    digits = "".join(map(str, numerals)).rstrip("0") or "0"
    point = len(numerals) + int(exponent) if value else 1
    return ("-" if negative else "") + _placed(digits, point)


def int_text(value: int) -> str:
    """The digits of an integer; QueryError when it has more of them than Python writes out."""
    try:
        return str(value)
    except ValueError:
        raise QueryError("holds an integer of thousands of digits") from None


def _placed(digits: str, point: int) -> str:
    """Digits with the decimal point behind the first `point` of them, where jq puts zeros and where an exponent."""
    if not -4 < point <= len(digits) + 15:
        rest = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{digits[0]}{rest}e{point - 1:+03d}"
    if point <= 0:
        return f"0.{'0' * -point}{digits}"
    if point >= len(digits):
        return digits + "0" * (point - len(digits))
    return f"{digits[:point]}.{digits[point:]}"


def json_text(value: Any, meter: Meter, depth: int = 0) -> str:
    """The value as JSON without spaces, keys in their order."""
    if type(value) is str:
        meter.charge(len(value) + 2)
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if value is None:
        return "null"
    if type(value) is bool:
        return "true" if value else "false"
    if is_number(value):
        return number_text(value)
    if depth >= MAX_DEPTH:
        raise QueryError(f"is nested deeper than {MAX_DEPTH} levels")
    meter.charge(len(value) + 2)
    if type(value) is list:
        return f"[{','.join([json_text(item, meter, depth + 1) for item in value])}]"
    texts = [f"{json_text(name, meter)}:{json_text(item, meter, depth + 1)}" for name, item in value.items()]
    return f"{{{','.join(texts)}}}"


def plain_text(value: Any, meter: Meter) -> str:
    """A text as it is, everything else as JSON."""
    return value if type(value) is str else json_text(value, meter)


def equal(left: Any, right: Any, meter: Meter) -> bool:
    """Whether both are the same JSON value."""
    return compare(left, right, meter) == 0


def compare(left: Any, right: Any, meter: Meter, depth: int = 0) -> int:
    """Negative, 0 or positive in jq's order: null, false, true, numbers, texts, lists, objects."""
    meter.charge(1)
    rank, other = _rank(left), _rank(right)
    if rank != other:
        return -1 if rank < other else 1
    if rank <= _TRUE:
        return 0
    if rank == _NUMBER:
        return _compare_numbers(left, right)
    if rank == _TEXT:
        meter.charge(min(len(left), len(right)))
        return _sign(left, right)
    if depth >= MAX_DEPTH:
        raise QueryError(f"is nested deeper than {MAX_DEPTH} levels")
    if rank == _LIST:
        return _compare_lists(left, right, meter, depth)
    names, others = sorted(left), sorted(right)
    meter.charge(len(names) + len(others))
    order = _compare_lists(names, others, meter, depth)
    if order:
        return order
    return _compare_lists([left[name] for name in names], [right[name] for name in names], meter, depth)


def _compare_lists(left: list[Any], right: list[Any], meter: Meter, depth: int) -> int:
    for one, two in zip(left, right, strict=False):
        order = compare(one, two, meter, depth + 1)
        if order:
            return order
    return len(left) - len(right)


def _compare_numbers(left: int | float, right: int | float) -> int:
    if left != left:
        return -1  # what is no number is below every number, itself included
    return _sign(left, right)


def _sign(left: Any, right: Any) -> int:
    return int(left > right) - int(left < right)


_KINDS: Final[dict[type, str]] = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_TRUE, _NUMBER, _TEXT, _LIST, _OBJECT = 2, 3, 4, 5, 6
_RANKS: Final[dict[type, int]] = {type(None): 0, int: _NUMBER, float: _NUMBER, str: _TEXT, list: _LIST, dict: _OBJECT}


def _rank(value: Any) -> int:
    return 1 + value if type(value) is bool else _RANKS[type(value)]


Run = Callable[[Any], Any]
"""An expression, compiled: the value it makes of its input. QueryError when it makes none."""
