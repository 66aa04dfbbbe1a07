"""Turn what a handler did into what its message needs. Pure: every rule below has a one-line test."""

from __future__ import annotations

import asyncio
import os
import traceback
from typing import TypeAlias, assert_never

from msgspec import Struct

from pipeflow.engine.supervise import AGAIN
from pipeflow.errors import CodecError, RefusedError, Reject, Retry
from pipeflow.messages import Ack, Bury, Defer, Delivery, Emit, Failure, Refused, Release, Settlement
from pipeflow.names import digest
from pipeflow.specs import YEAR, Backoff
from pipeflow.state.wishes import in_seconds
from pipeflow.texts import encodable, told

__all__ = [
    "Cancelled",
    "EmitRefused",
    "Raised",
    "Result",
    "RetryPolicy",
    "Returned",
    "decide",
    "describe",
    "shrugged_off",
    "told_to_stop",
    "waitable",
]


class Returned(Struct, frozen=True):
    """The handler returned; `emits` leave with the acknowledgement."""

    emits: list[Emit]


class Raised(Struct, frozen=True):
    """The handler raised, timed out, or its payload does not decode."""

    error: BaseException


class Cancelled(Struct, frozen=True):
    """The handler was stopped before it was done, or never started."""


Result: TypeAlias = Returned | Raised | Cancelled


class RetryPolicy(Struct, frozen=True):
    """How often and how late a queue's failed messages are tried again; None: for ever."""

    max_receives: int | None = 5
    backoff: Backoff = Backoff()

    def exhausted(self, attempt: int) -> bool:
        """Whether attempt number `attempt` was the last."""
        return self.max_receives is not None and attempt >= self.max_receives


class EmitRefused(RefusedError):
    """What the handler emitted is not taken."""

    @property
    def for_now(self) -> bool:
        """Whether it may be another time: no fault of the message, so no attempt of it."""
        return self.code in FOR_NOW

    @classmethod
    def by(cls, queue: str, answer: Refused) -> EmitRefused:
        """What a store answered to the acknowledgement that carried the emit."""
        return cls(answer.code, f"{queue}: an emit was refused: {answer.reason}")


FOR_NOW = frozenset(("ClaimUnavailable", "disk_full"))
"""The place of large bodies is out of reach; the disk has no room."""


class Failed(Exception):
    """What `batch.fail` was told in words."""


def decide(delivery: Delivery, result: Result, policy: RetryPolicy, roll: float, now: float) -> Settlement:
    """Decide the fate of one delivery; `roll` in [0, 1) is the jitter, so that chance is an argument too."""
    match result:
        case Returned(emits):
            return Ack(delivery.receipt, emits)
        case Raised(Reject() as error):
            return Bury(delivery.receipt, describe(error, delivery, now), error.headers)
        case Raised(CodecError() as error):
            return Bury(delivery.receipt, describe(error, delivery, now))
        case Raised(EmitRefused(for_now=True)):
            # Once more for each time that it was given back so far.
            return Release(delivery.receipt, AGAIN.delay(1 + delivery.receives - delivery.attempt, roll))
        case Raised(error) if policy.exhausted(delivery.attempt):
            return Bury(delivery.receipt, describe(error, delivery, now))
        case Raised(Retry(after=after) as error) if after is not None and waitable(after):
            return Defer(delivery.receipt, max(0.0, after), describe(error, delivery, now))
        case Raised(error):
            delay = policy.backoff.delay(delivery.attempt, roll)
            return Defer(delivery.receipt, delay, describe(error, delivery, now))
        case Cancelled():
            return Release(delivery.receipt)
    assert_never(result)


def waitable(after: object) -> bool:
    """Whether a queue can wait so long; a text or a time beyond a year is no more than another failure."""
    return in_seconds(after) and after <= YEAR


def told_to_stop(error: BaseException) -> bool:
    """Whether this ends the program or the task that runs now, rather than being a failure of the user's function.

    `sys.exit()` in a handler is its message's failure; so is the cancellation of something the handler awaited.
    """
    if isinstance(error, asyncio.CancelledError | BaseExceptionGroup) and not isinstance(error, Exception):
        return asyncio.current_task() is None or shrugged_off()
    return isinstance(error, KeyboardInterrupt | GeneratorExit)


def shrugged_off() -> bool:
    """Whether the task that runs now was cancelled and went on: what it returned then may be half done."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def describe(error: BaseException, delivery: Delivery, now: float) -> Failure:
    """A failed attempt as it is kept with the message: type, message, and a fingerprint of the place it came from."""
    kind = RefusedError.__name__ if isinstance(error, EmitRefused) else type(error).__name__
    message = told(error)
    if len(message) > _LONGEST:
        message = message[:_LONGEST] + "..."
    return Failure(now, delivery.attempt, kind, message, _place(error))


_LONGEST = 1000
"""Characters of an error message that are kept: with every attempt of every message."""

_ENGINE = os.path.dirname(__file__)
_OURS = (_ENGINE, os.path.join(os.path.dirname(_ENGINE), "wiring"))


def _place(error: BaseException) -> str:
    frames = [
        f"{os.path.basename(frame.f_code.co_filename)}:{line}:{frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(_OURS)  # the way the engine called it is no part of the place
    ]
    return digest(encodable("\n".join(frames)).encode(), size=4).hex() if frames else ""
