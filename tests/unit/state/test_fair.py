"""The order of a fair queue by itself: what a receive of many shows, and what is forgotten."""

from __future__ import annotations

from pipeflow.messages import Ack, Receipt
from pipeflow.specs import QueueSpec
from pipeflow.state.fair import HALF_LIFE, MANY, ROOM, SILENCE
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
    state = QueueState(QueueSpec("q", max_receives=None, visibility_timeout=43_200), Line(), Quietly())
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
    state = queue(**{f"t{n}": MANY for n in range(9)}, edge=MANY + 1, late=1)
    assert "late" not in tenants(take(state, 10 * MANY)), "each had a tenth, none more, so the order was kept"
    assert tenants(take(state, 2)) == ["edge", "late"]


def test_Q82_messages_without_a_group_are_tenants_of_their_own_and_none_of_them_is_noisy() -> None:
    state = queue(A=1)
    for place in range(2, 3 * MANY):
        state.add(Stored(place, str(place), b"x", 1, 0.0, 0.0), 0.0)
    take(state, 2 * MANY)
    state.add(Stored(1000, "1000", b"x", 1, 0.0, 0.0, group="A"), 0.0)
    assert tenants(take(state, MANY - 1)) == [None] * (MANY - 1), "they came first, and nobody passes them"


def spend(state: QueueState, taken: list[Stored], now: float) -> None:
    """Acknowledge them; what they took of the consumers' time ends now."""
    state.tick(now)
    for message in taken:
        state.settle(Ack(Receipt(message.place, 1, message.receives)), now, boot=1)


def add(state: QueueState, tenant: str, place: int, now: float) -> None:
    state.add(Stored(place, str(place), b"x", 1, now, now, group=tenant), now)


def test_Q82_time_that_was_spent_long_ago_makes_nobody_noisy() -> None:
    state = queue(old=MANY, new=5)
    held = take(state, MANY)
    spend(state, held[1:], 1000.0)  # one of them is held on, or nobody would remember the tenant
    later = 1000.0 + 20 * HALF_LIFE
    spend(state, take(state, 5, later - 100.0), later)
    add(state, "old", 1000, later)
    add(state, "new", 1001, later)
    assert tenants(take(state, 2, later)) == ["old", "new"]


def test_Q84_a_tenant_that_sent_nothing_for_five_minutes_is_quiet_in_that_moment() -> None:
    state = queue(A=2 * MANY, B=1)
    take(state, MANY)
    assert tenants(take(state, 1)) == ["B"], "A is noisy from here on"
    add(state, "B", 1000, SILENCE)
    assert tenants(take(state, 1, SILENCE)) == ["A"], "it was there before B's message, and is noisy no more"


def test_Q84_who_is_quiet_again_begins_anew() -> None:
    state = queue(A=3 * MANY, B=1)
    held = take(state, MANY)
    assert tenants(take(state, 1)) == ["B"], "A is noisy from here on"
    spend(state, held, 50.0)
    calm = SILENCE + 1
    assert tenants(take(state, MANY, calm)) == ["A"] * MANY
    add(state, "B", 1000, calm)
    assert state.fair is not None
    assert state.fair._tenants["A"].busy == 0.0, "what it took before it was noisy is forgiven"


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
