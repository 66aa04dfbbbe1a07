"""What a record holds once it is unpacked: decompressed, then split, then of log documents the messages (S19).

Pure: a record gives its parts in their order, or `Unpackable` says what is wrong with it. Nothing that is put makes it
take more memory than its bounds, or more time than its size.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
from msgspec import Struct

from pipeflow.specs import StreamSpec

Unpack: TypeAlias = Callable[[bytes], list[bytes]]
"""The parts of one record; Unpackable when it is not what the stream was told it is."""

MOST_PARTS = 500
"""A record of more parts is not split (Firehose: S20)."""

RATIO = 100
FREE = 1 << 20
"""Beyond so many bytes, more than `RATIO` for each compressed one is an attack; gzip can make 1,028 of one."""

MEMBERS = 1_000
"""Files joined in one record; each costs a decompressor, however little is in it."""

_WINDOW = 64 << 10


class Unpackable(Exception):
    """A record that does not unpack: it goes to the error output as it came (Firehose: S22)."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = f"Decompression.{code}"


def unpacker(spec: StreamSpec) -> Unpack | None:
    """What the stream's options make of a record; None: it is taken as it is."""
    if not spec.unpacks:
        return None
    split = _splitter(spec)

    def unpack(body: bytes) -> list[bytes]:
        if spec.decompress is not None:
            body = gunzip(body, spec.max_record)
        parts = [body] if split is None else split(body)
        return [line for part in parts for line in messages(part)] if spec.log_messages else parts

    return unpack


def unpack_all(unpack: Unpack, bodies: Sequence[bytes], limit: int) -> list[list[bytes] | Unpackable]:
    """What became of each record in turn, until what came of them has more bytes than `limit`. For worker threads."""
    found: list[list[bytes] | Unpackable] = []
    for body in bodies:
        try:
            parts = unpack(body)
        except Unpackable as error:
            found.append(error)
            continue
        found.append(parts)
        limit -= sum(map(len, parts))
        if limit < 0:
            break
    return found


def _splitter(spec: StreamSpec) -> Unpack | None:
    if spec.split == "json":
        return split_json
    if spec.split == "delimiter":
        return lambda body: split_at(body, spec.split_delimiter)
    return None


# Decompressing


def gunzip(body: bytes, limit: int) -> bytes:
    """One layer of gzip, of one file or several joined; Unpackable beyond `limit` bytes or the ratio."""
    made: list[bytes] = []
    size = at = members = 0
    view = memoryview(body)
    while not members or at < len(body):
        if at and body[at] == 0 and not body[at:].strip(b"\0"):
            break  # padding, as tapes have it
        members += 1
        if members > MEMBERS:
            raise Unpackable("TooLarge", f"more than {MEMBERS} gzip files are joined in it; join fewer")
        stream = zlib.decompressobj(wbits=31)
        while not stream.eof:
            fed: bytes | memoryview = stream.unconsumed_tail
            if not fed:
                fed = view[at : at + _WINDOW]
                at += len(fed)
            try:
                piece = stream.decompress(fed, min(FREE, limit - size + 1))
            except zlib.error as error:
                raise Unpackable("InvalidGzip", f"it is no gzip: {error}") from None
            if not fed and not piece and not stream.eof:
                raise Unpackable("InvalidGzip", "its gzip ends early")
            size += len(piece)
            made.append(piece)
            _check_size(size, len(body), limit)
        at -= len(stream.unused_data)
    return made[0] if len(made) == 1 else b"".join(made)


def _check_size(size: int, packed: int, limit: int) -> None:
    if size > limit:
        raise Unpackable("TooLarge", f"it has more than {limit} bytes unpacked: raise max_record, or put less in one")
    if size > FREE and size > RATIO * packed:
        raise Unpackable("TooLarge", f"its {packed} bytes unpack to more than {RATIO} times as many")


# Splitting

_documents = msgspec.json.Decoder(msgspec.Raw).decode_lines


def split_json(body: bytes) -> list[bytes]:
    """The JSON objects one after another in it, however they are spaced; anything else is left whole (S20, S21)."""
    try:
        found = _documents(body)
    except (msgspec.DecodeError, RecursionError):
        return [body]
    if len(found) > MOST_PARTS:
        return [body]
    parts = [bytes(document) for document in found]
    return parts if all(part[0] == 0x7B for part in parts) else [body]


def split_at(body: bytes, delimiter: bytes) -> list[bytes]:
    """What stands between the delimiters, without newlines around it; what is empty then is nothing (S20, S21)."""
    parts = [part for each in body.split(delimiter) if (part := each.strip(b"\r\n"))]
    return [body] if len(parts) > MOST_PARTS else parts


# Log documents


class _Event(Struct, frozen=True):
    message: str


class _Document(Struct, frozen=True):
    """What a subscription of CloudWatch Logs sends."""

    messageType: str
    logEvents: list[_Event] | None = None


_document = msgspec.json.Decoder(_Document).decode


def messages(body: bytes) -> list[bytes]:
    """The messages in one document of a log subscription; none in a control message (Firehose: S18, S22)."""
    try:
        document = _document(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unpackable("InvalidSource", f"it is no document of a log subscription: {error}") from None
    if document.messageType == "CONTROL_MESSAGE":
        return []
    if document.messageType != "DATA_MESSAGE" or document.logEvents is None:
        raise Unpackable(
            "InvalidSource", f"it is no document of a log subscription: messageType {document.messageType!r:.80}"
        )
    return [event.message.encode() for event in document.logEvents]
