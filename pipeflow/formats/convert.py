"""From a sealed segment to its objects: one as it came, or a csv, Parquet or ORC object and beside it what did not fit.

Deterministic like `encode`: an error object tells the times of acceptance and of sealing, which are frozen with the
segment, so a segment that is written again gives the same objects under the same names.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from pipeflow.errors import MissingExtra
from pipeflow.formats.compress import compressor
from pipeflow.formats.encode import encode, packed, sealed
from pipeflow.formats.rows import Reading
from pipeflow.messages import Column, Manifest, ObjectFacts, Records, Segment
from pipeflow.protocols import Object, RecordBatch
from pipeflow.specs import COLUMNAR, TABULAR, StreamSpec

MESSAGE_LIMIT = 8_192
"""Characters of an error that are kept with the record."""


class Converted(Struct):
    """The objects of one segment in the order of their writing, and what the manifest will say of them."""

    objects: list[Object]
    manifest: Manifest
    batches: Sequence[RecordBatch] = ()
    """Instead of objects, for a sink that takes records."""


class _Misfit(Struct, frozen=True):
    """A record that did not fit, as it lies in the error object (Firehose: S62)."""

    attemptsMade: int
    arrivalTimestamp: int
    lastErrorCode: str
    lastErrorMessage: str
    attemptEndingTimestamp: int
    rawData: str
    sequenceNumber: str
    subSequenceNumber: None = None
    dataCatalogTable: None = None


def ready(spec: StreamSpec) -> None:
    """MissingExtra, naming the stream, when the package for its format or compression is not installed."""
    try:
        if spec.format in COLUMNAR:
            _writer(spec.format)  # takes its time once, and says what is missing
        else:
            compressor(spec.compression, spec.compression_level)
    except MissingExtra as error:
        what = f"format={spec.format!r}" if spec.format in COLUMNAR else error.what
        raise MissingExtra(f"stream {spec.name}: {what}", error.extra) from error


def convert(segment: Segment, blocks: Sequence[Records], replace: bool = True) -> Converted:
    """The segment's objects. For worker threads: it takes its time."""
    if segment.format not in TABULAR:
        obj, facts = encode(segment, blocks, replace)
        return Converted([obj], Manifest([facts]))
    reading = Reading(segment.columns, blocks)
    content, rows, raw_size = _content(segment, reading)
    made: list[tuple[Object, ObjectFacts]] = []
    if rows:
        made.append(sealed(segment.name, content, rows, replace, raw_size))
    if reading.misfits:
        content, raw_size = _errors(segment, reading)
        made.append(sealed(segment.errors_name, content, len(reading.misfits), replace, raw_size))
    return Converted([obj for obj, _ in made], Manifest([facts for _, facts in made], len(reading.misfits)))


def _content(segment: Segment, reading: Reading) -> tuple[bytes, int, int]:
    """(the object, its rows, their bytes before compression; those of columnar files as they were buffered)."""
    if segment.format == "csv":
        from pipeflow.formats.csv_text import csv_text

        content, rows = csv_text(segment.columns, reading)
        return packed(segment, segment.name, content), rows, len(content)
    write = _writer(segment.format)
    return *write(segment.columns, segment.compression, segment.compression_level, reading), segment.size


def _writer(format: str) -> Callable[[tuple[Column, ...], str, int | None, Reading], tuple[bytes, int]]:
    """How rows become a columnar file."""
    if format == "orc":
        from pipeflow.formats.orc import orc_file

        return orc_file
    from pipeflow.formats.parquet import parquet_file

    return parquet_file


def _errors(segment: Segment, reading: Reading) -> tuple[bytes, int]:
    lines = [
        msgspec.json.encode(
            _Misfit(
                attemptsMade=1,
                arrivalTimestamp=round(at * 1000),
                lastErrorCode=f"DataFormatConversion.{misfit.code}",
                lastErrorMessage=misfit.reason[:MESSAGE_LIMIT],
                attemptEndingTimestamp=round(segment.sealed_at * 1000),
                rawData=b64encode(body).decode(),
                sequenceNumber=str(sequence),
            )
        )
        for sequence, at, body, misfit in reading.misfit_records()
    ]
    lines.append(b"")
    content = b"\n".join(lines)
    inside = segment.format in COLUMNAR
    return (content if inside else packed(segment, segment.errors_name, content)), len(content)
