"""Payloads to bytes and back, for one type each, compiled once.

JSON and MessagePack take what msgspec takes (Structs, dataclasses, TypedDicts, dicts, scalars) and models that speak
for themselves as pydantic's do (`model_validate`, `model_dump`). Raw takes `bytes`, and `str` as UTF-8.
Whatever goes wrong is one `CodecError` that names the type and the place in the payload.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import Final, Generic, Literal, Protocol, TypeAlias, TypeVar, cast, get_args

import msgspec

from pipeflow.errors import CodecError, ConfigurationError
from pipeflow.messages import AttributeValue

T = TypeVar("T")

CodecName: TypeAlias = Literal["json", "msgpack", "raw"]

CONTENT_TYPES: Final[dict[str, str]] = {
    "json": "application/json",
    "msgpack": "application/msgpack",
    "raw": "application/octet-stream",
}


class Codec(Generic[T]):
    """Encodes and decodes one type; both raise CodecError and nothing else."""

    __slots__ = ("name", "kind", "encode", "decode")

    def __init__(
        self, name: CodecName, kind: type[T], encode: Callable[[T], bytes], decode: Callable[[bytes], T]
    ) -> None:
        self.name = name
        self.kind = kind
        self.encode = encode
        self.decode = decode

    @property
    def content_type(self) -> str:
        """What the body is, as a header says it."""
        return CONTENT_TYPES[self.name]

    def __repr__(self) -> str:
        return f"codec_for({type_name(self.kind)}, {self.name!r})"


def codec_for(kind: type[T], name: str = "json") -> Codec[T]:
    """The codec of a type; `bytes` is always raw. ConfigurationError: no such codec, or a type it cannot take."""
    if name not in get_args(CodecName):
        raise ConfigurationError(f"codec {name!r} for {type_name(kind)}: use {', '.join(get_args(CodecName))}")
    if name == "raw" or kind is bytes:
        return _raw(kind)
    if _is_model(kind):
        return _model(kind, cast(CodecName, name))
    return _structured(kind, cast(CodecName, name))


def type_name(kind: object) -> str:
    """How messages name a type: `Order`, `list[int]`."""
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def record_type(kind: object) -> type | None:
    """The class whose instances a payload is, where that can be told: others encode as something like it."""
    if isinstance(kind, type) and (issubclass(kind, msgspec.Struct) or is_dataclass(kind) or _is_model(kind)):
        return kind
    return None


_Encode: TypeAlias = Callable[[object], bytes]
_Failures: Final = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


def _structured(kind: type[T], name: CodecName) -> Codec[T]:
    _refuse_foreign(kind)
    encoder: msgspec.json.Encoder | msgspec.msgpack.Encoder
    decoder: msgspec.json.Decoder[T] | msgspec.msgpack.Decoder[T]
    try:
        if name == "json":
            encoder = msgspec.json.Encoder(enc_hook=_dump_inner)
            decoder = msgspec.json.Decoder(kind, dec_hook=_load_inner)
        else:
            encoder = msgspec.msgpack.Encoder(enc_hook=_dump_inner)
            decoder = msgspec.msgpack.Decoder(kind, dec_hook=_load_inner)
    except (TypeError, NameError) as error:
        raise ConfigurationError(f"{type_name(kind)} cannot be a payload: {error}") from error
    return _guarded(name, kind, encoder.encode, decoder.decode)


def _guarded(name: CodecName, kind: type[T], dump: _Encode, load: Callable[[bytes], T]) -> Codec[T]:
    called, record = type_name(kind), record_type(kind)

    def encode(value: T) -> bytes:
        if record is not None and not isinstance(value, record):
            # It may well encode, and then fail where nobody sees who sent it: at whoever reads it.
            raise CodecError(f"{type(value).__name__} is no {called}, as what is sent here has to be; convert it first")
        try:
            return dump(value)
        except _Failures as error:
            raise CodecError(f"{type(value).__name__} does not encode as {name} of {called}: {error}") from error

    def decode(body: bytes) -> T:
        try:
            return load(body)
        except _Failures as error:
            raise CodecError(f"body is no {name} of {called}: {error}") from error

    return Codec(name, kind, encode, decode)


def _refuse_foreign(kind: object) -> None:
    # msgspec takes any class at first and fails on the first message; say it before there is one.
    try:
        described = msgspec.inspect.type_info(kind)
    except (TypeError, NameError) as error:
        raise ConfigurationError(f"{type_name(kind)} cannot be a payload: {error}") from error
    if isinstance(described, msgspec.inspect.CustomType):
        raise ConfigurationError(
            f"{type_name(kind)} cannot be a payload: use a msgspec.Struct, a dataclass, a TypedDict, a pydantic model, "
            "a built-in type, or bytes"
        )


# Attributes


def attributes_of(given: Mapping[str, object]) -> dict[str, AttributeValue]:
    """Attributes as stores keep them: plain text, numbers, booleans, bytes, and lists without bytes.

    Subclasses such as those of enums and numpy become what they are made of. CodecError names every other.
    """
    fit: dict[str, AttributeValue] = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise CodecError(f"attribute {name!r:.80}: names are text")
        # Encoded with the group of everybody who commits at the moment, where one that does not encode would fail all.
        fit[name] = value if type(value) is str else _attribute(name, value)
    return fit


def _attribute(name: str, value: object) -> AttributeValue:
    if isinstance(value, list | tuple):
        members = [None if member is None else _scalar(name, member) for member in value]
        if not any(isinstance(member, bytes) for member in members):
            return cast(AttributeValue, members)
    return _scalar(name, value)


def _scalar(name: str, value: object) -> str | int | float | bool | bytes:
    if isinstance(value, bool | bytes):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int) and _LEAST <= value <= _MOST:
        return int.__int__(value)
    raise CodecError(
        f"attribute {name} is {value!r:.80}: use text, a number that fits in 64 bits, a boolean, bytes, or a list of "
        "them without bytes"
    )


_LEAST: Final = -(2**63)
_MOST: Final = 2**64 - 1


# Models that speak for themselves


class _Model(Protocol):
    def model_dump(self, *, mode: str) -> object: ...

    def model_dump_json(self) -> str: ...

    @classmethod
    def model_validate(cls, value: object) -> object: ...

    @classmethod
    def model_validate_json(cls, text: bytes) -> object: ...


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and all(
        hasattr(kind, name) for name in ("model_dump", "model_dump_json", "model_validate", "model_validate_json")
    )


def _model(kind: type[T], name: CodecName) -> Codec[T]:
    model = cast(type[_Model], kind)
    if name == "json":
        return _guarded(name, kind, _dump_model, cast(Callable[[bytes], T], model.model_validate_json))

    def load(body: bytes) -> T:
        return cast(T, model.model_validate(msgspec.msgpack.decode(body)))

    return _guarded(name, kind, partial(msgspec.msgpack.encode, enc_hook=_dump_inner), load)


def _dump_model(value: object) -> bytes:
    return cast(_Model, value).model_dump_json().encode()


def _dump_inner(value: object) -> object:
    if not _is_model(type(value)):
        raise TypeError(f"{type_name(type(value))} inside it is no type that encodes")
    return cast(_Model, value).model_dump(mode="json")


def _load_inner(kind: type, value: object) -> object:
    if kind is object:
        return value  # `dict[str, object]`: whatever is there
    if not _is_model(kind):
        raise TypeError(f"{type_name(kind)} inside it is no type that decodes")
    return cast(type[_Model], kind).model_validate(value)


# Bytes as they are


def _raw(kind: type[T]) -> Codec[T]:
    if kind is bytes:
        return cast(Codec[T], Codec[bytes]("raw", bytes, _bytes_of, bytes))
    if kind is str:
        return cast(Codec[T], _guarded("raw", str, _utf8_of, bytes.decode))
    raise ConfigurationError(f"{type_name(kind)} cannot be a raw payload: use bytes or str, or another codec")


def _bytes_of(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise CodecError(f"{type(value).__name__} does not encode as raw of bytes: give bytes")


def _utf8_of(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError("give str")
    return value.encode()
