"""A random walk of topics, their subscribers and archives beside the naive model of topics, over a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from killed_store import copy_killed
from naive_filters import Maker, choices, is_attribute, no_leaf_above_another
from naive_topic import Copy, Model, Replay

from pipeflow.archives import ArchiveRequest
from pipeflow.clock import VirtualClock
from pipeflow.errors import RefusedError
from pipeflow.messages import Ack, Bury, Defer, Delivery, Outgoing, Refused, Release, Sent, Settled, Settlement, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import DAY, FilterPolicy, QueueSpec, Subscription, TopicSpec, Topology, archive_queue
from pipeflow.webhooks import REPLAYED

TOPICS = (
    TopicSpec("news", archive=10 * DAY),
    TopicSpec("ordered", fifo=True),
    TopicSpec("hashed", fifo=True, content_dedup=True, dedup_scope="group", archive=10 * DAY),
)
RECEIVED: dict[str, Any] = {"max_receives": 2, "visibility_timeout": 20.0, "retention": 1e6}
QUEUES = (
    QueueSpec("plain", dead_letters="plain-dlq", **RECEIVED),
    QueueSpec("small", dead_letters="small-dlq", max_body=1000, **RECEIVED),
    QueueSpec("line", fifo=True, dead_letters="line-dlq", **RECEIVED),
    QueueSpec("lanes", fifo=True, dead_letters="lanes-dlq", dedup_scope="group", delay=3.0, **RECEIVED),
)
OPTIONS = {"sqlite": "durability=normal", "cold": "durability=normal&hot_messages=3&log_bytes=8192"}


class Walk:
    """One random walk of store and model side by side."""

    def __init__(self, kind: str, folder: Path, seed: int) -> None:
        self.kind = kind
        self.folder = folder
        self.random = Random(seed)
        self.maker = Maker(seed)
        self.clock = VirtualClock(1_000_000.0)
        self.model = Model(
            {topic.name: topic for topic in TOPICS},
            {queue.name: queue for queue in QUEUES},
            taken={topic.name: [] for topic in TOPICS},
            accepted={queue.name: [] for queue in QUEUES if queue.fifo},
        )
        self.replays: dict[tuple[str, str, str], tuple[ArchiveRequest, Replay, dict[str, Any] | None]] = {}
        self.held: list[tuple[Delivery, Copy]] = []
        self.lives = 0
        self.seen: dict[str, int] = {}
        self.store: Store

    async def walk(self, steps: int) -> None:
        self.change_subscriptions()
        await self.open()
        try:
            for _ in range(steps):
                await self.step()
            await self.drain()
        finally:
            await self.store.close()

    # -- lives ---------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        return self.folder / f"life-{self.lives}.db"

    async def open(self) -> None:
        url = "memory://" if self.kind == "memory" else f"sqlite:///{self.path}?{OPTIONS[self.kind]}"
        self.store = await open_store(url, clock=self.clock)
        await self.declare()

    async def declare(self) -> None:
        archived = [topic for topic in TOPICS if topic.archive]
        archives = [archive_queue(topic) for topic in archived]
        kept = [Subscription(topic.name, "queue", archive_queue(topic).name) for topic in archived]
        subscriptions = (*self.model.subscriptions, *kept)
        await self.store.declare(Topology(TOPICS, (*QUEUES, *archives), subscriptions=subscriptions))

    async def restart(self) -> None:
        """Close the store and open it again, or go on with a copy of its files: a kill."""
        if self.random.random() < 0.5:
            await self.store.close()
        else:
            before = self.path
            self.lives += 1
            copy_killed(before, self.path)
            await self.store.close()
        self.held.clear()
        await self.open()
        self.note("lives")

    def note(self, what: str, count: int = 1) -> None:
        self.seen[what] = self.seen.get(what, 0) + count

    # -- steps ---------------------------------------------------------------------------------------------------

    async def step(self) -> None:
        lives = 0.6 if self.kind != "memory" else 0.0
        weights = {
            self.publish: 30, self.send: 4, self.receive: 30, self.settle: 30, self.advance: 12, self.replay: 6,
            self.resubscribe: 2, self.make_anew: 0.5, self.restart: lives,
        }  # fmt: skip
        (action,) = self.random.choices(list(weights), list(weights.values()))
        await action()

    def outgoing(self, fifo: bool) -> Outgoing:
        random = self.random
        body = {**self.maker.body(), "pad": "x" * random.choice([0, 0, 300, 300, 2000])}
        attributes = {name: value for name, value in self.maker.body(2).items() if is_attribute(value)}
        right = random.random() < 0.9
        return Outgoing(
            json.dumps(random.choice([body, {"pad": "again"}])).encode(),
            attributes if attributes and random.random() < 0.7 else None,
            {"subject": "hello"} if random.random() < 0.3 else None,
            random.choice("ab") if fifo == right else None,
            random.choice([None, *"wxyz"]) if fifo or random.random() < 0.2 else None,
            random.choice([None, None, 0.0, 7.0]) if not fifo else None,
        )

    async def publish(self) -> None:
        topic = self.random.choice(TOPICS)
        model, now = self.model, self.clock.now()
        batch = [self.outgoing(topic.fifo) for _ in range(self.random.choice([1, 1, 3]))]
        for outgoing, answer in zip(batch, await self.store.publish(topic.name, batch), strict=True):
            invalid = topic.fifo and outgoing.group is None
            original = model.original(topic, outgoing, now)
            if isinstance(answer, Refused):
                assert invalid or original is None, "a duplicate is no refusal"
                assert model.refuses(topic, outgoing, now), answer
                self.note("refused")
            elif original is not None:
                assert answer == Sent(original.id, original.sequence if topic.fifo else 0, duplicate=True)
                self.note("duplicates")
            else:
                assert not model.refuses(topic, outgoing, now), outgoing
                before = len(model.owed)
                taken = model.publish(topic, outgoing, answer.id, now)
                assert answer == Sent(answer.id, taken.sequence if topic.fifo else 0)
                self.note("published")
                self.note("delivered", len(model.owed) - before)

    async def send(self) -> None:
        """Straight into a FIFO queue: its window is one, whoever sends (SQS: Q71)."""
        spec = self.random.choice(QUEUES[2:])
        model, now = self.model, self.clock.now()
        body, group, dedup_id = b'{"straight": 1}', self.random.choice("ab"), self.random.choice("wxyz")
        (answer,) = await self.store.send(spec.name, [Outgoing(body, group=group, dedup_id=dedup_id)])
        assert isinstance(answer, Sent)
        known = model.repeated(spec, dedup_id, group, now)
        assert answer.duplicate == (known is not None)
        if known is not None:
            assert answer.id == known
            return
        model.accepted[spec.name].append((dedup_id, group, now, answer.id, 0))
        model.owe(spec, answer.id, (body, {}), group, dedup_id)

    async def receive(self) -> None:
        queue = self.random.choice(QUEUES).name + self.random.choice(["", "", "", "-dlq"])
        self.take(await self.store.receive(queue, Want(self.random.choice([1, 3, 10]))))

    def take(self, taken: Sequence[Delivery]) -> None:
        for delivery in taken:
            copy = self.model.came(delivery, REPLAYED in delivery.headers, self.clock.now())
            self.held.append((delivery, copy))
            self.note("received")

    async def settle(self) -> None:
        if not self.held:
            return
        delivery, copy = self.held.pop(self.random.randrange(len(self.held)))
        settlement = self.settlement(delivery)
        (answer,) = await self.store.settle(delivery.queue, [settlement])
        if isinstance(settlement, Ack) and isinstance(answer, Settled):
            self.model.acknowledged(copy)

    def settlement(self, delivery: Delivery) -> Settlement:
        match self.random.choice(["ack", "ack", "ack", "defer", "release", "bury"]):
            case "defer":
                return Defer(delivery.receipt, self.random.choice([0.0, 10.0]))
            case "release":
                return Release(delivery.receipt)
            case "bury" if not delivery.queue.endswith("-dlq"):
                return Bury(delivery.receipt)
        return Ack(delivery.receipt)

    async def advance(self) -> None:
        await self.clock.advance(self.random.choice([0.5, 3.0, 10.0, 21.0, 120.0, 299.5]))

    # -- subscriptions -------------------------------------------------------------------------------------------

    async def resubscribe(self) -> None:
        self.change_subscriptions()
        await self.declare()

    def change_subscriptions(self) -> None:
        """Some of all that may subscribe (T20), each raw or not, with a filter or none."""
        pairs = [(topic, queue) for topic in TOPICS for queue in QUEUES if may_subscribe(topic, queue)]
        self.model.subscriptions = [
            Subscription(topic.name, "queue", queue.name, self.filter(), raw=self.random.random() < 0.5)
            for topic, queue in self.random.sample(pairs, self.random.randint(3, len(pairs)))
        ] + [
            Subscription(pattern, "queue", queue.name, self.filter(), raw=self.random.random() < 0.5, named=True)
            for queue in QUEUES
            for pattern in self.random.choices([None, "*", "*ed", "n*s", "*e*d*", "x*"], [5, 1, 1, 1, 1, 1])
            if pattern is not None
        ]

    async def make_anew(self) -> None:
        """Delete a topic and make it again: what it published is forgotten, and what lies in queues is not (T4)."""
        assert await self.store.delete_topic("ordered")
        self.model.taken["ordered"] = []
        await self.declare()
        self.note("made anew")

    def filter(self) -> FilterPolicy | None:
        scope = self.random.choice([None, "attributes", "body"])
        if scope is None:
            return None
        policy = self.policy(nested=scope == "body")
        return FilterPolicy(json.dumps(policy), "body" if scope == "body" else "attributes")

    def policy(self, nested: bool) -> dict[str, Any]:
        while True:
            like = self.maker.body()
            policy = self.maker.policy(like, 1 if nested else 0)
            if not nested:
                policy = {name: rules for name, rules in policy.items() if isinstance(rules, list) and "." not in name}
            if all(no_leaf_above_another(choice) for choice in choices(policy, ())):
                return policy

    # -- archives ------------------------------------------------------------------------------------------------

    async def replay(self) -> None:
        """Begin a replay, go on with one, or do one again (T75)."""
        targets = [each for topic in TOPICS if topic.archive for each in self.model.feeding(topic)]
        if not targets:
            return
        target = self.random.choice(targets)
        name = self.random.choice("mn")
        key = target.topic, target.target, name
        again = self.random.random() < 0.3
        if key not in self.replays or again:
            self.replays[key] = self.begin(target, name, again)
        request, replay, policy = self.replays[key]
        answer = self.model.replay(
            replay, target, request.since or 0.0, request.until, policy, request.limit, self.clock.now()
        )
        if answer is None:
            with pytest.raises(RefusedError):
                await self.store.archived(request)
            self.note("refused replays")
            return
        sent, done = answer
        report = await self.store.archived(request)
        assert report.ids == sent, (request, report)
        assert report.before + report.sent == replay.sent
        assert done or not report.done, "a replay that has more is not done"
        self.replays[key] = self.going_on(request), replay, policy
        self.note("replayed", len(sent))

    def begin(
        self, target: Subscription, name: str, again: bool
    ) -> tuple[ArchiveRequest, Replay, dict[str, Any] | None]:
        now = self.clock.now()
        policy = self.policy(nested=False) if self.random.random() < 0.3 else None
        request = ArchiveRequest(
            target.topic,
            target.target,
            since=self.random.choice([None, None, now - 400.0, now - 1200.0]),
            until=self.random.choice([None, None, now - 100.0]),
            policy=FilterPolicy(json.dumps(policy)) if policy is not None else None,
            name=name,
            again=again,
            limit=self.random.choice([1, 3, 20]),
        )
        return request, Replay(), policy

    @staticmethod
    def going_on(request: ArchiveRequest) -> ArchiveRequest:
        return ArchiveRequest(
            request.topic, request.to, request.since, request.until, request.policy, request.name, limit=request.limit
        )

    # -- the end -------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """What is owed comes, all of it, and nothing else."""
        if self.kind == "memory":
            topics = (await self.store.stats()).topics
            assert sum(each.published for each in topics) == sum(map(len, self.model.taken.values()))
        for _ in range(10_000):
            await self.clock.advance(30.0)
            taken = [
                delivery
                for queue in QUEUES
                for name in (queue.name, f"{queue.name}-dlq")
                for delivery in await self.store.receive(name, Want(100))
            ]
            self.held.clear()
            self.take(taken)
            for delivery, copy in self.held:
                assert await self.store.settle(delivery.queue, [Ack(delivery.receipt)]) == [Settled()]
                self.model.acknowledged(copy)
            if not taken and not self.model.owed:
                return
        raise AssertionError(f"{self.model.owed} never came")


def may_subscribe(topic: TopicSpec, queue: QueueSpec) -> bool:
    """A FIFO queue needs a FIFO topic (T20), and one that tells duplicates by group a queue that does so too (T70)."""
    return not queue.fifo or (topic.fifo and (topic.dedup_scope, queue.dedup_scope) != ("group", "queue"))
