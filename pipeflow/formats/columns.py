"""The columns of a csv, Parquet or ORC stream: from the fields of its payload type, or as the declaration gives them.

A field that has a default or may be null is null where its key is missing; any other is required. What a column has no
type for is kept as JSON text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Final, TypeAlias

import msgspec
from msgspec import inspect
from msgspec.structs import replace

from pipeflow.codecs import type_name
from pipeflow.errors import ConfigurationError
from pipeflow.formats.rows import SCALARS
from pipeflow.messages import Column
from pipeflow.specs import COLUMNAR

_Object: TypeAlias = inspect.StructType | inspect.DataclassType | inspect.TypedDictType
_OBJECTS: Final = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
_NOT_NULL: Final = re.compile(r"\s+not\s+null\Z", re.IGNORECASE)
_LIST: Final = re.compile(r"list<(.+)>\Z")
_DECIMAL: Final = re.compile(r"decimal\(\s*([0-9]+)\s*,\s*([0-9]+)\s*\)\Z")
_PRECISION: Final = 38

_SIMPLE: Final[dict[type[inspect.Type], str]] = {
    inspect.BoolType: "bool",
    inspect.IntType: "int64",
    inspect.FloatType: "float64",
    inspect.StrType: "string",
    inspect.BytesType: "binary",
    inspect.ByteArrayType: "binary",
    inspect.MemoryViewType: "binary",
    inspect.DateType: "date",
    inspect.DateTimeType: "timestamp",
    # As text, which is how JSON has them: exact, and nothing to configure.
    inspect.TimeType: "string",
    inspect.TimeDeltaType: "string",
    inspect.UUIDType: "string",
    inspect.DecimalType: "string",
}

_FLAT: Final = frozenset(
    {*_SIMPLE.values(), "int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64"} - {"binary"}
)

_COLLECTIONS: Final = (inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.VarTupleType)


def columns_for(
    kind: object,
    format: str,
    *,
    columns: Sequence[str] | None = None,
    schema: Mapping[str, str] | None = None,
    place: str = "",
) -> tuple[Column, ...]:
    """What a stream of this type writes; none where its format has no columns. `place` begins every error."""
    if columns is not None and format != "csv":
        raise ConfigurationError(f"{place}: columns=[...] is for format='csv'; format is {format!r}")
    if schema is not None and format not in COLUMNAR:
        raise ConfigurationError(f"{place}: schema={{...}} is for format='parquet' and 'orc'; format is {format!r}")
    if format in COLUMNAR:
        found = _given(schema, place) if schema is not None else _of_type(kind, "schema={'name': 'type'}", place)
        return _signed(found, place) if format == "orc" else found
    if format != "csv":
        return ()
    if isinstance(columns, str):
        raise ConfigurationError(f"{place}: columns is {columns!r}; write a list: columns=[{columns!r}]")
    if columns is None:
        return tuple(map(_flat, _of_type(kind, "columns=['name', ...]", place)))
    return _named(columns, kind, place)


def flat(columns: Sequence[Column]) -> bool:
    """Whether Arrow's own reader of JSON takes such columns, without the interpreter: see `arrow_json`."""
    return all(column.type in _FLAT for column in columns)


def _signed(columns: tuple[Column, ...], place: str) -> tuple[Column, ...]:
    for column in columns:
        if column.type.startswith("uint"):
            raise ConfigurationError(
                f"{place}: column {column.name!r} is {column.type}, and ORC has no unsigned numbers; use int64, or "
                "decimal(20,0) for those beyond it"
            )
        _signed(column.fields, place)
    return columns


def _named(names: Sequence[str], kind: object, place: str) -> tuple[Column, ...]:
    """These columns, as the payload type has them; with their JSON text where it has no fields."""
    described = _described(kind, place)
    if described is None:
        return tuple(Column(name, "json") for name in names)
    known = {column.name: _flat(column) for column in _fields(described, ())}
    for name in names:
        if name not in known:
            raise ConfigurationError(f"{place}: {type_name(kind)} has no {name!r}; columns can be {', '.join(known)}")
    return tuple(known[name] for name in names)


def _flat(column: Column) -> Column:
    return replace(column, type="json", required=False, fields=()) if column.fields else column


def _given(schema: Mapping[str, str], place: str) -> tuple[Column, ...]:
    return tuple(_parsed(name, text.strip(), place) for name, text in schema.items())


def _parsed(name: str, text: str, place: str, inner: bool = False) -> Column:
    """A column from its name and the text of its type, such as `int64`, `string not null` or `list<decimal(10,2)>`."""
    kind = _NOT_NULL.sub("", text)
    required = kind != text
    if kind == "json" and (required or inner):
        raise ConfigurationError(f"{place}: column {name!r}: json takes null too, and is a whole column")
    if kind in SCALARS:
        return Column(name, kind, required)
    if found := _LIST.match(kind):
        return Column(name, "list", required, fields=(_parsed("element", found[1].strip(), place, inner=True),))
    if found := _DECIMAL.match(kind):
        precision, scale = int(found[1]), int(found[2])
        if 1 <= precision <= _PRECISION and scale <= precision:
            return Column(name, f"decimal({precision},{scale})", required)
        raise ConfigurationError(f"{place}: column {name!r}: {kind}: use a precision of 1 to 38 and a smaller scale")
    raise ConfigurationError(
        f"{place}: column {name!r} is {text!r}; use {', '.join(SCALARS)}, decimal(10,2) or list<...>, "
        "with `not null` behind it where a record without it does not fit"
    )


# From types


def _of_type(kind: object, remedy: str, place: str) -> tuple[Column, ...]:
    described = _described(kind, place)
    if described is None:
        raise ConfigurationError(
            f"{place}: {type_name(kind)} has no fields to make columns of; give {remedy}, or use a msgspec.Struct, "
            "a dataclass or a TypedDict"
        )
    return tuple(_fields(described, ()))


def _described(kind: object, place: str) -> _Object | None:
    try:
        found = inspect.type_info(kind)
    except NameError as error:
        raise ConfigurationError(f"{place}: {type_name(kind)} has a field of an unknown type: {error}") from error
    except TypeError:
        return None
    return found if isinstance(found, _OBJECTS) and not _is_array(found) else None


def _is_array(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.StructType) and kind.array_like


def _fields(kind: _Object, above: tuple[type, ...]) -> Iterator[Column]:
    omits = isinstance(kind, inspect.StructType) and kind.cls.__struct_config__.omit_defaults
    for field in kind.fields:
        inner, nullable = _without_null(field.type)
        column = _column(field.encode_name, inner, (*above, kind.cls))
        required = field.required and not nullable and column.type != "json"
        yield replace(column, required=required, default=_default(field) if omits else b"")


def _default(field: inspect.Field) -> bytes:
    """What a key that was left out because it had its default stands for."""
    if field.default is None:
        return b""
    if field.default is not msgspec.NODEFAULT:
        return msgspec.json.encode(field.default)
    if field.default_factory in (list, dict, set, frozenset, tuple):
        return msgspec.json.encode(field.default_factory())
    return b""  # msgspec leaves out nothing else


def _without_null(kind: inspect.Type) -> tuple[inspect.Type, bool]:
    """(the type without None, whether it had it)."""
    if isinstance(kind, inspect.Metadata):
        return _without_null(kind.type)
    if not isinstance(kind, inspect.UnionType):
        return kind, isinstance(kind, inspect.NoneType | inspect.AnyType)
    rest = tuple(each for each in kind.types if not isinstance(each, inspect.NoneType))
    return (rest[0] if len(rest) == 1 else inspect.UnionType(rest)), len(rest) < len(kind.types)


def _column(name: str, kind: inspect.Type, above: tuple[type, ...]) -> Column:
    try:
        return _typed(name, kind, above)
    except _NoColumn:
        return Column(name, "json")


class _NoColumn(Exception):
    """Nothing but JSON text holds every value of the type."""


def _typed(name: str, kind: inspect.Type, above: tuple[type, ...]) -> Column:
    if isinstance(kind, inspect.Metadata):
        return _typed(name, kind.type, above)
    if type(kind) in _SIMPLE:
        return Column(name, _SIMPLE[type(kind)])
    if isinstance(kind, inspect.UnionType):
        if {type(each) for each in kind.types} == {inspect.IntType, inspect.FloatType}:
            return Column(name, "float64")
        raise _NoColumn
    if isinstance(kind, inspect.EnumType | inspect.LiteralType):
        return Column(name, _choice(kind))
    if isinstance(kind, _COLLECTIONS):
        return Column(name, "list", fields=(_part("element", kind.item_type, above),))
    if isinstance(kind, inspect.DictType):
        return Column(name, "map", fields=(_part("value", kind.value_type, above),))
    if isinstance(kind, _OBJECTS):
        return Column(name, "struct", fields=_nested(kind, above))
    raise _NoColumn


def _nested(kind: _Object, above: tuple[type, ...]) -> tuple[Column, ...]:
    if kind.cls in above or _is_array(kind):
        raise _NoColumn  # it contains itself, or is a list in JSON
    fields = tuple(_fields(kind, above))
    if not fields or any(field.type == "json" or field.default for field in fields):
        raise _NoColumn
    return fields


def _part(name: str, kind: inspect.Type, above: tuple[type, ...]) -> Column:
    inner, nullable = _without_null(kind)
    return replace(_typed(name, inner, above), required=not nullable)


def _choice(kind: inspect.EnumType | inspect.LiteralType) -> str:
    if isinstance(kind, inspect.EnumType):
        values = [each.value for each in kind.cls if isinstance(each, Enum)]
    else:
        values = list(kind.values)
    if all(isinstance(value, str) for value in values):
        return "string"
    if all(type(value) is int for value in values):
        return "int64"
    raise _NoColumn
