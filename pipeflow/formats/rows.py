"""From records to rows: each is read by the columns of its stream, and one that does not fit them is set aside whole.

Unknown keys are ignored and missing ones are null (Firehose: S66); a record of several JSON documents is several rows
(S65). Rows come in slices, so that they are never all in memory as Python objects. What a slice holds depends on the
records alone, not on how they were accepted: the same segment gives the same rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cache, partial
from operator import attrgetter
from types import GenericAlias
from typing import Annotated, Any, Final, NotRequired, Optional, Required, TypedDict

import msgspec
from msgspec import Meta, Raw, Struct

from pipeflow.messages import Column, Records

SLICE = 2_000
"""Rows read at once, at most ..."""

SLICE_BYTES = 4 << 20
"""... and bytes of JSON, about."""

NULL: Final = b"null"


class Misfit(Struct, frozen=True):
    """Why a record is no row."""

    code: str
    reason: str


class Slice(Struct):
    """Rows, and for each the index of the record that it comes from."""

    rows: list[object]
    owners: Sequence[int]


class Reading:
    """The records of one segment, read once from first to last; `misfits` by their index when it is through."""

    def __init__(self, columns: tuple[Column, ...], blocks: Sequence[Records]) -> None:
        self.getters = [attrgetter(f"f{n}") for n in range(len(columns))]
        self.misfits: dict[int, Misfit] = {}
        self._decoder = decoder(columns)
        self._blocks = [block for block in blocks if block.bodies]
        self._bodies = [body for block in self._blocks for body in block.bodies]

    def slices(self) -> Iterator[Slice]:
        """Rows in order of acceptance."""
        for start, bodies in self.pieces():
            yield self.slice(start, bodies)

    def pieces(self, most: int = SLICE) -> Iterator[tuple[int, Sequence[bytes]]]:
        """(index of the first, records of one slice), in order of acceptance; at most so many records in each."""
        bodies = self._bodies
        average = sum(map(len, bodies)) // (len(bodies) or 1) + 1
        step = max(1, min(most, SLICE_BYTES // average))
        for start in range(0, len(bodies), step):
            yield start, bodies[start : start + step]

    def refuse(self, part: Slice, bad: Mapping[int, str]) -> Slice:
        """The slice without the records of these rows; the reasons are kept."""
        for row, reason in bad.items():
            self.misfits.setdefault(part.owners[row], Misfit("MalformedData", reason))
        kept = [(row, owner) for row, owner in zip(part.rows, part.owners, strict=True) if owner not in self.misfits]
        return Slice([row for row, _ in kept], [owner for _, owner in kept])

    def misfit_records(self) -> Iterator[tuple[int, float, bytes, Misfit]]:
        """(sequence, time of acceptance, record, what is wrong with it), in order."""
        starts: list[int] = []
        total = 0
        for block in self._blocks:
            starts.append(total)
            total += len(block.bodies)
        for index, misfit in sorted(self.misfits.items()):
            place = bisect_right(starts, index) - 1
            block = self._blocks[place]
            yield block.first + index - starts[place], block.at, self._bodies[index], misfit

    def slice(self, start: int, bodies: Sequence[bytes]) -> Slice:
        """The rows of these records; those that are none are set aside."""
        decode = self._decoder.decode
        try:
            return Slice([decode(body) for body in bodies], range(start, start + len(bodies)))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return self._one_by_one(start, bodies)

    def _one_by_one(self, start: int, bodies: Sequence[bytes]) -> Slice:
        rows: list[object] = []
        owners: list[int] = []
        for index, body in enumerate(bodies, start):
            try:
                found = self._documents(body)
            except msgspec.ValidationError as error:
                self.misfits[index] = Misfit("MalformedData", str(error))
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                self.misfits[index] = Misfit("ParseError", str(error))
            else:
                rows += found
                owners += [index] * len(found)
        return Slice(rows, owners)

    def _documents(self, body: bytes) -> list[object]:
        try:
            return [self._decoder.decode(body)]
        except msgspec.ValidationError:
            raise  # one document, and it does not fit
        except msgspec.DecodeError:
            found = self._decoder.decode_lines(body)
            if not found:
                raise
            return found


@cache
def decoder(columns: tuple[Column, ...]) -> msgspec.json.Decoder[Any]:
    """Reads one record as an object whose attributes f0, f1 and so on are the columns."""
    fields: list[tuple[str, Any, Any]] = []
    for n, column in enumerate(columns):
        kind = _kind(column, top=True)
        if column.required:
            fields.append((f"f{n}", kind, msgspec.NODEFAULT))
        elif column.type == "json":
            fields.append((f"f{n}", kind, msgspec.field(default_factory=partial(Raw, column.default or NULL))))
        else:
            kind = Optional[kind]  # noqa: UP045  # a type made at run time
            missing = partial(msgspec.json.Decoder(kind).decode, column.default or NULL)
            fields.append((f"f{n}", kind, msgspec.field(default_factory=missing) if column.default else None))
    names = {f"f{n}": column.name for n, column in enumerate(columns)}
    row = msgspec.defstruct("Row", fields, kw_only=True, rename=names, gc=False)
    return msgspec.json.Decoder(row)


_KINDS: Final[dict[str, Any]] = {
    "bool": bool,
    **{f"int{bits}": Annotated[int, Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)] for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": Annotated[int, Meta(ge=0, le=2**bits - 1)] for bits in (8, 16, 32)},
    "uint64": Annotated[int, Meta(ge=0)],
    "float32": float,
    "float64": float,
    "string": str,
    "binary": bytes,
    "date": date,
    "timestamp": datetime,
    "json": Raw,
}

SCALARS: Final = tuple(_KINDS)
"""Names of the types that take nothing else."""


def _kind(column: Column, top: bool = False) -> Any:
    """The Python type that a value of this column is read as."""
    if column.type == "timestamp" and top:
        return datetime | int | float  # seconds or milliseconds since 1970 are accepted too (Firehose: S64)
    if column.type in _KINDS:
        return _KINDS[column.type]
    if column.type == "list":
        return GenericAlias(list, (_nullable(column.fields[0]),))
    if column.type == "map":
        return GenericAlias(dict, (str, _nullable(column.fields[0])))
    if column.type == "struct":
        keys = {
            field.name: Required[_kind(field)] if field.required else NotRequired[_nullable(field)]
            for field in column.fields
        }
        return TypedDict("Nested", keys)  # type: ignore[operator]
    return Decimal


def _nullable(column: Column) -> Any:
    kind = _kind(column)
    return kind if column.required else Optional[kind]  # noqa: UP045  # a type made at run time
