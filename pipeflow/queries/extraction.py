"""Partition keys out of a record: the texts its expressions answer with, or why there are none (Firehose: S51, S52).

Of a record only the top-level fields that the expressions name are decoded, the rest is passed over: `.carrier` of
1 KiB costs less than half of decoding all of it (benchmarks/partitioning.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from pipeflow.queries.parsing import parse
from pipeflow.queries.programs import compiled, top_level
from pipeflow.queries.syntax import Node
from pipeflow.queries.values import Meter, QueryError, Run, is_number, number_text
from pipeflow.specs import KeyQuery

_Runs = tuple[tuple[str, Run], ...]
"""Expressions with what errors call them."""


class Extraction:
    """The expressions of one stream, ready to run. Unsupported: one of them is outside the grammar."""

    __slots__ = ("_meter", "_whole", "_decode", "_quick")

    def __init__(self, queries: Sequence[KeyQuery]) -> None:
        self._meter = Meter()
        nodes = [parse(each.query) for each in queries]
        names = [each.key or each.query for each in queries]
        self._whole = tuple(zip(names, [compiled(node, self._meter) for node in nodes], strict=True))
        self._decode, runs = _narrowed(nodes, self._meter)
        self._quick = tuple(zip(names, runs, strict=False))

    def __call__(self, body: bytes) -> list[str]:
        """The text of every key, in order. QueryError: the record is no JSON document, or a key has no such text."""
        self._meter.left = Meter.BUDGET
        try:
            if self._decode is not None:
                try:
                    document = self._decode(body)
                except msgspec.ValidationError:
                    pass  # no object: what the expressions make of it is for the long way to say
                else:
                    return _texts(self._quick, document)
            return _texts(self._whole, _document(body))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise QueryError(f"the record is not one JSON document: {error}") from None
        except RecursionError:
            raise QueryError("the record is nested too deeply") from None


def _texts(runs: _Runs, document: Any) -> list[str]:
    texts: list[str] = []
    for key, run in runs:
        try:
            value = run(document)
        except QueryError as error:
            raise QueryError(f"{key}: {error}") from None
        texts.append(value if type(value) is str and value else key_text(value, key))
    return texts


def key_text(value: Any, key: str) -> str:
    """A value as a partition key: text as it is, numbers and booleans as JSON; QueryError for any other (S52)."""
    if type(value) is str and value:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if is_number(value):
        text = number_text(value)
        if text != "null":
            return text
    shown = _REFUSED.get(type(value), "null")
    raise QueryError(f"{key}: answers with {shown}; a partition key is a text, a number or a boolean")


_REFUSED: Final[dict[type, str]] = {dict: "an object", list: "an array", str: "an empty text"}
_document: Callable[[bytes], Any] = msgspec.json.Decoder().decode


def _narrowed(nodes: Sequence[Node], meter: Meter) -> tuple[Callable[[bytes], Any] | None, list[Run]]:
    """A decoder of just the top-level fields that are looked at, and the expressions over what it makes."""
    names: set[str] = set()
    for node in nodes:
        looked_at = top_level(node)
        if looked_at is None:
            return None, []
        names |= looked_at
    if not names:
        return None, []
    attributes = {name: f"field{number}" for number, name in enumerate(sorted(names))}
    record = msgspec.defstruct(
        "Narrowed",
        [(attribute, Any, None) for attribute in attributes.values()],
        gc=False,
        rename={attribute: name for name, attribute in attributes.items()},
    )
    return msgspec.json.Decoder(record).decode, [compiled(node, meter, attributes) for node in nodes]
