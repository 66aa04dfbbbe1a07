"""Manifests: small JSON objects that tell a reader which objects of a stream count, whoever writes or merges meanwhile.

    .manifest/STREAM/000000000001-000000000500-17-3f9a0c1277aa.json

Each has the lists `added` and `removed`. What counts is every name that some manifest adds and none removes. A name
that was removed is never added again, so the order of reading does not matter. A manifest that is gone when it is read
was replaced: list again, and begin anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from zlib import crc32

import msgspec
from msgspec import Struct

from pipeflow.errors import ObjectRefused
from pipeflow.files import FileFacts
from pipeflow.messages import Column, ObjectFacts, Segment
from pipeflow.names import check_name
from pipeflow.protocols import Object
from pipeflow.sinks.objects import is_errors, store_mark
from pipeflow.specs import COLUMNAR

FOLDER = ".manifest/"
"""Readers of data pass over folders that begin with a dot."""

VERSION = 1


class Entry(Struct, frozen=True):
    """One object, as a manifest tells of it."""

    name: str
    partition: str
    kind: str
    """rows, or errors: records that failed."""
    records: int
    size: int
    crc32: int
    first: int
    last: int
    opened_at: float
    format: str
    compression: str
    generation: int = 0


class Listing(Struct, frozen=True):
    """One manifest. Equal facts make equal bytes, so that one that is written again is the same."""

    version: int
    stream: str
    store: str
    """The mark of the store, which its objects have in their names."""
    added: list[Entry]
    removed: list[str]


def live(manifests: Iterable[bytes | Listing]) -> dict[str, Entry]:
    """The objects that count, by name in the order of their sequences, given all manifests of a stream."""
    added: dict[str, Entry] = {}
    removed: set[str] = set()
    for manifest in manifests:
        listing = manifest if isinstance(manifest, Listing) else decode(manifest)
        added.update((entry.name, entry) for entry in listing.added)
        removed.update(listing.removed)
    ordered = sorted(added.values(), key=lambda entry: (entry.first, entry.name))
    return {entry.name: entry for entry in ordered if entry.name not in removed}


def decode(content: bytes) -> Listing:
    """The manifest; ObjectRefused when it is none, or one of a later version."""
    try:
        listing = _decode(content)
    except msgspec.MsgspecError as error:
        raise ObjectRefused(f"this is no manifest: {error}") from error
    if listing.version != VERSION:
        raise ObjectRefused(f"a manifest of version {listing.version}; this pipeflow reads {VERSION}: take a newer one")
    return listing


_decode = msgspec.json.Decoder(Listing).decode


def encode(stream: str, mark: str, added: Sequence[FileFacts], removed: Sequence[str] = ()) -> bytes:
    """The bytes of one manifest."""
    entries = sorted((_entry(facts) for facts in added), key=lambda entry: (entry.first, entry.name))
    listing = Listing(VERSION, stream, mark, entries, sorted(removed))
    return msgspec.json.encode(listing) + b"\n"


def _entry(facts: FileFacts) -> Entry:
    return Entry(
        name=facts.name,
        partition="" if is_errors(facts.partition) else facts.partition,
        kind=facts.kind,
        records=facts.records,
        size=facts.size,
        crc32=facts.crc,
        first=facts.first,
        last=facts.last,
        opened_at=facts.opened_at,
        format=facts.format,
        compression=facts.compression,
        generation=facts.generation,
    )


def folder(stream: str) -> str:
    """Where the manifests of a stream lie. ObjectRefused for a stream whose name makes no folder."""
    under = f"{FOLDER}{stream}/"
    check_name(under + "x")
    return under


def manifest_name(stream: str, *, first: int, last: int, id: int, store_id: str, boot: int | None = None) -> str:
    """The name of one manifest; no two of a store share one. `boot`: where ids start anew with every boot."""
    boots = "" if boot is None else f"b{boot}-"
    return f"{folder(stream)}{boots}{first:012d}-{last:012d}-{id}-{store_mark(store_id)}.json"


def mark_of(name: str) -> str:
    """The mark of the store whose manifest has this name."""
    return name.removesuffix(".json").rpartition("-")[2]


def manifest_object(segment: Segment, objects: Sequence[ObjectFacts]) -> Object:
    """What tells readers of a segment's objects, once they are in the sink."""
    facts = facts_of(segment, objects, segment.sealed_at)
    return Object(segment.manifest_name, [encode(segment.stream, mark_of(segment.manifest_name), facts)])


def facts_of(segment: Segment, objects: Sequence[ObjectFacts], delivered_at: float) -> list[FileFacts]:
    """What the catalogue remembers of a segment's objects."""
    return [_facts(segment, written, delivered_at) for written in objects]


def _facts(segment: Segment, written: ObjectFacts, delivered_at: float) -> FileFacts:
    misfits = written.name == segment.errors_name
    packed = "none" if misfits and segment.format in COLUMNAR else segment.compression
    return FileFacts(
        name=written.name,
        partition=segment.partition,
        kind="errors" if misfits or is_errors(segment.partition) else "rows",
        first=segment.first,
        last=segment.last,
        records=written.records,
        size=written.size,
        crc=written.crc,
        raw_size=written.raw_size,
        format="jsonl" if misfits else segment.format,
        compression=packed,
        shape=0 if misfits else shape_of(segment.delimiter, segment.columns),
        opened_at=segment.opened_at,
        delivered_at=delivered_at,
    )


def shape_of(delimiter: bytes, columns: tuple[Column, ...]) -> int:
    """Equal for files whose rows look alike."""
    return crc32(_shape((delimiter, columns)))


_shape = msgspec.msgpack.Encoder().encode
