"""Time that is exact: what wakes when, who is awake, and that no wake-up is ever lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from pipeflow.clock import Activity, Signal, SystemClock, VirtualClock


class Crew:
    """Counted tasks in one group, started the way the engine starts its own."""

    def __init__(self, clock: VirtualClock | SystemClock, tasks: anyio.abc.TaskGroup) -> None:
        self.clock = clock
        self.tasks = tasks

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        self.clock.activity.take()
        self.tasks.start_soon(self.clock.activity.awake_while, work)

    def cancel(self) -> None:
        self.tasks.cancel_scope.cancel()


@asynccontextmanager
async def crew(clock: VirtualClock | SystemClock) -> AsyncIterator[Crew]:
    async with anyio.create_task_group() as tasks:
        yield Crew(clock, tasks)
        tasks.cancel_scope.cancel()
    assert clock.activity.awake == 0


# Signal


async def test_a_signal_fired_before_the_wait_is_remembered_once() -> None:
    clock, signal = VirtualClock(), Signal()
    signal.fire()
    signal.fire()
    assert await clock.wait(signal) is True
    assert signal.fired is False
    assert await clock.wait(signal, until=clock.now()) is False


@pytest.mark.parametrize("clock", [VirtualClock(), SystemClock()], ids=["virtual", "system"])
async def test_a_signal_wakes_the_task_that_waits(clock: VirtualClock | SystemClock) -> None:
    signal, woken = Signal(), []

    async def sleeper() -> None:
        woken.append(await clock.wait(signal))

    async with crew(clock) as hands:
        hands.start(sleeper)
        await asyncio.sleep(0)
        signal.fire()
        await clock.activity.idle()
        assert woken == [True]
        assert signal.fired is False


@pytest.mark.parametrize("clock", [VirtualClock(), SystemClock()], ids=["virtual", "system"])
async def test_a_wake_up_that_reached_a_cancelled_task_is_kept_for_the_next(clock: VirtualClock | SystemClock) -> None:
    signal = Signal()
    task = asyncio.ensure_future(clock.wait(signal))
    await asyncio.sleep(0)
    signal.fire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert signal.fired, "the firing was swallowed by a task that never ran again"
    assert clock.activity.awake == 0


@pytest.mark.parametrize("clock", [VirtualClock(), SystemClock()], ids=["virtual", "system"])
async def test_a_cancelled_wait_leaves_nothing_behind(clock: VirtualClock | SystemClock) -> None:
    signal = Signal()
    task = asyncio.ensure_future(clock.wait(signal, until=clock.now() + 10))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not signal.fired
    signal.fire()
    assert await clock.wait(signal) is True


async def test_the_next_task_may_wait_before_the_woken_one_has_resumed() -> None:
    clock, signal = VirtualClock(), Signal()
    first = asyncio.ensure_future(clock.wait(signal))
    await asyncio.sleep(0)
    signal.fire()
    second = asyncio.ensure_future(clock.wait(signal))
    assert await first is True
    await asyncio.sleep(0)
    assert not second.done()
    signal.fire()
    assert await second is True


async def test_two_tasks_on_one_signal_are_a_bug_that_is_told() -> None:
    clock, signal = VirtualClock(), Signal()
    first = asyncio.ensure_future(clock.wait(signal))
    await asyncio.sleep(0)
    with pytest.raises(AssertionError, match="two tasks wait on one signal"):
        await clock.wait(signal)
    signal.fire()
    assert await first is True


# Activity


async def test_idle_returns_at_once_when_nobody_is_awake() -> None:
    await Activity().idle()


async def test_idle_waits_for_every_token() -> None:
    activity = Activity()
    activity.take()
    activity.take()
    waiter = asyncio.ensure_future(activity.idle())
    for _ in range(5):
        await asyncio.sleep(0)
    activity.give_back()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiter.done()
    activity.give_back()
    await waiter


async def test_idle_sees_a_token_taken_again_before_the_waiter_resumed() -> None:
    activity = Activity()
    activity.take()
    waiter = asyncio.ensure_future(activity.idle())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    activity.give_back()
    activity.take()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiter.done()
    activity.give_back()
    await waiter


async def test_a_task_that_fails_gives_its_token_back() -> None:
    activity = Activity()

    async def fails() -> None:
        raise ValueError("boom")

    activity.take()
    with pytest.raises(ValueError, match="boom"):
        await activity.awake_while(fails)
    assert activity.awake == 0
    assert not activity.counts_me()


async def test_a_task_knows_whether_it_is_counted() -> None:
    activity, seen = Activity(), []

    async def look() -> None:
        seen.append(activity.counts_me())

    activity.take()
    await activity.awake_while(look)
    assert seen == [True]
    assert not activity.counts_me()


# SystemClock


async def test_system_time_follows_the_wall_and_never_goes_back() -> None:
    clock = SystemClock()
    moments = [clock.now() for _ in range(100)]
    assert moments == sorted(moments)


async def test_a_floor_lifts_system_time_and_a_lower_one_does_nothing() -> None:
    clock = SystemClock()
    ahead = clock.now() + 3600
    clock.floor(ahead)
    assert clock.now() >= ahead
    before = clock.now()
    clock.floor(before - 7200)
    assert clock.now() >= before


async def test_a_moment_that_passed_answers_false() -> None:
    clock = SystemClock()
    assert await clock.wait(Signal(), until=clock.now() - 1) is False


async def test_a_real_wait_ends_at_its_moment_and_not_before() -> None:
    clock = SystemClock()
    until = clock.now() + 0.002
    assert await clock.wait(Signal(), until=until) is False
    assert clock.now() >= until


async def test_a_fired_signal_wins_over_a_passed_moment() -> None:
    clock, signal = SystemClock(), Signal()
    signal.fire()
    assert await clock.wait(signal, until=clock.now() - 1) is True


async def test_a_wait_of_years_parks_and_can_be_woken() -> None:
    clock, signal = SystemClock(), Signal()
    task = asyncio.ensure_future(clock.wait(signal, until=clock.now() + 1e9))
    await asyncio.sleep(0)
    signal.fire()
    assert await task is True


async def test_a_deadline_that_passed_while_the_machine_slept_is_noticed_with_the_next_short_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeflow.clock._LONGEST_TIMER", 0.001)
    clock, signal = SystemClock(), Signal()
    until = clock.now() + 3600
    task = asyncio.ensure_future(clock.wait(signal, until=until))
    await asyncio.sleep(0)
    clock.floor(until)  # what boot time does across a suspend
    assert await task is False


# VirtualClock


async def test_virtual_time_stands_still() -> None:
    clock = VirtualClock(start=5.0)
    await clock.settle()
    assert clock.now() == 5.0


async def test_advance_ends_exactly_at_its_target() -> None:
    clock = VirtualClock()
    await clock.advance(3600.5)
    assert clock.now() == 3600.5


async def test_time_does_not_go_backwards() -> None:
    clock = VirtualClock(10)
    with pytest.raises(ValueError, match="time does not go backwards"):
        await clock.advance(-1)
    clock.floor(3)
    assert clock.now() == 10
    clock.floor(30)
    assert clock.now() == 30


async def test_advance_steps_from_timer_to_timer_in_order() -> None:
    clock, seen = VirtualClock(), []

    def waits(seconds: float) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            assert await clock.wait(Signal(), until=seconds) is False
            seen.append((seconds, clock.now()))

        return work

    async with crew(clock) as hands:
        for seconds in (30.0, 10.0, 20.0):
            hands.start(waits(seconds))
        await clock.advance(25)
        assert seen == [(10.0, 10.0), (20.0, 20.0)]
        assert clock.now() == 25
        await clock.advance(5)
        assert seen[-1] == (30.0, 30.0)


async def test_two_timers_at_one_time_wake_in_the_order_they_were_set_each_after_the_other_parked() -> None:
    clock, seen = VirtualClock(), []

    def waits(name: str) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            await clock.wait(Signal(), until=10)
            seen.append(f"{name} wakes")
            await asyncio.sleep(0)
            seen.append(f"{name} parks")
            await clock.wait(Signal())

        return work

    async with crew(clock) as hands:
        hands.start(waits("a"))
        hands.start(waits("b"))
        await clock.advance(10)
        assert seen == ["a wakes", "a parks", "b wakes", "b parks"]


async def test_a_timer_set_on_the_way_is_part_of_the_advance() -> None:
    clock, ticks = VirtualClock(), []

    async def every_second() -> None:
        while True:
            await clock.wait(Signal(), until=clock.now() + 1)
            ticks.append(clock.now())

    async with crew(clock) as hands:
        hands.start(every_second)
        await clock.advance(5)
        assert ticks == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_a_signal_fired_on_a_timer_wakes_its_task_at_that_very_moment() -> None:
    clock, bell, seen = VirtualClock(), Signal(), []

    async def rings() -> None:
        await clock.wait(Signal(), until=7)
        bell.fire()

    async def hears() -> None:
        seen.append((await clock.wait(bell, until=50), clock.now()))

    async with crew(clock) as hands:
        hands.start(hears)
        hands.start(rings)
        await clock.advance(100)
        assert seen == [(True, 7)]


async def test_a_woken_task_leaves_a_timer_that_wakes_nobody() -> None:
    clock, bell, seen = VirtualClock(), Signal(), []

    async def hears() -> None:
        seen.append(await clock.wait(bell, until=50))
        seen.append(await clock.wait(bell))

    async with crew(clock) as hands:
        hands.start(hears)
        await clock.settle()
        bell.fire()
        await clock.advance(100)
        assert seen == [True]


async def test_a_firing_between_the_timer_and_the_resumption_is_remembered() -> None:
    clock, bell, seen = VirtualClock(), Signal(), []

    async def rings_at_the_same_time() -> None:
        await clock.wait(Signal(), until=10)
        bell.fire()

    async def hears() -> None:
        seen.append(await clock.wait(bell, until=10))
        seen.append(await clock.wait(bell))

    async with crew(clock) as hands:
        hands.start(hears)
        hands.start(rings_at_the_same_time)
        await clock.advance(10)
        assert seen == [False, True]


async def test_a_parked_task_holds_no_token_and_gets_one_with_the_wake_up() -> None:
    clock, bell = VirtualClock(), Signal()

    async def hears() -> None:
        await clock.wait(bell)

    async with crew(clock) as hands:
        hands.start(hears)
        assert clock.activity.awake == 1
        await clock.settle()
        assert clock.activity.awake == 0
        bell.fire()
        assert clock.activity.awake == 1
        await clock.settle()
        assert clock.activity.awake == 0


async def test_settle_waits_for_what_a_cancelled_task_does_on_its_way_out() -> None:
    clock, left = VirtualClock(), []

    async def gives_back_slowly() -> None:
        try:
            await clock.wait(Signal())
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(10):
                    await asyncio.sleep(0)
                left.append("given back")

    async with crew(clock) as hands:
        hands.start(gives_back_slowly)
        await clock.settle()
        hands.cancel()
        await clock.settle()
        assert left == ["given back"]
    assert clock.activity.awake == 0


async def test_cancelling_a_task_that_was_just_woken_counts_its_token_once() -> None:
    clock, bell, hall = VirtualClock(), Signal(), []

    async def hears() -> None:
        task = asyncio.current_task()
        assert task is not None
        hall.append(task)
        await clock.wait(bell, until=99)

    async with crew(clock) as hands:
        hands.start(hears)
        await clock.settle()
        bell.fire()
        hall[0].cancel()
        await clock.settle()
        assert clock.activity.awake == 0
    assert bell.fired


async def test_a_counted_task_that_was_cancelled_can_wait_again() -> None:
    clock, bell, seen, scope = VirtualClock(), Signal(), [], anyio.CancelScope()

    async def tries_twice() -> None:
        with scope:
            await clock.wait(bell)
        seen.append(await clock.wait(bell, until=5))

    async with crew(clock) as hands:
        hands.start(tries_twice)
        await clock.settle()
        scope.cancel()
        await clock.advance(5)
        assert seen == [False]


async def test_a_task_nobody_counts_may_wait_without_unbalancing_the_count() -> None:
    clock, bell = VirtualClock(), Signal()
    outsider = asyncio.ensure_future(clock.wait(bell, until=20))
    await clock.advance(19)
    assert not outsider.done()
    assert clock.activity.awake == 0
    await clock.advance(1)
    assert await outsider is False
    assert clock.activity.awake == 0
    second = asyncio.ensure_future(clock.wait(bell))
    await clock.settle()
    bell.fire()
    await clock.settle()
    assert await second is True
    assert clock.activity.awake == 0


async def test_a_moment_that_is_now_answers_without_parking() -> None:
    clock = VirtualClock(4)
    assert await clock.wait(Signal(), until=4) is False
    assert await clock.wait(Signal(), until=3) is False
