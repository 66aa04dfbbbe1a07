"""What callers hand to the verbs of a store, looked at before a step begins.

A checker of types says the same, to who runs one. For all others: what has the wrong type is named here, whichever way
pipeflow was built; it would be met in the middle of a step, or be committed and not read back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pipeflow.messages import Ack, Bury, Defer, Emit, Extend, Failure, Outgoing, Receipt, Refused, Release, Want
from pipeflow.state.wishes import in_seconds

KINDS = frozenset((Ack, Defer, Extend, Bury, Release))

MOST = float(1 << 63)
"""Seconds; what is more is no number to reckon with."""
NUMBERS = (int, float)
NUMBERS_OR_NONE = (type(None), *NUMBERS)

_encode = msgspec.msgpack.Encoder().encode
_failure = msgspec.msgpack.Decoder(Failure).decode
_headers = msgspec.msgpack.Decoder(dict[str, str]).decode


def article(value: object) -> str:
    """What this is, in a sentence."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def check_outgoing(batch: object) -> None:
    """TypeError: this is no batch of messages to send."""
    if not isinstance(batch, list | tuple):
        raise TypeError(f"a batch to send is {article(batch)}; use a list of Outgoing")
    for n, each in enumerate(batch):
        if not isinstance(each, Outgoing):
            raise TypeError(f"item {n} of a batch to send is {article(each)}; use Outgoing(body)")


def unwanted(queue: str, want: object) -> TypeError:
    """What to raise of a receive that asks for something of the wrong type."""
    if not isinstance(want, Want):
        return TypeError(f"{queue}: a receive asks with {article(want)}; use Want(limit=10, wait=20)")
    wanted: tuple[tuple[str, tuple[type, ...], str], ...] = (
        ("limit", (int,), "a whole number"),
        ("max_bytes", (int,), "a whole number"),
        ("durable", (bool,), "True or False"),
        ("wait", NUMBERS, "a number of seconds"),
    )
    for name, kinds, use in wanted:
        if type(getattr(want, name)) not in kinds:
            return TypeError(f"{queue}: {name} of a receive is {getattr(want, name)!r}; use {use}")
    return TypeError(
        f"{queue}: visibility_timeout of a receive is {want.visibility_timeout!r}; use a number of seconds, or None"
    )


def check_call(verb: str, *arguments: object) -> None:
    """TypeError: this is not what the verb takes. It is asked as the owner's socket asks it, by every door."""
    from pipeflow.embedded.verbs import VERBS

    try:
        VERBS[verb].arguments.decode(_encode(arguments))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"{verb}: {error}") from None


def emits_of(queue: str, batch: Sequence[Any]) -> list[Emit]:
    """What a batch of settlements publishes. TypeError: one of them is not what it should be, and nothing is done."""
    if type(batch) is not list and not isinstance(batch, Sequence):
        # What can be gone through once would be at its end here, and nothing be left to settle.
        raise TypeError(f"{queue}: a batch to settle is {article(batch)}; use a list of Ack, Defer and their like")
    # Most are acknowledgements and nothing else: of those no more is asked.
    for settlement in batch:
        if type(settlement) is not Ack or type(settlement.receipt) is not Receipt or settlement.emits:
            break
    else:
        return []
    for n, settlement in enumerate(batch):
        if (wrong := _wrong(settlement)) is not None:
            raise TypeError(f"{queue}: item {n} of a batch to settle {wrong}")
    return [emit for settlement in batch if isinstance(settlement, Ack) for emit in settlement.emits or ()]


def _wrong(settlement: Any) -> str | None:
    if type(settlement) not in KINDS:
        return f"is {article(settlement)}; use Ack, Defer, Extend, Bury or Release"
    receipt = settlement.receipt
    if type(receipt) is not Receipt:
        return f"has {receipt!r} for a receipt; use the delivery's own"
    if not isinstance(settlement, Ack) or not settlement.emits:
        return None
    if not isinstance(settlement.emits, list | tuple):
        return f"has {article(settlement.emits)} for emits; use a list of Emit"
    for emit in settlement.emits:
        if type(emit) is not Emit:
            return f"emits {article(emit)}; use Emit(kind, target, message)"
        if type(emit.message) is not Outgoing:
            return f"emits {article(emit.message)}; use Emit(kind, target, Outgoing(body))"
        if type(emit.target) is not str:
            return f"emits to {article(emit.target)}; use the name of a topic, a queue or a stream"
    return None


def unkept(queue: str, settlement: Defer | Extend | Bury | Release) -> Refused | None:
    """Why this settlement cannot be done: in everybody's group it would fail all of them, or it would not read back."""
    seconds: object = 0.0
    if isinstance(settlement, Extend):
        seconds = settlement.visibility_timeout
    elif isinstance(settlement, Defer | Release):
        seconds = settlement.delay
    if not in_seconds(seconds) or abs(seconds) > MOST:
        what = "visibility_timeout" if isinstance(settlement, Extend) else "delay"
        return Refused(f"bad_{what}", f"{queue}: {what} of a settlement is {seconds!r}; use a number of seconds")
    if not isinstance(settlement, Defer | Bury):
        return None
    try:
        if settlement.failure is not None:
            _failure(_encode(settlement.failure))
    except (TypeError, ValueError, OverflowError) as error:
        return Refused(
            "bad_failure", f"{queue}: failure of a settlement cannot be kept ({error}); use Failure of plain text"
        )
    if isinstance(settlement, Bury) and settlement.headers is not None:
        try:
            _headers(_encode(settlement.headers))
        except (TypeError, ValueError, OverflowError) as error:
            return Refused("bad_headers", f"{queue}: headers of a settlement cannot be kept ({error}); use plain text")
    return None
