"""Columns of csv and parquet streams: what a payload type or a declaration makes of them."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec
import pytest

from pipeflow.errors import ConfigurationError
from pipeflow.formats.columns import columns_for
from pipeflow.messages import Column


class Colour(enum.Enum):
    RED = "red"


class Item(msgspec.Struct):
    sku: str
    count: int | None = None


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []


class Order(msgspec.Struct, rename="camel"):
    order_id: int
    total: float | None
    items: list[Item]
    at: datetime.datetime
    day: datetime.date
    price: decimal.Decimal
    id: uuid.UUID
    colour: Colour
    level: Literal[1, 2]
    blob: bytes
    tags: dict[str, int]
    either: int | str
    size: Annotated[int, msgspec.Meta(ge=0)] = 0


class Thin(msgspec.Struct, omit_defaults=True):
    id: int
    state: str = "new"
    tags: list[str] = []
    note: str | None = None


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Pair(TypedDict):
    a: str
    b: NotRequired[bool]


def parquet(kind: object, **options: object) -> tuple[Column, ...]:
    return columns_for(kind, "parquet", place="app.py:3: stream lake", **options)  # type: ignore[arg-type]


def test_columns_come_from_the_fields_of_the_payload_type_under_the_names_they_have_in_json() -> None:
    element = Column("element", "struct", True, fields=(Column("sku", "string", True), Column("count", "int64")))
    assert parquet(Order) == (
        Column("orderId", "int64", True),
        Column("total", "float64"),
        Column("items", "list", True, fields=(element,)),
        Column("at", "timestamp", True),
        Column("day", "date", True),
        Column("price", "string", True),
        Column("id", "string", True),
        Column("colour", "string", True),
        Column("level", "int64", True),
        Column("blob", "binary", True),
        Column("tags", "map", True, fields=(Column("value", "int64", True),)),
        Column("either", "json"),
        Column("size", "int64"),
    )


def test_dataclasses_and_typed_dicts_have_columns_too() -> None:
    assert parquet(Point) == (Column("x", "int64", True), Column("y", "int64"))
    assert parquet(Pair) == (Column("a", "string", True), Column("b", "bool"))


def test_a_type_that_contains_itself_becomes_json_text() -> None:
    assert parquet(Tree) == (Column("name", "string", True), Column("children", "json"))


def test_a_key_that_is_left_out_because_it_has_its_default_keeps_its_default() -> None:
    _, state, tags, note = parquet(Thin)
    assert (state.default, tags.default, note.default) == (b'"new"', b"[]", b"")


def test_nested_values_of_a_csv_are_json_text() -> None:
    columns = {column.name: column for column in columns_for(Order, "csv")}
    assert columns["items"] == Column("items", "json")
    assert columns["orderId"] == Column("orderId", "int64", True)


def test_columns_choose_and_order_those_of_the_type() -> None:
    assert columns_for(Point, "csv", columns=["y", "x"]) == (Column("y", "int64"), Column("x", "int64", True))
    assert columns_for(bytes, "csv", columns=["y"]) == (Column("y", "json"),)
    with pytest.raises(ConfigurationError, match="Point has no 'z'; columns can be x, y"):
        columns_for(Point, "csv", columns=["z"])


def test_a_schema_names_types() -> None:
    schema = {"id": "int64 not null", "price": "decimal(10, 2)", "tags": "list<string>", "rest": "json"}
    assert parquet(bytes, schema=schema) == (
        Column("id", "int64", True),
        Column("price", "decimal(10,2)"),
        Column("tags", "list", fields=(Column("element", "string"),)),
        Column("rest", "json"),
    )


@pytest.mark.parametrize("wrong", ["int", "", "list<json>", "decimal(39,2)", "decimal(2,3)", "json not null", "list<>"])
def test_a_type_that_does_not_exist_is_refused_with_place_and_column(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"app\.py:3: stream lake: column '(id|element)'"):
        parquet(bytes, schema={"id": wrong})


def test_what_a_format_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="format='csv'"):
        parquet(Point, columns=["x"])
    with pytest.raises(ConfigurationError, match="format='parquet'"):
        columns_for(Point, "csv", schema={"x": "int64"})
    with pytest.raises(ConfigurationError, match=r"app.py:1: columns is 'id'; write a list: columns=\['id'\]"):
        columns_for(bytes, "csv", columns="id", place="app.py:1")
    with pytest.raises(ConfigurationError, match="bytes has no fields to make columns of; give schema="):
        parquet(bytes)
    with pytest.raises(ConfigurationError, match="columns="):
        columns_for(dict[str, int], "csv")
    assert columns_for(Point, "jsonl") == ()


def test_a_type_that_names_what_is_not_there_is_refused_with_that_name() -> None:
    lost = msgspec.defstruct("Lost", [("at", "Nowhere")])
    with pytest.raises(ConfigurationError, match=r"Lost has a field of an unknown type: .*Nowhere"):
        parquet(lost)
