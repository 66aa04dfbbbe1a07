"""Payloads to bytes and back, and one error for all that goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict

import msgspec
import pytest

from pipeflow.codecs import codec_for
from pipeflow.errors import CodecError, ConfigurationError


class Order(msgspec.Struct, frozen=True):
    id: str
    total: int = 0


@dataclass
class Point:
    x: float
    at: datetime


class Row(TypedDict):
    name: str


class Model:
    """Speaks for itself the way a pydantic model does."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.n == self.n

    def model_dump(self, *, mode: str) -> object:
        return {"n": self.n}

    def model_dump_json(self) -> str:
        return f'{{"n":{self.n}}}'

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        if not isinstance(value.get("n"), int):
            raise ValueError("n: not an int")
        return cls(value["n"])

    @classmethod
    def model_validate_json(cls, text: bytes) -> Model:
        return cls.model_validate(msgspec.json.decode(text))


@dataclass
class Wrapped:
    model: Model


class Foreign:
    pass


PAYLOADS: list[tuple[Any, object]] = [
    (Order, Order("1", 5)),
    (Point, Point(1.5, datetime(2013, 1, 1, tzinfo=UTC))),
    (Row, {"name": "a"}),
    (dict[str, list[int]], {"a": [1, 2]}),
    (Order | int, Order("1")),
    (Order | int, 7),
    (str, "ünïcode"),
    (int, 5),
    (float, 2.5),
    (bool, True),
    (None, None),
    (Model, Model(3)),
    (Wrapped, Wrapped(Model(3))),
    (list[Model], [Model(1), Model(2)]),
]


@pytest.mark.parametrize("name", ["json", "msgpack"])
@pytest.mark.parametrize(("kind", "value"), PAYLOADS)
def test_what_is_encoded_decodes_to_an_equal_value(kind: Any, value: object, name: str) -> None:
    codec = codec_for(kind, name)
    body = codec.encode(value)
    assert isinstance(body, bytes)
    assert codec.decode(body) == value


def test_json_is_the_default_and_says_so() -> None:
    codec = codec_for(Order)
    assert codec.encode(Order("1", 5)) == b'{"id":"1","total":5}'
    assert codec.name == "json"
    assert codec.content_type == "application/json"
    assert codec_for(Order, "msgpack").content_type == "application/msgpack"
    assert repr(codec) == "codec_for(Order, 'json')"


@pytest.mark.parametrize("name", ["json", "msgpack", "raw"])
def test_bytes_are_always_themselves(name: str) -> None:
    codec = codec_for(bytes, name)
    assert codec.name == "raw"
    assert codec.decode(codec.encode(b"\xff\x00")) == b"\xff\x00"
    assert codec.encode(bytearray(b"ab")) == b"ab"  # type: ignore[arg-type]  # what a caller without types may do
    with pytest.raises(CodecError, match="str does not encode as raw of bytes"):
        codec.encode("text")  # type: ignore[arg-type]  # as above


def test_raw_text_is_utf8() -> None:
    codec = codec_for(str, "raw")
    assert codec.encode("ü") == "ü".encode()
    assert codec.decode("ü".encode()) == "ü"
    with pytest.raises(CodecError, match="body is no raw of str"):
        codec.decode(b"\xff")
    with pytest.raises(CodecError, match="give str"):
        codec.encode(b"x")  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize("body", [b"", b"{", b'{"id": 5}', b"{}", b"\xff", b'{"id": "\xff"}', b"[" * 5000])
def test_a_body_that_does_not_decode_is_one_error_that_names_the_type(body: bytes) -> None:
    with pytest.raises(CodecError, match="body is no json of Order"):
        codec_for(Order).decode(body)


def test_the_error_names_the_place_in_the_payload() -> None:
    with pytest.raises(CodecError, match=r"Expected `int`, got `str` - at `\$\[0\]\.total`"):
        codec_for(list[Order]).decode(b'[{"id": "1", "total": "x"}]')


def test_a_value_that_does_not_encode_is_one_error_that_names_both_types() -> None:
    with pytest.raises(CodecError, match=r"list does not encode as json of .*Order.*: Foreign inside it"):
        codec_for(list[Order]).encode([Foreign()])  # type: ignore[list-item]  # as somebody without mypy does
    with pytest.raises(CodecError, match="dict does not encode"):
        codec_for(dict[str, str]).encode({"a": "\ud800"})


@pytest.mark.parametrize("name", ["json", "msgpack"])
@pytest.mark.parametrize("kind", [Order, Model, Point])
def test_a_value_of_another_class_is_refused_though_it_would_encode(kind: Any, name: str) -> None:
    codec = codec_for(kind, name)
    for other in ({"id": "1", "total": 5}, Foreign(), None):
        with pytest.raises(CodecError, match=f"{type(other).__name__} is no {kind.__name__}"):
            codec.encode(other)


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_a_model_that_refuses_is_a_codec_error(name: str) -> None:
    body = codec_for(dict[str, str], name).encode({"n": "x"})
    for kind in (Model, list[Model]):
        with pytest.raises(CodecError, match="Model"):
            codec_for(kind, name).decode(body)


def test_a_type_that_cannot_be_a_payload_is_refused_before_the_first_message() -> None:
    with pytest.raises(ConfigurationError, match=r"Foreign cannot be a payload: use a msgspec\.Struct"):
        codec_for(Foreign)
    with pytest.raises(ConfigurationError, match="Order cannot be a raw payload: use bytes or str"):
        codec_for(Order, "raw")
    with pytest.raises(ConfigurationError, match="codec 'yaml' for Order: use json, msgpack, raw"):
        codec_for(Order, "yaml")


def test_H44_of_duplicate_keys_in_a_body_the_last_counts() -> None:
    assert codec_for(Order).decode(b'{"id": "1", "id": "2"}') == Order("2")
