"""The order of a fair queue by itself: what a receive of many shows, and what is forgotten."""

from __future__ import annotations

from pipeflow.messages import Ack, Receipt
from pipeflow.specs import QueueSpec
from pipeflow.state.fair import MANY, ROOM
from pipeflow.state.order import Line
from pipeflow.state.queue import QueueState
from pipeflow.state.stored import Stored


class Quietly:
    """Nobody remembers."""

    def changed(self, message: Stored) -> None: ...

    def gone(self, message: Stored) -> None: ...

    def moved(self, message: Stored) -> None: ...


def queue(**backlogs: int) -> QueueState:
    """A queue with so many messages of each tenant, one tenant after the other."""
    state = QueueState(QueueSpec("q", max_receives=None), Line(), Quietly())
    place = 0
    for tenant, count in backlogs.items():
        for _ in range(count):
            place += 1
            state.add(Stored(place, str(place), b"x", 1, 0.0, 0.0, group=tenant), 0.0)
    return state


def take(state: QueueState, count: int, now: float = 0.0) -> list[Stored]:
    return state.receive(count, 1 << 20, now, boot=1)


def tenants(taken: list[Stored]) -> list[str | None]:
    return [message.group for message in taken]


def test_Q83_among_noisy_tenants_the_one_with_fewest_in_flight_goes_first() -> None:
    state = queue(A=100, B=100)
    taken = take(state, 2 * MANY)
    assert tenants(taken) == ["A"] * MANY + ["B"] * MANY
    for message in taken[MANY:]:
        state.settle(Ack(Receipt(message.place, 1, message.receives)), 0.0, boot=1)
    assert tenants(take(state, MANY)) == ["B"] * MANY
    assert sorted(tenants(take(state, 10)), key=str) == ["A"] * 5 + ["B"] * 5, "then both have as many: in turns"


def test_Q82_a_tenant_with_a_tenth_of_what_is_in_flight_is_not_noisy_yet() -> None:
    state = queue(**{f"t{n}": MANY for n in range(10)}, late=1)
    assert "late" not in tenants(take(state, 10 * MANY)), "each had a tenth, none more, so the order was kept"
    assert tenants(take(state, 1)) == ["late"]


def test_Q81_a_queue_without_groups_has_no_tenants_and_pays_for_none() -> None:
    state = queue()
    state.add(Stored(1, "m", b"x", 1, 0.0, 0.0), 0.0)
    assert state.fair is None
    assert isinstance(state.order, Line)


def test_tenants_that_left_are_forgotten() -> None:
    state = QueueState(QueueSpec("q"), Line(), Quietly())
    for place in range(1, 3 * ROOM):
        state.add(Stored(place, "m", b"x", 1, 0.0, 0.0, group=f"t{place}"), 0.0)
        (message,) = take(state, 1)
        state.settle(Ack(Receipt(message.place, 1, message.receives)), 0.0, boot=1)
    assert state.fair is not None
    assert len(state.fair._tenants) <= 1
    assert len(state.fair._quiet) <= 1
