"""Policies for operators: one line such as `attempt>2,body.total>=10`, and the view of a message that it looks at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from pipeflow.errors import InvalidFilter
from pipeflow.filters.matching import READ_WHOLE, check_filter
from pipeflow.filters.rules import Json
from pipeflow.messages import AttributeValue, Failure
from pipeflow.specs import FilterPolicy

_passed_over = msgspec.json.Decoder(msgspec.Raw).decode
_TERM: Final = re.compile(r"(?P<field>[^\s<>=!]+)\s*(?P<op>==|!=|<=|>=|=|<|>)\s*(?P<value>.*)\Z", re.DOTALL)
_AND: Final = re.compile(r"\s*(?:,|\s+and\s)\s*", re.IGNORECASE)
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)\Z")
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\Z")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_MIRRORED: Final = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
_HOW: Final = "write FIELD OP VALUE with =, !=, <, <=, > or >=, such as attempt>2,error=ValueError,body.total>=10"


FIELDS: Final = (
    "id",
    "state",
    "attempt",
    "error",
    "reason",
    "sent_at",
    "age",
    "group",
    "dedup_id",
    "key",
    "priority",
    "sequence",
    "body",
    "attributes",
)
"""What a view has; below `body` and `attributes` is whatever a message has there."""


class Viewable(Protocol):
    """What a view is made of; `Peeked` is one."""

    @property
    def id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def attempt(self) -> int: ...
    @property
    def sent_at(self) -> float: ...
    @property
    def sequence(self) -> int: ...
    @property
    def attributes(self) -> dict[str, AttributeValue]: ...
    @property
    def group(self) -> str | None: ...
    @property
    def dedup_id(self) -> str | None: ...
    @property
    def key(self) -> str | None: ...
    @property
    def priority(self) -> int: ...
    @property
    def failures(self) -> list[Failure]: ...


def view(message: Viewable, now: float | None = None) -> bytes:
    """The JSON document of a message that `parse_where` policies look at; `age` is in it when `now` is given.

    Keys: FIELDS. `error` and `reason` are those of the last failure; `body` is the JSON it holds, or its text where it
    holds none.
    """
    last = message.failures[-1] if message.failures else None
    document: dict[str, object] = {
        "id": message.id,
        "state": message.state,
        "attempt": message.attempt,
        "error": last.type if last else None,
        "reason": last.message if last else None,
        "sent_at": message.sent_at,
        "group": message.group,
        "dedup_id": message.dedup_id,
        "key": message.key,
        "priority": message.priority,
        "sequence": message.sequence,
        "body": _readable(message.body),
        "attributes": message.attributes,
    }
    if now is not None:
        document["age"] = now - message.sent_at
    return msgspec.json.encode(document)


def _readable(body: bytes) -> object:
    try:
        if len(body) > READ_WHOLE:
            body.decode()
            # Looked through and not read; within brackets too, as it is going to lie deeper than it does here.
            _passed_over(body)
            _passed_over(b"[[%b]]" % body)
            return msgspec.Raw(body)
        value: object = msgspec.json.decode(body)
        # A tree that decodes may still be too deep to be encoded again inside another.
        msgspec.json.encode([[value]])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return body.decode(errors="replace")
    return value


def parse_where(text: str, now: float) -> FilterPolicy:
    """The policy of a line of terms joined by commas or `and`; scope body, over `view`. InvalidFilter says how.

    A field is one of FIELDS, `body.FIELD` or `attributes.NAME`; another would silently match nothing. A value is a
    number, `true`, `false`, `null`, or text; text with `*` is a wildcard, unless it is quoted.
    `age` takes seconds or 90s, 15m, 2h, 1d, and is compared as of `now`.
    """
    policy: dict[str, list[Json]] = {}
    for term in _terms(text):
        field, op, value, quoted = _term(term, text)
        if field == "age":
            field, op, value = "sent_at", _MIRRORED.get(op, op), str(now - _duration(value, op, term))
        elif field not in FIELDS and not field.startswith(("body.", "attributes.")):
            raise InvalidFilter(_unknown(field, text))
        _add(policy, field, _rules(op, value, quoted, term), term)
    if not policy:
        raise InvalidFilter(f"where {text!r}: no condition; {_HOW}")
    made = FilterPolicy(msgspec.json.encode(policy).decode(), "body")
    check_filter(made)
    return made


def _unknown(field: str, text: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(field, FIELDS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    there = ", ".join(sorted(FIELDS))
    return f"where {text!r}: no field {field!r}{hint}: there are {there}, body.FIELD and attributes.NAME"


def _terms(text: str) -> list[str]:
    # Quoted values are lifted out first, so that a comma in one does not end its term.
    quoted = _QUOTED.findall(text)
    bare = _QUOTED.sub("\0", text)
    lifted = iter(quoted)
    terms = [re.sub("\0", lambda _: next(lifted), term).strip() for term in _AND.split(bare)]
    return [term for term in terms if term]


def _term(term: str, text: str) -> tuple[str, str, str, bool]:
    found = _TERM.match(term)
    if found is None:
        raise InvalidFilter(f"where {text!r}: {term!r} is no condition; {_HOW}")
    value = found["value"].strip()
    quoted = _QUOTED.fullmatch(value) is not None
    return found["field"], found["op"], value[1:-1] if quoted else value, quoted


def _duration(value: str, op: str, term: str) -> float:
    found = _DURATION.match(value)
    if found is None or op not in _MIRRORED:
        raise InvalidFilter(f"where {term!r}: compare age with <, <=, > or >= to seconds or 90s, 15m, 2h, 1d")
    return float(found[1]) * _SECONDS[found[2]]


def _rules(op: str, value: str, quoted: bool, term: str) -> list[Json]:
    number = None if quoted else _number(value)
    if op in _MIRRORED:
        if number is None:
            raise InvalidFilter(f"where {term!r}: {op} compares numbers; {value!r} is none")
        return [{"numeric": [op, number]}]
    if op == "!=":
        if number is not None:
            return [{"anything-but": [number]}]
        if "*" in value and not quoted:
            return [{"anything-but": {"wildcard": _pattern(value)}}]
        return [{"anything-but": [value]}]
    if quoted:
        return [value]
    if "*" in value:
        return [{"wildcard": _pattern(value)}]
    return _as_written(value, number)


def _as_written(value: str, number: float | None) -> list[Json]:
    # Typed on a command line, 7 may be meant for the number 7 or for the text "7": take both.
    literals: Mapping[str, bool | None] = {"true": True, "false": False, "null": None}
    if number is not None:
        return [number, value]
    if value in literals:
        return [literals[value], value]
    return [value]


def _pattern(value: str) -> str:
    return re.sub(r"\*{2,}", "*", value.replace("\\", "\\\\"))


def _number(value: str) -> float | None:
    if not _NUMBER.match(value):
        return None
    return float(value) if any(mark in value for mark in ".eE") else int(value)


def _add(policy: dict[str, list[Json]], field: str, rules: list[Json], term: str) -> None:
    if field not in policy:
        policy[field] = rules
        return
    both = _range(policy[field], rules)
    if both is None:
        raise InvalidFilter(f"where {term!r}: {field} is named before; name a field once, or both ends of a range")
    policy[field] = [{"numeric": both}]


def _range(known: Sequence[Json], further: Sequence[Json]) -> list[Json] | None:
    ends: list[list[Json]] = []
    for rules in (known, further):
        match rules:
            case [{"numeric": [str(), _] as end}]:
                ends.append(end)
    ends.sort(key=lambda end: str(end[0]), reverse=True)  # ">" before "<"
    match ends:
        case [[">" | ">=", _], ["<" | "<=", _]]:
            return [*ends[0], *ends[1]]
    return None
