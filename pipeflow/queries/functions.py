"""The functions that expressions may call: those of jq that answer once, and the same on every machine and version."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

from pipeflow.queries import times
from pipeflow.queries.values import (
    MAX_DEPTH,
    Meter,
    QueryError,
    compare,
    double,
    equal,
    is_number,
    is_true,
    json_text,
    kind,
    plain_text,
)

Function = Callable[..., Any]
"""Takes the meter, the input and the values of the arguments."""

_JSON_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z", re.ASCII)
_LOWER: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_UPPER: Final = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}
_LIMIT: Final = 2.0**63


# Operators


def add(meter: Meter, left: Any, right: Any) -> Any:
    """`left + right`; null adds nothing."""
    if left is None:
        return right
    if right is None:
        return left
    if is_number(left) and is_number(right):
        return double(left) + double(right)
    if type(left) is type(right) and type(left) in (str, list, dict):
        meter.charge(len(left) + len(right))
        return {**left, **right} if type(left) is dict else left + right
    raise QueryError(f"{kind(left)} and {kind(right)} cannot be added")


def subtract(meter: Meter, left: Any, right: Any) -> Any:
    """`left - right`: numbers, or the items of one list that are not in the other."""
    if is_number(left) and is_number(right):
        return double(left) - double(right)
    if type(left) is list and type(right) is list:
        return [item for item in left if not any(equal(item, other, meter) for other in right)]
    raise QueryError(f"{kind(right)} cannot be subtracted from {kind(left)}")


def multiply(meter: Meter, left: Any, right: Any) -> Any:
    """`left * right`: numbers, or objects merged to the bottom. Texts times numbers differ between versions of jq."""
    if is_number(left) and is_number(right):
        return double(left) * double(right)
    if type(left) is dict and type(right) is dict:
        return _merged(meter, left, right, 0)
    raise QueryError(f"{kind(left)} and {kind(right)} cannot be multiplied")


def _merged(meter: Meter, left: dict[str, Any], right: dict[str, Any], depth: int) -> dict[str, Any]:
    if depth >= MAX_DEPTH:
        raise QueryError(f"is nested deeper than {MAX_DEPTH} levels")
    meter.charge(len(left) + len(right))
    merged = dict(left)
    for name, value in right.items():
        old: Any = merged.get(name)
        both = type(old) is dict and type(value) is dict
        merged[name] = _merged(meter, old, value, depth + 1) if both else value
    return merged


def divide(meter: Meter, left: Any, right: Any) -> Any:
    """`left / right`: numbers, or a text split at another."""
    if is_number(left) and is_number(right):
        if right == 0:
            raise QueryError("cannot be divided by zero")
        return _divided(double(left), double(right))
    if type(left) is str and type(right) is str:
        return split(meter, left, right)
    raise QueryError(f"{kind(left)} and {kind(right)} cannot be divided")


def _divided(left: float, right: float) -> float:
    try:
        return left / right
    except OverflowError:
        return math.copysign(math.inf, left) * math.copysign(1, right)


def remainder(meter: Meter, left: Any, right: Any) -> Any:
    """`left % right` of what is before the decimal points, with the sign of `left`."""
    if not (is_number(left) and is_number(right)):
        raise QueryError(f"{kind(left)} and {kind(right)} cannot be divided")
    dividend, divisor = _whole(double(left)), _whole(double(right))
    if divisor == 0:
        raise QueryError("cannot be divided by zero")
    rest = abs(dividend) % abs(divisor)
    return float(-rest if dividend < 0 else rest)


def _whole(value: float) -> int:
    if value != value:
        raise QueryError("what is no number cannot be divided")
    if abs(value) >= _LIMIT:
        raise QueryError(f"remainders are of numbers below {_LIMIT:.0f}")
    return int(value)


OPERATORS: Final[dict[str, Function]] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": remainder,
    "==": lambda meter, left, right: compare(left, right, meter) == 0,
    "!=": lambda meter, left, right: compare(left, right, meter) != 0,
    "<": lambda meter, left, right: compare(left, right, meter) < 0,
    "<=": lambda meter, left, right: compare(left, right, meter) <= 0,
    ">": lambda meter, left, right: compare(left, right, meter) > 0,
    ">=": lambda meter, left, right: compare(left, right, meter) >= 0,
}


# Functions


def length(meter: Meter, value: Any) -> Any:
    """Characters, items, the size of a number; 0 of null."""
    if value is None:
        return 0
    if is_number(value):
        return abs(double(value))
    if type(value) is bool:
        raise QueryError("boolean has no length")
    return len(value)


def tonumber(meter: Meter, value: Any) -> Any:
    """A number that stands in a text as JSON has it; leading zeros are passed over."""
    if is_number(value):
        return value
    if type(value) is not str or len(value) > 400 or not _JSON_NUMBER.match(value):
        raise QueryError(f"{_shown(value)} cannot be read as a number")
    number = float(value)
    return int(value) if value.lstrip("-").isdecimal() else number


def lower(meter: Meter, value: Any) -> str:
    """A to Z in small letters, others as they are."""
    text = _text(value, "ascii_downcase")
    meter.charge(len(text))
    return text.lower() if text.isascii() else text.translate(_LOWER)


def upper(meter: Meter, value: Any) -> str:
    """a to z in capitals, others as they are."""
    text = _text(value, "ascii_upcase")
    meter.charge(len(text))
    return text.upper() if text.isascii() else text.translate(_UPPER)


def ltrimstr(meter: Meter, value: Any, start: Any) -> Any:
    """The text without what it begins with."""
    return _text(value, "ltrimstr").removeprefix(_text(start, "ltrimstr"))


def rtrimstr(meter: Meter, value: Any, end: Any) -> Any:
    """The text without what it ends with."""
    return _text(value, "rtrimstr").removesuffix(_text(end, "rtrimstr"))


def startswith(meter: Meter, value: Any, start: Any) -> bool:
    """Whether a text begins with another."""
    return _text(value, "startswith").startswith(_text(start, "startswith"))


def endswith(meter: Meter, value: Any, end: Any) -> bool:
    """Whether a text ends with another."""
    return _text(value, "endswith").endswith(_text(end, "endswith"))


def split(meter: Meter, value: Any, separator: Any) -> list[str]:
    """The texts between the separators; single characters where it is empty."""
    text, between = _text(value, "split"), _text(separator, "split")
    meter.charge(len(text))
    if not text:
        return []
    return text.split(between) if between else list(text)


def join(meter: Meter, value: Any, separator: Any) -> str:
    """Texts, numbers and booleans in a row, null as nothing, with the separator between."""
    if type(value) is not list:
        raise QueryError(f"join needs an array, not {kind(value)}")
    between = _text(separator, "join")
    meter.charge(len(value) * (1 + len(between)))
    return between.join([_joined(meter, item) for item in value])


def _joined(meter: Meter, item: Any) -> str:
    if item is None:
        return ""
    if type(item) in (list, dict):
        raise QueryError(f"join cannot take {kind(item)}")
    text = plain_text(item, meter)
    meter.charge(len(text))
    return text


def floor(meter: Meter, value: Any) -> float:
    """The whole number at or below."""
    if not is_number(value):
        raise QueryError(f"{kind(value)} is no number")
    number = double(value)
    return float(math.floor(number)) if math.isfinite(number) else number


FUNCTIONS: Final[dict[tuple[str, int], Function]] = {
    ("not", 0): lambda meter, value: not is_true(value),
    ("type", 0): lambda meter, value: kind(value),
    ("length", 0): length,
    ("floor", 0): floor,
    ("tostring", 0): lambda meter, value: plain_text(value, meter),
    ("tojson", 0): lambda meter, value: json_text(value, meter),
    ("tonumber", 0): tonumber,
    ("ascii_downcase", 0): lower,
    ("ascii_upcase", 0): upper,
    ("ltrimstr", 1): ltrimstr,
    ("rtrimstr", 1): rtrimstr,
    ("startswith", 1): startswith,
    ("endswith", 1): endswith,
    ("split", 1): split,
    ("join", 1): join,
    ("gmtime", 0): lambda meter, value: times.gmtime(value),
    ("mktime", 0): lambda meter, value: times.mktime(value),
    ("strftime", 1): lambda meter, value, form: times.strftime(value, form),
    ("strptime", 1): lambda meter, value, form: times.strptime(value, form),
    ("todate", 0): lambda meter, value: times.strftime(value, times.ISO),
    ("todateiso8601", 0): lambda meter, value: times.strftime(value, times.ISO),
    ("fromdate", 0): lambda meter, value: times.mktime(times.strptime(value, times.ISO)),
    ("fromdateiso8601", 0): lambda meter, value: times.mktime(times.strptime(value, times.ISO)),
}


def _text(value: Any, function: str) -> str:
    if type(value) is not str:
        raise QueryError(f"{function} needs a text, not {kind(value)}")
    return value


def _shown(value: Any) -> str:
    return repr(value[:60]) if type(value) is str else kind(value)
