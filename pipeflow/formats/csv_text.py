"""Rows as RFC 4180: a header line per object, quotes where they are needed, CRLF at the end of each line.

A string is its text, null is nothing, everything else is its JSON text; numbers of `json` columns stay as they came.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw

from pipeflow.formats.rows import NULL, Reading
from pipeflow.messages import Column

_text = msgspec.json.Decoder(str).decode
_json = msgspec.json.Encoder().encode


def csv_text(columns: tuple[Column, ...], reading: Reading) -> tuple[bytes, int]:
    """(the object, its rows); no rows, no header either."""
    out = io.BytesIO()  # as bytes: text in memory may take four times as much
    out.write(_lines([[column.name for column in columns]]))
    written = 0
    for part in reading.slices():
        cells: list[list[object]] = []
        bad: dict[int, str] = {}
        for n, row in enumerate(part.rows):
            try:
                cells.append([cell(get(row)) for get in reading.getters])
            except (msgspec.MsgspecError, ValueError) as error:  # text inside a `json` value that is no UTF-8
                bad[n] = str(error)
                cells.append([])
        if bad:
            kept = set(reading.refuse(part, bad).owners)
            cells = [line for line, owner in zip(cells, part.owners, strict=True) if owner in kept]
        out.write(_lines(cells))
        written += len(cells)
    return (out.getvalue() if written else b""), written


def _lines(cells: Iterable[Sequence[object]]) -> bytes:
    lines = io.StringIO(newline="")
    csv.writer(lines).writerows(cells)
    return lines.getvalue().encode()


def cell(value: object) -> object:
    """A value as the csv module writes it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Raw):
        raw = bytes(value)
        if raw == NULL:
            return None
        return _text(raw) if raw.startswith(b'"') else raw.decode()
    simple = msgspec.to_builtins(value)
    return simple if isinstance(simple, str) else _json(simple).decode()
