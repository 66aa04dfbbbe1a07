"""Changes to a message that an operator writes down: `body.total=0`, `attributes.kind=placed`, or a whole new body.

Applying one is pure, and all or nothing. What it does not name stays as it is written; around what it names spaces go,
and of two fields of one name in one object the last stays, as every reader of JSON here reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from pipeflow.errors import ConfigurationError, RefusedError
from pipeflow.messages import AttributeValue

_TERM: Final = re.compile(r'((?:"(?:[^"\\]|\\.)*"|[^"=])*)=(.*)', re.DOTALL)
_STEP: Final = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^."]+?))\s*(?:\.|\Z)')
_HOW: Final = "write body.FIELD=VALUE, attributes.NAME=VALUE or body=VALUE; VALUE is JSON, or else text"
_SHOWN: Final = 200
"""Characters of one new value that the text of an edit repeats."""

# A number is whatever JSON allows: 1e400 is none that a float could be.
_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder().encode
_Raw = msgspec.Raw
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_UNREADABLE: Final = (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError)
"""What reading JSON ends with: no JSON, text that is not UTF-8, a number past every bound, too deep."""


class Part(Struct, frozen=True, array_like=True):
    """One part of a message, and the JSON it is to be."""

    path: tuple[str, ...]
    """`("body", "customer", "name")`, `("attributes", "kind")`; `("body",)` is the whole body."""
    value: bytes

    @property
    def text(self) -> str:
        """As it was written, more or less."""
        path = ".".join(step if re.fullmatch(r'[^.="\s]+', step) else _encode(step).decode() for step in self.path)
        value = self.value.decode(errors="replace")
        return f"{path}={value if len(value) <= _SHOWN else f'{value[:_SHOWN]}...'}"


class Edit(Struct, frozen=True):
    """What is to change: a new body, or parts of the body and the attributes, or both, in this order."""

    parts: tuple[Part, ...] = ()
    body: bytes | None = None
    raw: bool = False
    """The new body need not be JSON."""

    def __post_init__(self) -> None:
        if not self.parts and self.body is None:
            raise ConfigurationError(f"an edit that changes nothing: {_HOW}")
        if self.body is not None and not self.raw:
            try:
                _decode(self.body)
            except _UNREADABLE as error:
                raise ConfigurationError(f"the new body is no JSON ({error}); mend it, or say that it is raw") from None

    @property
    def of_body(self) -> bool:
        """Whether the body changes, too."""
        return self.body is not None or any(part.path[0] == "body" for part in self.parts)

    @property
    def text(self) -> str:
        """What it changes, in a line."""
        whole = [f"a new body of {len(self.body)} bytes"] if self.body is not None else []
        return ", ".join([*whole, *(part.text for part in self.parts)])


def parse_edit(terms: Iterable[str], body: bytes | None = None, *, raw: bool = False) -> Edit:
    """The edit of terms such as `body.total=0` or `attributes.kind=placed`; ConfigurationError says how.

    A value is JSON where it is JSON, else text: `0` is a number, `"0"` and `zero` are texts. A step of a path in double
    quotes may hold dots; a number is a position in a list. An attribute that is set to `null` is taken away.
    """
    return Edit(tuple(_part(term) for term in terms), body, raw)


def _part(term: str) -> Part:
    try:
        term.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"edit {term!r}: half of a surrogate pair is no text; write the whole one") from None
    found = _TERM.fullmatch(term)
    path, value = (found[1], found[2]) if found is not None else ("", "")
    root, dot, rest = path.strip().partition(".")
    if root not in ("body", "attributes") or (dot and not rest) or (root == "attributes" and not dot):
        raise ConfigurationError(f"edit {term!r}: {_HOW}")
    written = _value(term, value)
    if root == "attributes":
        # Names of attributes have dots of their own (SQS: Q29), so the rest is one name.
        name = _quoted(rest) if rest.startswith('"') else rest
        _attribute(term, written)
        return Part((root, name), written)
    return Part((root, *(_steps(rest, term) if dot else ())), written)


def _value(term: str, text: str) -> bytes:
    try:
        _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return _encode(text)
    except (ValueError, ArithmeticError):
        raise ConfigurationError(
            f"edit {term[:_SHOWN]!r}: its number has too many digits; put it in double quotes, as text"
        ) from None
    return text.strip().encode()


def _steps(text: str, term: str) -> list[str]:
    steps: list[str] = []
    at = 0
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None:
            raise ConfigurationError(f"edit {term!r}: {text[at:]!r} is no path; {_HOW}")
        steps.append(_quoted(f'"{found[1]}"') if found[1] is not None else found[2])
        at = found.end()
    if text.endswith("."):
        raise ConfigurationError(f"edit {term!r}: the path ends with a dot; {_HOW}")
    return steps


def _quoted(text: str) -> str:
    try:
        return msgspec.json.decode(text, type=str)
    except msgspec.MsgspecError:
        raise ConfigurationError(f"edit: {text} is no name in double quotes; {_HOW}") from None


def _attribute(term: str, written: bytes) -> AttributeValue | None:
    try:
        value: AttributeValue | None = msgspec.json.decode(
            written, type=str | int | float | bool | list[str | int | float | bool | None] | None
        )
    except msgspec.MsgspecError as error:
        raise ConfigurationError(
            f"edit {term!r}: {error}; an attribute is text, a number, true, false or a list of these"
        ) from None
    return value


def apply(
    edit: Edit, body: bytes, attributes: Mapping[str, AttributeValue] | None
) -> tuple[bytes, dict[str, AttributeValue] | None]:
    """Body and attributes after the edit; RefusedError `Unfit` for a message that has not what it names."""
    after = dict(attributes or {})
    if edit.body is not None:
        body = edit.body
    of_body = [part for part in edit.parts if part.path[0] == "body"]
    for part in edit.parts:
        if part.path[0] == "attributes":
            value = _attribute(part.text, part.value)
            if value is None:
                after.pop(part.path[1], None)
            else:
                after[part.path[1]] = value
    return _changed(body, of_body) if of_body else body, after or None


def _changed(body: bytes, parts: list[Part]) -> bytes:
    try:
        body.decode()  # texts that are only passed over are not read
        for part in parts:
            _decode(part.value)
            body = _put(body, part, 1) if len(part.path) > 1 else part.value
        return body
    except _UNREADABLE:
        raise RefusedError(
            "Unfit", f"its body is no JSON that can be read, so {parts[0].text} cannot be set; give a whole body"
        ) from None


def _put(body: bytes, part: Part, depth: int) -> bytes:
    """The JSON with one part set. What lies beside it is passed over and copied: 2 ms for each MiB of a large body."""
    step, last, where = part.path[depth], depth == len(part.path) - 1, ".".join(part.path[:depth])
    opening = body.lstrip()[:1]
    if opening == b"{":
        fields = _fields(body)
        if not last and step not in fields:
            raise RefusedError("Unfit", f"its {where} has no {step!r}")
        # A last step may be a new field, so that what is missing can be filled in.
        fields[step] = _Raw(part.value if last else _put(bytes(fields[step]), part, depth + 1))
        return _encode(fields)
    if opening == b"[":
        items = _items(body)
        if not step.isdecimal() or int(step) >= len(items):
            raise RefusedError("Unfit", f"its {where} is a list of {len(items)}, without a {step!r}")
        items[int(step)] = _Raw(part.value if last else _put(bytes(items[int(step)]), part, depth + 1))
        return _encode(items)
    _decode(body)
    raise RefusedError("Unfit", f"its {where} is neither object nor list, so it has no {step!r}")


def fingerprint(body: bytes) -> str:
    """16 hex digits that tell two bodies apart: the beginning of their SHA-256."""
    return sha256(body).hexdigest()[:16]
