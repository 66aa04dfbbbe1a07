"""A time to live and a priority as an app sees them: given by whoever sends, felt by the handler that is too late."""

from __future__ import annotations

from msgspec import Struct

from pipeflow import App, Context
from pipeflow.testing import Harness, harness


class Job(Struct):
    name: str
    seconds: float = 0.0


class Shop:
    """An app with a handler that takes its time, and one behind it that takes none."""

    def __init__(self) -> None:
        self.app = App("shop", broker="memory://")
        self.jobs = self.app.topic("jobs", Job)
        self.work = self.app.queue("work", Job, self.jobs, visibility_timeout=30)
        self.after = self.app.queue("after", Job)
        self.ended: list[str] = []
        self.h: Harness
        self.work.handler(self.handle)

    async def handle(self, job: Job, ctx: Context) -> None:
        ctx.send(self.after, job, ttl=5)
        try:
            await self.h.sleep(job.seconds)
        finally:
            self.ended.append(f"{job.name} at {self.h.clock.now() - self.began:g}")

    began = 0.0


async def test_a_handler_that_outlives_its_message_is_cancelled_and_its_emits_are_dropped() -> None:
    shop = Shop()
    async with harness(shop.app) as h:
        shop.h, shop.began = h, h.clock.now()
        await shop.work.send(Job("quick", 10), ttl=40)
        await shop.work.send(Job("slow", 3600), ttl=40)
        await h.advance(10)
        assert [job.name for job in h.queued(shop.after)] == ["quick"]
        await h.advance(5)
        assert h.queued(shop.after) == []
        await h.advance(60)
        assert shop.ended == ["quick at 10", "slow at 45"]
        assert h.queued(shop.after) == h.dead(shop.work) == h.queued(shop.work) == []


async def test_publish_and_the_many_take_a_time_to_live() -> None:
    shop = Shop()
    async with harness(shop.app) as h:
        shop.h = h
        await shop.after.send_many([Job("a"), Job("b")], ttl=7)
        await shop.after.send_many([Job("c"), Job("d")], ttl=7, attributes=lambda job: {"name": job.name})
        await h.advance(7)
        assert h.queued(shop.after) == []
        await shop.work.send_many([Job("first", 1000)] * 10)
        await h.settle()
        await shop.jobs.publish(Job("e"), ttl=7)
        await shop.jobs.publish_many([Job("f")], ttl=7)
        await shop.jobs.publish(Job("g"))
        assert [job.name for job in h.queued(shop.work)] == ["e", "f", "g"]
        await h.advance(7)
        assert [job.name for job in h.queued(shop.work)] == ["g"]


async def test_publish_and_the_many_take_priorities() -> None:
    shop = Shop()
    async with harness(shop.app) as h:
        shop.h = h
        await shop.after.send_many([Job("a", 1), Job("b", 3), Job("c", 2)], priority=lambda job: int(job.seconds))
        await shop.after.send_many([Job("d")], priority=9)
        assert [job.name for job in h.queued(shop.after)] == ["d", "b", "c", "a"]
        await shop.work.send_many([Job("first", 1000)] * 10)
        await h.settle()
        await shop.jobs.publish(Job("low"))
        await shop.jobs.publish(Job("high"), priority=2)
        await shop.jobs.publish_many([Job("higher")], priority=3)
        assert [job.name for job in h.queued(shop.work)] == ["higher", "high", "low"]
