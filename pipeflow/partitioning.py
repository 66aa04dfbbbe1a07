"""Which partition a record of a stream belongs to, as `partition_by` says: a function of the payload, or expressions.

Expressions of the part of jq that `pipeflow.queries` knows are evaluated on the spot, others in jq, in a process of its
own, once the record has been accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Generic, TypeAlias, TypeVar

from pipeflow.engine.plan import Placing
from pipeflow.errors import ConfigurationError, RefusedError
from pipeflow.queries import Extraction, QueryError, Unsupported, key_queries
from pipeflow.sinks.layout import Layout
from pipeflow.sinks.objects import PartitionKey
from pipeflow.specs import KeyQuery

T = TypeVar("T")

PartitionBy: TypeAlias = Callable[[T], PartitionKey] | str | Mapping[str, str]
"""A function of the payload; or one expression, an object construction, or a dict of expressions over its JSON."""

_FROM_LAMBDA = re.compile(r"!\{partitionKeyFromLambda:([^}]*)\}")


class Partitioning(Generic[T]):
    """How one stream places its records: `partitions` on the spot, or `later` where jq does it; neither: not at all."""

    __slots__ = ("key", "later", "partitions")

    def __init__(
        self,
        partitions: Callable[[list[T], list[bytes]], list[str]] | None = None,
        *,
        key: Callable[[bytes], PartitionKey] | None = None,
        later: Placing | None = None,
    ) -> None:
        self.partitions = partitions
        """Those of payloads and their encoded records. RefusedError, or what a function raised, when one has none."""
        self.key = key
        """What expressions answer for a record, as a function would; RefusedError when they do not."""
        self.later = later


def awaits_keys(prefix: str | None, given: tuple[KeyQuery, ...]) -> bool:
    """Whether the prefix uses keys of a function for Firehose that no expression gives."""
    names = {each.key for each in given}
    return any(key not in names for key in _FROM_LAMBDA.findall(prefix or ""))


def declared_keys(given: PartitionBy[T] | None, where: str) -> tuple[KeyQuery, ...]:
    """The keys and their expressions; none where a function gives the partition. `where` begins errors."""
    if given is None or callable(given):
        return ()
    if not isinstance(given, str | Mapping):
        raise ConfigurationError(
            f"{where}: partition_by is {given!r}; give a function, an expression such as '.carrier', or a dict of them"
        )
    try:
        return key_queries(given)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: partition_by {str(given)[:80]!r}: {error}") from None


def partitioning(
    given: PartitionBy[T] | None, keys: tuple[KeyQuery, ...], layout: Layout, codec: str, where: str
) -> Partitioning[T]:
    """How the records are placed. ConfigurationError: the expressions cannot be evaluated over such records."""
    if callable(given):
        function = given
        return Partitioning(lambda values, bodies: layout.partitions(map(function, values)))
    if not keys:
        return Partitioning()
    if codec == "msgpack":
        raise ConfigurationError(f"{where}: partition_by: expressions are over JSON, not {codec}; give a function")
    for each in keys:
        try:
            Extraction([each])
        except Unsupported as error:
            return Partitioning(later=_in_jq(keys, layout, f"{where}: partition_by {each.query[:80]!r}: {error}"))
    return _built_in(keys, layout)


def _in_jq(keys: tuple[KeyQuery, ...], layout: Layout, unsupported: str) -> Placing:
    from pipeflow.engine.jq_process import placing  # with what starts processes, for streams that need one

    return placing(keys, lambda texts: layout.partition(as_key(keys, texts)), unsupported)


def _built_in(keys: tuple[KeyQuery, ...], layout: Layout) -> Partitioning[T]:
    extract = Extraction(keys)

    def key(body: bytes) -> PartitionKey:
        try:
            return as_key(keys, extract(body))
        except QueryError as error:
            raise RefusedError("Partition", str(error)) from None

    return Partitioning(lambda values, bodies: layout.partitions(map(key, bodies)), key=key)


def as_key(keys: tuple[KeyQuery, ...], texts: list[str]) -> PartitionKey:
    """What a function would have returned: a text, or the texts by the names of their keys."""
    return {each.key: text for each, text in zip(keys, texts, strict=True)} if keys[0].key else texts[0]
