"""Virtual time is cheap: what takes weeks takes milliseconds, because idle receivers arm no timers."""

import time

import msgspec

from pipeflow import App
from pipeflow.events import Buried
from pipeflow.testing import harness

DAY = 86_400.0
BOUND = 0.050
"""Seconds of processor time, the most that fourteen days may take."""


class Order(msgspec.Struct, frozen=True):
    id: str


def shop(attempts: list[float]) -> App:
    app = App("shop", broker="sqlite:///never-opened.db")
    app.queue("waiting", Order, retention=3 * DAY)
    for number in range(5):  # receivers with nothing to do
        idle = app.queue(f"idle-{number}", Order)

        @idle.handler
        async def nothing(order: Order) -> None: ...

    return app


async def test_fourteen_days_of_retention_and_retries_take_less_than_fifty_milliseconds() -> None:
    attempts: list[float] = []
    app = shop(attempts)
    waiting = app.queue("kept", Order, retention=3 * DAY)
    failing = app.queue("failing", Order, max_receives=12)

    @failing.handler
    async def fails(order: Order) -> None:
        attempts.append(h.clock.now())
        raise ConnectionError("asleep")

    async with harness(app, seed=1) as h:
        await waiting.send(Order("kept"))
        for number in range(5):
            await failing.send(Order(str(number)))
        await h.settle()
        begun, since = time.process_time(), h.clock.now()
        await h.advance(3 * DAY - 1)
        assert h.queued(waiting) == [Order("kept")]
        await h.advance(2)
        assert h.queued(waiting) == []
        assert len(attempts) == 5 * 12
        assert len(h.dead(failing)) == 5
        await h.advance(11 * DAY - 1)
        took = time.process_time() - begun
        assert h.clock.now() - since == 14 * DAY
        assert len([event for event in h.events if isinstance(event, Buried)]) == 5
        last = max(event.at for event in h.events if isinstance(event, Buried))
        await h.advance(last + 14 * DAY - h.clock.now() + 1)
        assert h.dead(failing) == []
    assert took < BOUND, f"fourteen days took {took * 1000:.1f} ms"


async def test_idle_receivers_arm_no_timers() -> None:
    async with harness(shop([])) as h:
        await h.settle()
        assert [until for until, _, waiter in h.clock._timers if not waiter.done()] == []
