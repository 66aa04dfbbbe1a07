"""The state machine by itself: what only shows without a journal."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pipeflow.messages import Ack, Receipt, Release, Settled
from pipeflow.specs import QueueSpec
from pipeflow.state.changes import NoChanges
from pipeflow.state.groups import Groups
from pipeflow.state.order import Line
from pipeflow.state.queue import QueueState
from pipeflow.state.stored import Stored


class Told:
    """Keeps what a state machine tells of its changes."""

    def __init__(self) -> None:
        self.left: list[str] = []

    def changed(self, message: Stored) -> None: ...

    def gone(self, message: Stored) -> None:
        self.left.append(message.id)

    def moved(self, message: Stored) -> None:
        self.left.append(message.id)


def queue(spec: QueueSpec) -> tuple[QueueState, Told]:
    told = Told()
    state = QueueState(spec, Line(), told)
    state.add(Stored(1, "m", b"body", 4, 0.0, 0.0), 0.0)
    return state, told


def test_Q89_without_dead_letters_a_message_is_tried_until_its_retention_ends_and_never_dropped() -> None:
    state, told = queue(QueueSpec("q", max_receives=2, visibility_timeout=10, retention=1000))
    for attempt in range(1, 60):
        (message,) = state.receive(1, 1 << 20, attempt * 10.0, boot=1)
        assert message.attempt == attempt
    assert told.left == []
    assert state.receive(1, 1 << 20, 1000.0, boot=1) == []
    assert (told.left, state.expired) == (["m"], 1)


def test_Q89_with_dead_letters_it_leaves_at_the_receive_after_the_last() -> None:
    state, told = queue(QueueSpec("q", max_receives=2, visibility_timeout=10, dead_letters="dead"))
    assert [len(state.receive(1, 1 << 20, at, boot=1)) for at in (0.0, 10.0, 20.0)] == [1, 1, 0]
    assert [message.id for message in state.buried] == told.left == ["m"]


class Walked:
    """An order whose walks nobody lets go of, as where references are not counted."""

    def __init__(self) -> None:
        self._line = Line()
        self.walks: list[Generator[Stored, None, None]] = []

    def candidates(self, now: float) -> Generator[Stored, None, None]:
        self.walks.append(self._line.candidates(now))
        return self.walks[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)


def test_a_message_that_is_looked_at_and_too_large_is_the_next_one_at_once() -> None:
    order: Any = Walked()
    state = QueueState(QueueSpec("q"), order, NoChanges())
    for place, size in ((1, 4), (2, 100), (3, 4)):
        state.add(Stored(place, f"m{place}", b"body", size, 0.0, 0.0), 0.0)
    assert [message.id for message in state.receive(10, 50, 0.0, boot=1)] == ["m1"]
    assert [message.id for message in state.receive(10, 1000, 0.0, boot=1)] == ["m2", "m3"]


def test_a_release_is_no_attempt_and_its_receipt_is_used_up() -> None:
    state, _ = queue(QueueSpec("q", max_receives=2, dead_letters="dead"))
    for receive in range(1, 20):
        (message,) = state.receive(1, 1 << 20, 0.0, boot=1)
        assert message.attempt == 1
        receipt = Receipt(message.place, 1, receive)
        assert state.settle(Release(receipt), 0.0, boot=1) == Settled()
        assert state.settle(Release(receipt), 0.0, boot=1) != Settled()


class Body(bytes):
    """Bytes that tell when nobody has them any more."""

    gone = 0

    def __del__(self) -> None:
        type(self).gone += 1


@pytest.mark.parametrize("fifo", [False, True])
def test_what_is_acknowledged_leaves_memory_long_before_its_visibility_timeout_ends(fifo: bool) -> None:
    """Deadlines and repeatable receives are remembered for hours, by the thousand; bodies are not."""
    Body.gone = 0
    state = QueueState(QueueSpec("q", fifo=fifo, visibility_timeout=3600.0), Groups() if fifo else Line(), NoChanges())
    for place in range(1, 11):
        body = Body(b"x")
        state.add(Stored(place, f"{place}", body, 1, 0.0, 0.0, group="g" if fifo else None, expires_at=7200.0), 0.0)
        del body
    for message in state.receive(10, 1 << 20, 0.0, 1, attempt_id="once" if fifo else None):
        state.settle(Ack(Receipt(message.place, 1, 1)), 1.0, 1)
    del message
    assert Body.gone == 10
