"""What a sender may ask for beyond delivery, and when that cannot be: delay, time to live, priority, key, group."""

from __future__ import annotations

from typing import Final, TypeGuard

from pipeflow.messages import Outgoing, Refused
from pipeflow.names import valid_group
from pipeflow.specs import DAY, YEAR, QueueSpec

PRIORITIES: Final = 10


def in_seconds(value: object) -> TypeGuard[float]:
    """Whether this is a number of seconds; a text or True is none, whatever the annotation said."""
    return isinstance(value, float | int) and value is not True and value is not False


def unfit_ids(name: str, message: Outgoing) -> Refused | None:
    """Why a message cannot be accepted with its group or its deduplication id; None when it can."""
    for what, value in (("group", message.group), ("dedup_id", message.dedup_id)):
        if value is not None and not valid_group(value):
            return Refused(
                f"bad_{what}", f"{name}: {what} {value!r} must be 1 to 128 letters, digits or punctuation, no spaces"
            )
    return None


def unwaitable(name: str, delay: float, *, fifo: bool) -> Refused | None:
    """Why a message cannot be accepted with this delay; None when it can."""
    if not in_seconds(delay):
        return Refused("bad_delay", f"{name}: delay is {delay!r}; use a number of seconds, or leave it off")
    if not 0 <= delay <= YEAR:
        return Refused("bad_delay", f"{name}: delay is {delay}; use 0 to {YEAR:.0f} s, which is {YEAR / DAY:.0f} days")
    if fifo and delay > 0:
        return Refused(
            "bad_delay", f"{name}: delay is {delay}; FIFO queues delay as a whole; declare the queue with delay="
        )
    return None


def unfulfillable(name: str, message: Outgoing, *, fifo: bool) -> Refused | None:
    """Why a message cannot be accepted with what it asks for; None when it can."""
    ttl, delay, priority = message.ttl, message.delay, message.priority
    if priority or type(priority) is not int:
        if type(priority) is not int or not 0 <= priority < PRIORITIES:
            return Refused(
                "bad_priority", f"{name}: priority is {priority!r}; use 0 to {PRIORITIES - 1}, 9 comes first"
            )
        if fifo:
            return Refused(
                "bad_priority",
                f"{name}: priority is {priority}, and a FIFO queue hands out in the order of sending; leave it off, or"
                " use a standard queue",
            )
    if ttl is not None:
        if not in_seconds(ttl):
            return Refused("bad_ttl", f"{name}: ttl is {ttl!r}; use a number of seconds, or leave it off")
        if not 0 < ttl <= YEAR:
            return Refused("bad_ttl", f"{name}: ttl is {ttl}; use more than 0 s, up to a year, or leave it off")
        if delay is not None and in_seconds(delay) and ttl <= delay:
            return Refused(
                "bad_ttl",
                f"{name}: ttl is {ttl} and delay {delay}: it would be gone before it is visible; a ttl counts from the"
                " send, so make it longer than the delay",
            )
    return None


def unseen(spec: QueueSpec, ttl: float, delay: float | None) -> Refused | None:
    """Why a message for this queue alone would end before the queue's own delay does; None when it would not.

    A publish is not asked: it is not refused for the delay of one of many queues.
    """
    if ttl > spec.delay or not (delay is None or spec.fifo):
        return None
    return Refused(
        "bad_ttl",
        f"{spec.name}: ttl is {ttl} and the queue's delay {spec.delay}: it would be gone before it is visible; a ttl"
        " counts from the send, so make it longer than the delay",
    )


def unusable_key(spec: QueueSpec, key: str) -> Refused | None:
    """Why a delayed message of this queue cannot be found by this key; None when it can."""
    if spec.fifo:
        return Refused(
            "bad_key",
            f"{spec.name}: key {key!r} is for messages with a delay of their own, and those of FIFO queues have none:"
            " replacing one would break the order of its group; use a standard queue",
        )
    if not (isinstance(key, str) and valid_group(key)):
        return Refused(
            "bad_key", f"{spec.name}: key {key!r} must be 1 to 128 letters, digits or punctuation, no spaces"
        )
    return None
