"""Firehose's prefixes: text with expressions `!{namespace:value}`, taken apart when a stream is declared (S40, S41).

What an expression stands for is decided when an object is sealed, and its name is durable before anything is written
under it. Everything that could be wrong is found before the first record: a prefix that parses always evaluates, to at
most 512 characters, whatever the time is. Values of partition keys come percent-encoded and are never decoded here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import tzinfo
from hashlib import blake2b
from itertools import count
from typing import Literal, NoReturn, TypeAlias

from msgspec import Struct

from pipeflow.errors import ConfigurationError
from pipeflow.names import RESERVED
from pipeflow.sinks.timestamps import BadPattern, Field, fields, instant

MAX_RAW = 1024
MAX_EVALUATED = 512

TIME = "!{timestamp:yyyy/MM/dd/HH/}"
"""What stands where a prefix has no time of its own (Firehose: S44)."""

ERROR_TYPE = "!{firehose:error-output-type}"
FAILED = "processing-failed"
"""The error type of records whose transform or partition failed (Firehose: S46)."""

UNCONVERTED = "format-conversion-failed"
"""That of records which did not fit their columns. The longest there is."""

UNDELIVERED = "delivery-failed"
"""That of records which the sink did not take within `retry_seconds`."""

UNPACKED = "decompression-failed"
"""That of records which did not unpack."""

UNANSWERED = "http-endpoint-failed"
"""That of records which an HTTP endpoint did not take (Firehose: S46)."""

RANDOM = 11
"""Characters of a random string (Firehose: S43)."""

NAMESPACES = "timestamp, firehose, partitionKeyFromQuery, partitionKeyFromLambda"
_KEYS = ("partitionKeyFromQuery", "partitionKeyFromLambda")

Kind: TypeAlias = Literal["text", "time", "random", "error-type", "key"]


class Part(Struct, frozen=True):
    """Text, or one expression; `column` is where it stands in the prefix, from 1."""

    kind: Kind
    text: str
    column: int
    fields: tuple[Field, ...] = ()

    @property
    def literal(self) -> bool:
        """Whether it stands for itself."""
        return self.kind == "text"


class Prefix(Struct, frozen=True):
    """A prefix that parsed. Equal arguments evaluate to equal text."""

    raw: str
    parts: tuple[Part, ...]

    @property
    def expressions(self) -> bool:
        """Whether anything in it is evaluated."""
        return not all(part.literal for part in self.parts)

    @property
    def keys(self) -> tuple[str, ...]:
        """The partition keys it uses, in the order of their first use."""
        return tuple(dict.fromkeys(part.text for part in self.parts if part.kind == "key"))

    def has(self, kind: Kind) -> bool:
        """Whether an expression of this kind stands in it."""
        return any(part.kind == kind for part in self.parts)

    def evaluate(self, at: float, zone: tzinfo, values: Mapping[str, str], seed: str, error_type: str = FAILED) -> str:
        """The text for an object whose oldest record arrived `at`, all times from that one instant (Firehose: S42).

        `values`: encoded values of the partition keys. `seed`: what makes the object unlike any other; its random
        strings follow from it.
        """
        moment = instant(at, zone)
        chance = random_strings(seed)

        def written(part: Part) -> str:
            match part.kind:
                case "text":
                    return part.text
                case "time":
                    return "".join(field.render(moment) for field in part.fields)
                case "random":
                    return next(chance)
                case "error-type":
                    return error_type
                case "key":
                    return values[part.text]

        return harmless("".join(map(written, self.parts)))

    def widest(self, values: Mapping[str, str]) -> str:
        """Text that no evaluation with these values is longer than, in any segment or as a whole."""
        return harmless("".join(_widest(part, values) for part in self.parts))


def random_strings(seed: str) -> Iterator[str]:
    """An endless row of random strings that follow from the seed, each unlike those before it (Firehose: S43)."""
    given: set[str] = set()
    for number in count():
        digits = blake2b(f"{seed}/{number}".encode(), digest_size=5).hexdigest()
        text = f"{digits[:8]}-{digits[8:]}"  # like the beginning of a UUID
        if text not in given:
            given.add(text)
            yield text


def parse(raw: str, option: Literal["prefix", "error_prefix"], stream: str) -> Prefix:
    """Take a prefix apart; ConfigurationError names the stream, the expression, its column and the remedy."""
    place = f"stream {stream}: {option} {raw if len(raw) <= 80 else raw[:77] + '...'!r}"
    if len(raw) > MAX_RAW:
        raise ConfigurationError(f"{place}: {len(raw)} characters; use at most {MAX_RAW}")
    parts: list[Part] = []
    at = 0
    while at < len(raw):
        start = raw.find("!{", at)
        if start < 0:
            start = len(raw)
        if start > at:
            parts.append(Part("text", raw[at:start], at + 1))
        if start == len(raw):
            break
        end = raw.find("}", start)
        if end < 0 or "!{" in raw[start + 2 : end]:
            wrong = "is never closed" if end < 0 else "holds another `!{`"
            _refuse(place, raw[start:], start, f"{wrong}; write !{{namespace:value}}, closed by `}}`")
        parts.append(_expression(raw[start : end + 1], start, option, place))
        at = end + 1
    prefix = Prefix(raw, tuple(parts))
    longest = len(prefix.widest(dict.fromkeys(prefix.keys, "0")))
    if longest > MAX_EVALUATED:
        raise ConfigurationError(f"{place}: evaluates to {longest} characters; use at most {MAX_EVALUATED}")
    return prefix


def column_of(prefix: Prefix, offset: int) -> int:
    """The column of the prefix that `offset` of its widest text comes from; keys are one character wide there."""
    for part in prefix.parts:
        width = len(_widest(part, dict.fromkeys(prefix.keys, "0")))
        if offset < width:
            return part.column + (offset if part.literal else 0)
        offset -= width
    return len(prefix.raw) + 1


def harmless(path: str) -> str:
    """The path with `_` for the first letter of every name that some system reserves (`con`, `aux`, `com1`).

    As long as it was, so that no bound depends on what time it is.
    """
    return "/".join(f"_{name[1:]}" if RESERVED.match(name) else name for name in path.split("/"))


def _expression(text: str, start: int, option: str, place: str) -> Part:
    namespace, colon, value = text[2:-1].partition(":")
    column = start + 1
    if not colon:
        _refuse(place, text, start, f"names no value; write !{{namespace:value}} with one of {NAMESPACES}")
    if namespace == "timestamp":
        try:
            return Part("time", value, column, tuple(fields(value)))
        except BadPattern as error:
            _refuse(place, text, start + len("!{timestamp:") + error.column, str(error))
    if namespace in _KEYS:
        if option == "error_prefix":
            _refuse(place, text, start, "failed records may have no partition; use !{firehose:error-output-type}")
        if not value:
            _refuse(place, text, start, f"names no key that partition_by returns; write !{{{namespace}:name}}")
        return Part("key", value, column)
    if namespace != "firehose":
        _refuse(place, text, start, f"the namespace {namespace!r} is unknown; use {NAMESPACES}")
    if value == "random-string":
        return Part("random", value, column)
    if value != "error-output-type":
        _refuse(place, text, start, "use firehose:random-string, or firehose:error-output-type in error_prefix")
    if option == "prefix":
        _refuse(place, text, start, "stands in error_prefix only; move it there")
    return Part("error-type", value, column)


def _widest(part: Part, values: Mapping[str, str]) -> str:
    match part.kind:
        case "text":
            return part.text
        case "time":
            return "".join(field.widest for field in part.fields)
        case "random":
            return "0" * RANDOM
        case "error-type":
            return UNCONVERTED
        case "key":
            return values[part.text]


def _refuse(place: str, expression: str, start: int, wrong: str) -> NoReturn:
    raise ConfigurationError(f"{place}: column {start + 1}: {expression}: {wrong}")
