"""What may be said on the owner's socket: each verb with the shape of its arguments and of its answer.

Both ends read this table, so they cannot disagree; what is not in it is refused by name. Receipts travel as they are:
a peer is a process of the store's own user, which may read the file itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from pipeflow import errors
from pipeflow.archives import ArchiveReport, ArchiveRequest
from pipeflow.audit import Entry
from pipeflow.errors import BrokerError, PipeflowError, RefusedError
from pipeflow.events import Event
from pipeflow.files import CompactReport, CompactRequest, FileFacts, FileQuery
from pipeflow.letters import Change, Discard, Discarded, Redrive, Redriven, Rewrite
from pipeflow.messages import (
    Ack,
    AttributeValue,
    Bury,
    Defer,
    Delivery,
    Emit,
    Extend,
    Outgoing,
    Position,
    Refused,
    Release,
    Sent,
    Settled,
    Settlement,
    Stale,
    Want,
)
from pipeflow.moves import Move
from pipeflow.protocols import Features, Found, Parked, Peeked, Search, StoreStats
from pipeflow.specs import FilterPolicy, Topology
from pipeflow.webhooks import SubscriptionFacts

PROTOCOL = 1
MAGIC = "pipeflow"
CANCEL = "cancel"
"""Not a verb of the store: takes back the call whose id it carries."""


class Hello(Struct, frozen=True, array_like=True):
    """The first frame of a client."""

    magic: str
    protocol: int
    version: str
    pid: int


class Welcome(Struct, frozen=True, array_like=True):
    """The owner's answer to Hello. A refusal comes as an Answer instead."""

    magic: str
    protocol: int
    version: str
    pid: int
    features: Features
    calls: int
    """How many calls may be under way on this connection."""
    knows: dict[str, tuple[str, ...]] = {}
    """What it has learned, as in `newer.LEARNED`."""


class Call(Struct, frozen=True, array_like=True):
    """One call. Ids are the client's; an answer carries the same. Id 0 asks for no answer."""

    id: int
    verb: str
    arguments: Raw


class Answer(Struct, frozen=True, array_like=True):
    """`done` with the result, `error` with a Fault, or one `item` of a verb that answers many times until `done`."""

    id: int
    kind: Literal["done", "error", "item"]
    content: Raw


FAREWELL = Answer(0, "done", Raw(b"\xc0"))
"""The last frame of an owner that hangs up in order: calls it has not answered by then were never begun."""


class Fault(Struct, frozen=True, array_like=True):
    """An error on its way: the class by name, its text, and the code of a RefusedError."""

    type: str
    text: str
    code: str = ""


def fault(error: PipeflowError) -> Fault:
    """The error as it travels."""
    return Fault(type(error).__name__, str(error), error.code if isinstance(error, RefusedError) else "")


def raised(told: Fault) -> PipeflowError:
    """The error as it was raised at the other end; BrokerError when this version does not know its class."""
    kind = getattr(errors, told.type, None)
    if not (isinstance(kind, type) and issubclass(kind, PipeflowError)):
        return BrokerError(f"{told.type}: {told.text}")
    if issubclass(kind, RefusedError):
        return kind(told.code, told.text)
    error = kind.__new__(kind)  # some classes build their text from other arguments than the text
    Exception.__init__(error, told.text)
    return error


def _mirror(kind: type[Struct], **other: object) -> type[Struct]:
    """The same struct with other types for some fields: decoders cannot tell str from bytes inside a union."""
    fields = [
        (field.name, other.get(field.name, field.type), msgspec.field(default=field.default))
        if field.default is not msgspec.NODEFAULT
        else (field.name, other.get(field.name, field.type), msgspec.field(default_factory=field.default_factory))
        if field.default_factory is not msgspec.NODEFAULT
        else (field.name, other.get(field.name, field.type))
        for field in msgspec.structs.fields(kind)
    ]
    config = kind.__struct_config__
    return msgspec.defstruct(
        kind.__name__, fields, frozen=True, gc=config.gc, array_like=config.array_like, tag=config.tag
    )


_Attributes = dict[str, Any]
_Outgoing = _mirror(Outgoing, attributes=_Attributes | None)
_Emit = _mirror(Emit, message=_Outgoing)
_Ack = _mirror(Ack, emits=list[_Emit])  # type: ignore[valid-type]  # made at run time, like the other mirrors
_Delivery = _mirror(Delivery, attributes=_Attributes)
_Peeked = _mirror(Peeked, attributes=_Attributes)
_Found = _mirror(Found, messages=list[_Peeked])  # type: ignore[valid-type]  # as above


def _outgoing(mirror: Struct) -> Outgoing:
    message = Outgoing(*msgspec.structs.astuple(mirror))
    if message.claim is not None:
        message = msgspec.structs.replace(message, claim=None)  # where bodies lie aside is the owner's business
    if message.attributes:
        _check(message.attributes)
    return message


def _check(attributes: dict[str, AttributeValue]) -> None:
    for name, value in attributes.items():
        if not isinstance(value, str | int | float | bytes | list):
            raise msgspec.ValidationError(f"attribute {name!r} is a {type(value).__name__}; use text, number or bytes")


def _settlement(said: Any) -> Settlement:
    if type(said) is not _Ack:
        kept: Settlement = said
        return kept
    receipt, emits, superseded_ok = msgspec.structs.astuple(said)
    return Ack(receipt, [Emit(emit.kind, emit.target, _outgoing(emit.message)) for emit in emits], superseded_ok)


def _to_target(said: tuple[str, list[Struct]]) -> tuple[str, list[Outgoing]]:
    return said[0], [_outgoing(item) for item in said[1]]


def _settlements(said: tuple[str, list[object]]) -> tuple[str, list[Settlement]]:
    return said[0], [_settlement(item) for item in said[1]]


def _deliveries(said: list[Struct]) -> list[Delivery]:
    return [Delivery(*msgspec.structs.astuple(item)) for item in said]


def _peeked(said: list[Struct]) -> list[Peeked]:
    return [Peeked(*msgspec.structs.astuple(item)) for item in said]


def _found(said: Any) -> Found:
    return Found(_peeked(said.messages), said.examined, said.complete)


def _numbers(results: Sequence[Position | Refused]) -> list[int | Refused]:
    return [item.sequence if isinstance(item, Position) else item for item in results]


def _positions(said: list[int | Refused]) -> list[Position | Refused]:
    return [Position(item) if isinstance(item, int) else item for item in said]


def _same(value: Any) -> Any:
    return value


class Verb(Struct, frozen=True):
    """One verb of the socket."""

    name: str
    arguments: msgspec.msgpack.Decoder[Any]
    result: msgspec.msgpack.Decoder[Any]
    effect: bool = False
    """It changes the store: lost without an answer, it may have happened."""
    waits: bool = False
    """It may wait for long, and is taken back when its caller gives up or dies."""
    stream: bool = False
    """It answers many times."""
    read_arguments: Callable[[Any], tuple[Any, ...]] = _same
    write_result: Callable[[Any], Any] = _same
    read_result: Callable[[Any], Any] = _same


def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


_BATCH = _decoder(tuple[str, list[_Outgoing]])  # type: ignore[valid-type]  # a mirror, see above
_SENT = _decoder(list[Sent | Refused])
_NAME = _decoder(tuple[str])
_NOTHING = _decoder(tuple[()])
_NONE = _decoder(None)

VERBS = {
    verb.name: verb
    for verb in (
        Verb("declare", _decoder(tuple[Topology]), _NONE, effect=True),
        Verb("publish", _BATCH, _SENT, effect=True, read_arguments=_to_target),
        Verb("cancel_delayed", _decoder(tuple[str, str]), _decoder(bool), effect=True),
        Verb("send", _BATCH, _SENT, effect=True, read_arguments=_to_target),
        Verb(
            "receive",
            _decoder(tuple[str, Want]),
            _decoder(list[_Delivery]),  # type: ignore[valid-type]  # a mirror
            waits=True,
            read_result=_deliveries,
        ),
        Verb(
            "settle",
            _decoder(tuple[str, list[_Ack | Defer | Extend | Bury | Release]]),  # type: ignore[valid-type]  # a mirror
            _decoder(list[Settled | Stale | Refused]),
            effect=True,
            read_arguments=_settlements,
        ),
        # The connection's own: what does not fit into a frame, see `embedded.parts`.
        Verb("part", _decoder(tuple[str, bytes]), _NONE),
        Verb("rest", _decoder(tuple[str, int]), _decoder(bytes)),
        Verb("position", _NAME, _decoder(bytes | None)),
        Verb(
            "append",
            _BATCH,
            _decoder(list[int | Refused]),
            effect=True,
            read_arguments=_to_target,
            write_result=_numbers,
            read_result=_positions,
        ),
        Verb("demand", _decoder(tuple[str, str]), _NONE),
        Verb("delivered", _NAME, _NONE, waits=True),
        Verb("flush", _NAME, _NONE, waits=True),
        Verb("describe", _NOTHING, _decoder(Topology)),
        Verb(
            "peek",
            _decoder(tuple[str, int, bool, FilterPolicy | None]),
            _decoder(list[_Peeked]),  # type: ignore[valid-type]  # a mirror
            read_result=_peeked,
        ),
        Verb(
            "search",
            _decoder(tuple[Search]),
            _decoder(_Found),
            waits=True,
            read_result=_found,
        ),
        Verb("purge", _NAME, _decoder(int), effect=True),
        Verb("delete_queue", _NAME, _decoder(int), effect=True),
        Verb("edit", _decoder(tuple[Rewrite]), _decoder(Change), effect=True),
        Verb("discard", _decoder(tuple[Discard]), _decoder(Discarded), effect=True),
        Verb("audit", _decoder(tuple[str | None, int, int | None]), _decoder(list[Entry])),
        Verb("redrive", _decoder(tuple[Redrive]), _decoder(Redriven), effect=True),
        Verb("start_move", _decoder(tuple[Redrive]), _decoder(Move), effect=True),
        Verb("moves", _decoder(tuple[str | None]), _decoder(list[Move])),
        Verb("cancel_move", _NAME, _decoder(Move), effect=True),
        Verb("parked", _NAME, _decoder(list[Parked])),
        Verb("retry_parked", _decoder(tuple[str, list[int] | None]), _decoder(int), effect=True),
        Verb("discard_parked", _decoder(tuple[str, list[int]]), _decoder(int), effect=True),
        Verb("delete_stream", _decoder(tuple[str, bool]), _decoder(int), effect=True),
        Verb("delete_topic", _NAME, _decoder(bool), effect=True),
        Verb("archived", _decoder(tuple[ArchiveRequest]), _decoder(ArchiveReport), effect=True),
        Verb("webhooks", _NOTHING, _decoder(list[SubscriptionFacts])),
        Verb("confirm", _decoder(tuple[str, str]), _decoder(SubscriptionFacts), effect=True),
        Verb("unsubscribe", _decoder(tuple[str, bool]), _decoder(SubscriptionFacts | None), effect=True),
        Verb("stats", _NOTHING, _decoder(StoreStats)),
        Verb("files", _decoder(tuple[str, FileQuery]), _decoder(list[FileFacts])),
        Verb("compact", _decoder(tuple[str, CompactRequest]), _decoder(CompactReport), effect=True, waits=True),
        Verb("watch", _NOTHING, _decoder(Event), waits=True, stream=True),
    )
}

encode = msgspec.msgpack.Encoder().encode
read_hello = msgspec.msgpack.Decoder(Hello).decode
read_welcome = msgspec.msgpack.Decoder(Welcome).decode
read_call = msgspec.msgpack.Decoder(Call).decode
read_answer = msgspec.msgpack.Decoder(Answer).decode
read_fault = msgspec.msgpack.Decoder(Fault).decode
