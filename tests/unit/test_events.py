"""Observers see what happened, in order, and cannot disturb it."""

import logging

import msgspec
import pytest

from pipeflow.events import Event, Handled, Observers, Published, Started


def test_observers_without_anybody_are_false_so_that_no_event_is_made() -> None:
    observers = Observers()
    assert not observers
    observers.add(lambda event: None)
    assert observers


def test_every_observer_is_told_in_the_order_they_were_added() -> None:
    told: list[tuple[str, Event]] = []
    observers = Observers([lambda event: told.append(("first", event))])
    observers.add(lambda event: told.append(("second", event)))
    event = Published(1.0, "orders", 3)
    observers.emit(event)
    assert told == [("first", event), ("second", event)]


def test_an_observer_that_raises_is_reported_once_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Event] = []

    def broken(event: Event) -> None:
        raise ValueError("boom")

    observers = Observers([broken, told.append])
    with caplog.at_level(logging.ERROR, logger="pipeflow"):
        observers.emit(Started(0.0, "shop"))
        observers.emit(Started(1.0, "shop"))
    assert len(told) == 2
    assert len(caplog.records) == 1
    assert "left out from now on" in caplog.text
    assert "boom" in caplog.text


def test_the_list_that_made_the_observers_is_not_kept() -> None:
    mine: list[object] = []
    observers = Observers()
    observers.add(mine.append)
    mine.clear()
    assert observers


def test_an_observer_added_while_an_event_is_told_hears_the_next_one() -> None:
    told: list[Event] = []
    observers = Observers()

    def invites(event: Event) -> None:
        if not told:
            observers.add(told.append)

    observers.add(invites)
    observers.emit(Started(0.0, "shop"))
    assert told == []
    observers.emit(Started(1.0, "shop"))
    assert told == [Started(1.0, "shop")]


def test_events_survive_the_wire_as_what_they_are() -> None:
    event = Handled(2.0, "billing", ["a", "b"], 0.5)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=Event) == event
