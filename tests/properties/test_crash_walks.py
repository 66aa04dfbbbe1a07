"""Random walks of every verb over a store that dies at random moments, against a model of what was acknowledged.

P8-P14, P27. A copy of the store's files, taken while it is open and at work, is what a kill leaves; the walk goes on
with the copy. What was acknowledged before the copy must be there, or gone, exactly once; what was in doubt must be
there or not, but whole. After every life the books are audited: counters against messages, rows and shared bodies.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from killed_store import copy_killed

from pipeflow.clock import VirtualClock
from pipeflow.edits import Edit
from pipeflow.embedded.opening import Kept
from pipeflow.errors import NotFound, RefusedError
from pipeflow.letters import Discard, Redrive, Rewrite
from pipeflow.messages import (
    Ack,
    Bury,
    Defer,
    Delivery,
    Emit,
    Extend,
    Outgoing,
    Release,
    Sent,
    Settled,
    Settlement,
    Stale,
    Want,
)
from pipeflow.protocols import Peeked, QueueStats
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Subscription, TopicSpec, Topology
from pipeflow.state import fair

WINDOW = 300.0
ROOTS = ("work", "copy", "line")
TOPOLOGY = Topology(
    topics=(TopicSpec("news"),),
    queues=(
        QueueSpec("work", dead_letters="work-dlq", max_receives=6, visibility_timeout=20, retention=1e6),
        QueueSpec("copy", dead_letters="copy-dlq", max_receives=6, visibility_timeout=20, retention=400),
        QueueSpec("line", fifo=True, dead_letters="line-dlq", max_receives=6, visibility_timeout=20, retention=1e6),
    ),
    subscriptions=(Subscription("news", "queue", "work"), Subscription("news", "queue", "copy")),
)

LIVE, DOUBT, GONE = "live", "in doubt", "gone"


@dataclass
class Known:
    """What the walk knows: by root queue and message, whether it is live (there or in the dead letters) or gone."""

    messages: dict[tuple[str, str], str] = field(default_factory=dict)
    pairs: list[tuple[tuple[str, str], tuple[str, str], bool]] = field(default_factory=list)
    """(one, other, both or neither): settled together or not at all; else exactly one of them is there."""
    dedup: dict[str, tuple[float, str, int]] = field(default_factory=dict)
    """Dedup id -> (accepted at, id, sequence)."""
    keys: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    """Key -> (message, due) of what was sent with it last, or may have been."""
    receipts: set[tuple[str, int, int, int]] = field(default_factory=set)
    last_sequence: Counter[str] = field(default_factory=Counter)
    ends: dict[str, float] = field(default_factory=dict)
    """By message: when its time to live ends, unless it is a dead letter by then."""


class Walk:
    """One walk through many lives of a store."""

    def __init__(self, folder: Path, seed: int, options: str) -> None:
        self.folder = folder
        self.random = Random(seed)
        self.options = options
        self.clock = VirtualClock(1_000_000.0)
        self.known = Known()
        self.lives = self.names = 0
        self.held: list[tuple[str, Delivery]] = []
        self.busy: set[str] = set()
        """Keys that a call is under way with."""
        self.store: Kept
        self.path: Path

    # -- lives -----------------------------------------------------------------------------------------------------

    async def open(self, path: Path) -> None:
        self.path = path
        store = await open_store(f"sqlite:///{path}{self.options}", clock=self.clock)
        assert isinstance(store, Kept)
        self.store = store
        await store.declare(TOPOLOGY)

    async def crash(self, work: Sequence[asyncio.Task[None]]) -> None:
        """Go on with what the files hold now; the calls that had no answer yet never get one."""
        self.lives += 1
        copy = self.folder / f"life-{self.lives}.db"
        copy_killed(self.path, copy)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self.store.close()
        for left in self.folder.glob(f"{self.path.name}*"):
            left.unlink()
        await self.open(copy)
        if self.random.random() < 0.5:
            self.held.clear()
        await self.audit()

    async def restart(self) -> None:
        await self.store.close()
        await self.open(self.path)
        await self.audit()

    async def live(self, steps: int) -> None:
        """Some calls at once, again and again, until the process dies or is closed."""
        actions: dict[Callable[[], Coroutine[Any, Any, None]], float] = {
            self.send_work: 20,
            self.send_line: 20,
            self.send_keyed: 15,
            self.publish: 15,
            self.receive: 40,
            self.settle: 45,
            self.redrive: 4,
            self.move: 3,
            self.edit: 4,
            self.discard: 2,
        }
        for _ in range(steps):
            chosen = self.random.choices(list(actions), list(actions.values()), k=self.random.choice([1, 1, 2, 4]))
            work = [asyncio.create_task(action()) for action in chosen]
            if self.random.random() < 0.12:
                for _ in range(self.random.randrange(14)):
                    await asyncio.sleep(0)
                if self.random.random() < 0.5:
                    await self.store.journal.check()  # type: ignore[attr-defined]  # the thread has done what it had
                await self.crash(work)
            else:
                for task in work:
                    await task
            if self.random.random() < 0.25:
                await self.clock.advance(self.random.choice([0.5, 3.0, 21.0, 60.0]))
            if self.random.random() < 0.02:
                await self.restart()
            if self.random.random() < 0.02:
                await self.purge()
        await self.crash([])

    # -- verbs -----------------------------------------------------------------------------------------------------

    def name(self) -> str:
        self.names += 1
        return f"m{self.names}"

    def doubt(self, *keys: tuple[str, str]) -> None:
        for key in keys:
            assert self.known.messages.get(key) != GONE, key
            self.known.messages[key] = DOUBT

    def sure(self, state: str, *keys: tuple[str, str]) -> None:
        for key in keys:
            self.known.messages[key] = state

    def forget_pairs(self, *keys: tuple[str, str]) -> None:
        self.known.pairs = [pair for pair in self.known.pairs if pair[0] not in keys and pair[1] not in keys]

    def numbered(self, queue: str, sequence: int) -> None:
        assert sequence > self.known.last_sequence[queue], f"{queue}: sequence {sequence} is not a new one"
        self.known.last_sequence[queue] = sequence

    async def send_work(self) -> None:
        names = [self.name() for _ in range(self.random.choice([1, 2, 6]))]
        keys = [("work", name) for name in names]
        self.doubt(*keys)
        delay = self.random.choice([None, None, 5.0, 40.0])
        tenant = self.random.choice([None, "A", "A", "A", "B", "C"])
        ttl = self.random.choice([None, None, None, 45.0, 70.0, 150.0])
        if ttl is not None:
            self.known.ends |= dict.fromkeys(names, self.clock.now() + ttl)
        priority = self.random.choice([0, 0, 0, 0, 2, 9])
        like = Outgoing(b"", delay=delay, group=tenant, ttl=ttl, priority=priority)
        messages = [msgspec.structs.replace(like, body=name.encode()) for name in names]
        answers = await self.store.send("work", messages)
        for answer in answers:
            assert isinstance(answer, Sent)
        self.sure(LIVE, *keys)

    async def send_keyed(self) -> None:
        """The old message of the key or the new one, never both and never neither; or cancelled."""
        key = self.random.choice("xyz")
        if key in self.busy:
            return
        self.busy.add(key)
        try:
            await self.use_key(key)
        finally:
            self.busy.discard(key)

    async def use_key(self, key: str) -> None:
        now = self.clock.now()
        candidates = self.known.keys.get(key, [])
        holders = [
            ("work", name) for name, due in candidates if due > now and self.known.messages["work", name] == LIVE
        ]
        assert len(holders) <= 1
        self.doubt(*holders)
        if self.random.random() < 0.3:
            assert await self.store.cancel_delayed("work", key) is bool(holders)
            self.sure(GONE, *holders)
            return
        name, delay = self.name(), self.random.choice([4.0, 30.0, 90.0])
        self.doubt(("work", name))
        self.known.pairs += [(holder, ("work", name), False) for holder in holders]
        self.known.keys[key] = [
            *((each, due) for each, due in candidates if ("work", each) in holders),
            (name, now + delay),
        ]
        (answer,) = await self.store.send("work", [Outgoing(name.encode(), key=key, delay=delay)])
        assert isinstance(answer, Sent)
        assert answer.replaced is bool(holders)
        self.forget_pairs(*holders)
        self.sure(GONE, *holders)
        self.sure(LIVE, ("work", name))

    async def send_line(self) -> None:
        group = self.random.choice("abc")
        known = self.known.dedup
        again = self.random.choice(list(known)) if known and self.random.random() < 0.4 else None
        name = again or self.name()
        if again is not None and self.clock.now() - known[again][0] >= WINDOW:
            return
        if again is None:
            self.doubt(("line", name))
        now = self.clock.now()
        (answer,) = await self.store.send("line", [Outgoing(name.encode(), group=group, dedup_id=name)])
        assert isinstance(answer, Sent)
        if again is not None:
            assert (answer.duplicate, answer.id, answer.sequence) == (True, *known[again][1:])
            return
        assert not answer.duplicate
        self.numbered("line", answer.sequence)
        known[name] = (now, answer.id, answer.sequence)
        self.sure(LIVE, ("line", name))

    async def publish(self) -> None:
        """P14: a copy for each subscription, or for none."""
        names = [self.name() for _ in range(self.random.choice([1, 3]))]
        body = [name.encode().ljust(self.random.choice([10, 400]), b".") for name in names]
        for name in names:
            self.doubt(("work", name), ("copy", name))
            self.known.pairs.append((("work", name), ("copy", name), True))
        await self.store.publish("news", [Outgoing(each) for each in body])
        for name in names:
            self.forget_pairs(("work", name))
            self.sure(LIVE, ("work", name), ("copy", name))

    async def receive(self) -> None:
        store = self.store
        queue = self.random.choice(["work", "copy", "line", "line", "work-dlq", "line-dlq"])
        timeout = self.random.choice([None, None, 2.0, 200.0])
        want = Want(self.random.choice([1, 2, 10]), durable=self.random.random() < 0.3, visibility_timeout=timeout)
        for delivery in await store.receive(queue, want):
            key, receipt = (root(queue), named(delivery.body)), delivery.receipt
            assert self.known.messages.get(key) != GONE, f"{key} came back"
            number = (queue, receipt.place, receipt.boot, receipt.receive)
            assert number not in self.known.receipts, f"the receipt {number} was given twice"
            self.known.receipts.add(number)
            self.held.append((queue, delivery))

    async def settle(self) -> None:
        # What a send in the same breath has no answer for yet is left alone: the books could not tell who was first.
        ripe = [entry for entry in self.held if self.known.messages[key_of(*entry)] != DOUBT]
        if not ripe:
            return
        queue, _ = self.random.choice(ripe)
        each = {key_of(*entry): entry for entry in self.random.sample(ripe, len(ripe)) if entry[0] == queue}
        mine = list(each.values())[: self.random.choice([1, 4])]
        self.held = [entry for entry in self.held if entry not in mine]
        settlements = [self.settlement(queue, delivery) for _, delivery in mine]
        emitted: list[tuple[str, str] | None] = []
        was: list[str] = []
        for entry, settlement in zip(mine, settlements, strict=True):
            key, emit = key_of(*entry), None
            was.append(self.known.messages[key])
            if isinstance(settlement, Ack):
                self.known.messages[key] = DOUBT if was[-1] == LIVE else was[-1]
                if settlement.emits:
                    emit = ("line", named(settlement.emits[0].message.body))
                    self.doubt(emit)
                    if was[-1] == LIVE:
                        self.known.pairs.append((key, emit, False))
                    else:
                        self.known.messages[emit] = GONE  # nothing comes of a message that is gone
            emitted.append(emit)
        answers = await self.store.settle(queue, settlements)
        for entry, settlement, answer, before, emit in zip(mine, settlements, answers, was, emitted, strict=True):
            key = key_of(*entry)
            assert isinstance(answer, Settled | Stale)
            assert before != GONE or isinstance(answer, Stale), f"{key} was gone and could be settled: {settlement}"
            if isinstance(settlement, Ack):
                self.forget_pairs(key)
                done = isinstance(answer, Settled)
                if before == LIVE:
                    self.known.messages[key] = GONE if done else LIVE
                if emit is not None and done:
                    self.sure(LIVE, emit)
                elif emit is not None:
                    self.known.messages[emit] = GONE

    def settlement(self, queue: str, delivery: Delivery) -> Settlement:
        receipt = delivery.receipt
        kind = self.random.choice(["ack", "ack", "ack", "emit", "defer", "extend", "bury", "release"])
        match kind:
            case "defer":
                return Defer(receipt, self.random.choice([0.0, 10.0, 100.0]))
            case "extend":
                return Extend(receipt, self.random.choice([0.0, 50.0]))
            case "bury" if not queue.endswith("-dlq"):
                return Bury(receipt)
            case "release":
                return Release(receipt)
            case "emit":
                message = Outgoing(self.name().encode(), group=self.random.choice("abc"))
                return Ack(receipt, [Emit("queue", "line", message)])
        return Ack(receipt)

    async def redrive(self) -> None:
        try:
            await self.store.redrive(Redrive(self.random.choice(["work", "line"])))
        except RefusedError:
            pass  # a move is under way

    async def move(self) -> None:
        """Start one, fast or slow, or cancel one; it goes on in the next life (SQS: Q97, Q101)."""
        under_way = [move for move in await self.store.moves() if move.under_way]
        try:
            if under_way and self.random.random() < 0.4:
                await self.store.cancel_move(self.random.choice(under_way).id)
            else:
                rate = self.random.choice([None, 0.2, 1.0, 30.0])
                await self.store.start_move(Redrive(self.random.choice(["work", "line"]), rate=rate))
        except RefusedError:
            assert under_way or (await self.store.moves())

    async def letter(self, queue: str) -> Peeked | None:
        """A dead letter that is nobody's but the operator's."""
        held = {key_of(*entry) for entry in self.held}
        letters = await self.store.peek(queue, limit=60, dead=True)
        keys = {letter.id: (queue, named(letter.body)) for letter in letters}
        mine = [each for each in letters if keys[each.id] not in held and self.known.messages[keys[each.id]] == LIVE]
        return self.random.choice(mine) if mine else None

    async def edit(self) -> None:
        """A body of another length under the same name, in place of one that queues may share."""
        queue = self.random.choice(["work", "work", "line"])
        letter = await self.letter(queue)
        if letter is not None:
            body = named(letter.body).encode().ljust(self.random.choice([5, 300, 600]), b".")
            try:
                await self.store.edit(Rewrite(queue, letter.id, Edit(body=body, raw=True)))
            except (RefusedError, NotFound):
                pass  # a move is under way, or somebody has it now

    async def discard(self) -> None:
        queue = self.random.choice(["work", "line"])
        letter = await self.letter(queue)
        if letter is None:
            return
        key = (queue, named(letter.body))
        self.known.messages[key] = DOUBT
        try:
            gone = (await self.store.discard(Discard(queue, ids=(letter.id,)))).discarded
        except RefusedError:
            gone = 0  # a move is under way
        self.sure(GONE if gone else LIVE, key)

    async def purge(self) -> None:
        keys = [key for key, state in self.known.messages.items() if key[0] == "copy" and state == LIVE]
        dead = {named(each.body) for each in await self.store.peek("copy", limit=10**6, dead=True)}
        await self.store.purge("copy")
        for key in keys:
            if key[1] not in dead:
                self.known.messages[key] = GONE

    # -- the books ---------------------------------------------------------------------------------------------------

    async def audit(self) -> None:
        """After a life: what is there is what must be there, and every count agrees."""
        await self.clock.settle()  # looking while tails are read may miss what moves
        there: Counter[tuple[str, str]] = Counter()
        for queue in ROOTS:
            letters = await self.store.peek(queue, limit=10**6, dead=True)
            messages = await self.store.peek(queue, limit=10**6)
            there.update((queue, named(peeked.body)) for peeked in [*messages, *letters])
            late = [peeked for peeked in messages if (peeked.expires_at or inf) <= self.clock.now()]
            assert not late, f"these have outlived their time to live: {late}"
            await self.balance(queue, len(messages), len(letters))
        for queue in ("work", "line"):
            moves = await self.store.moves(queue)
            assert sum(move.under_way for move in moves) <= 1, moves
        twice = [key for key, count in there.items() if count > 1]
        assert not twice, f"there twice: {twice}"
        for key in there:
            assert self.known.messages.get(key) in (LIVE, DOUBT), (
                f"{key} is there and is {self.known.messages.get(key)}"
            )
        self.compare(there)
        await self.rows()

    def compare(self, there: Counter[tuple[str, str]]) -> None:
        for one, other, both in self.known.pairs:
            # Acknowledged: the message is gone and what it emitted is there. Published: all copies are there.
            if one[0] == "copy" or other[0] == "copy" or self.may_have_ended(one):
                continue  # may have expired
            assert ((one in there) == (other in there)) is both, (
                f"{one} and {other} were not settled together: {one in there}, {other in there}"
            )
        self.known.pairs.clear()
        for key, state in self.known.messages.items():
            if state == LIVE and key not in there:
                assert key[0] == "copy" or self.may_have_ended(key), f"{key} was acknowledged and is lost"
                self.known.messages[key] = GONE  # expired; the balance says how many
            elif state == DOUBT:
                self.known.messages[key] = LIVE if key in there else GONE

    def may_have_ended(self, key: tuple[str, str]) -> bool:
        """Whether its time to live was over at some moment, however late it is looked for."""
        return self.known.ends.get(key[1], inf) <= self.clock.now()

    async def balance(self, queue: str, messages: int, letters: int) -> None:
        """P27: what came in is what went out and what is there."""
        stats = {each.name: each for each in (await self.store.stats()).queues}
        mine, dead = stats[queue], stats[f"{queue}-dlq"]
        assert total(mine) == messages, mine
        assert total(dead) == letters == mine.dead, dead
        assert mine.sent == mine.acked + mine.expired + mine.buried + mine.purged + mine.cancelled + messages
        assert mine.buried == dead.acked + dead.expired + dead.purged + mine.redriven + mine.discarded + letters

    async def rows(self) -> None:
        """The tables agree with the counters: no row is left behind, no shared body has a wrong number of holders."""
        await self.store.committed()

        def read(connection: Any) -> tuple[list[Any], list[Any]]:
            keys = connection.execute("SELECT key, shared FROM messages").fetchall()
            return keys, connection.execute("SELECT number, refs FROM bodies").fetchall()

        keys, bodies = await self.store.journal._read(read)  # type: ignore[attr-defined]
        unswept = {head.number: head.counters.purged_upto for head in self.store.nouns.lanes()}
        counted = Counter(key >> 43 for key, _ in keys if key & (1 << 42) - 1 > unswept[key >> 43])
        for head in self.store.nouns.lanes():
            counters = head.counters
            assert counters.rows + counters.delayed_rows == counted[head.number], head.spec.name
        assert Counter(shared for _, shared in keys if shared is not None) == dict(bodies)

    async def drain(self) -> None:
        """At the end all that is left comes out, once, groups in order."""
        await self.clock.advance(500.0)
        for move in await self.store.moves():
            if move.under_way:
                await self.store.cancel_move(move.id)
        await self.clock.advance(1.0)
        known = self.known.messages
        for key in [key for key, state in known.items() if state == LIVE and self.may_have_ended(key)]:
            known[key] = DOUBT
        left = {key[1] for key, state in known.items() if key[0] == "work" and state != GONE}
        for queue in ("work", "line"):
            order: dict[str | None, int] = {}
            for _ in range(1 + len(left)):
                await self.store.redrive(Redrive(queue))
                deliveries = await self.store.receive(queue, Want(10))
                if not deliveries and not (await self.store.peek(queue, dead=True)):
                    break
                for delivery in deliveries:
                    assert queue == "work" or delivery.sequence > order.get(delivery.group, 0)
                    order[delivery.group] = delivery.sequence
                    self.known.messages[queue, named(delivery.body)] = GONE
                await self.store.settle(queue, [Ack(delivery.receipt) for delivery in deliveries])
        lost = [key for key, state in self.known.messages.items() if state == LIVE and key[0] != "copy"]
        assert not lost


def named(body: bytes) -> str:
    return body.rstrip(b".").decode()


def key_of(queue: str, delivery: Delivery) -> tuple[str, str]:
    return root(queue), named(delivery.body)


def root(queue: str) -> str:
    return queue.removesuffix("-dlq")


def total(stats: QueueStats) -> int:
    return stats.ready + stats.delayed + stats.in_flight


@pytest.fixture(autouse=True)
def soon_noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant of three messages is noisy: others are read from behind it."""
    monkeypatch.setattr(fair, "MANY", 3)


async def walked(folder: Path, seed: int, options: str, steps: int) -> Walk:
    walk = Walk(folder, seed, options)
    await walk.open(folder / "life-0.db")
    try:
        await walk.live(steps)
        await walk.drain()
        await walk.audit()
    finally:
        await walk.store.close()
    return walk


OPTIONS = {"hot": "", "folded": "?log_bytes=8192", "cold": "?hot_messages=3&log_bytes=8192"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options", ["", "?log_bytes=8192", "?hot_messages=3&log_bytes=8192"], ids=["hot", "folded", "cold"]
)
async def test_p8_p13_nothing_acknowledged_is_lost_or_comes_back_whenever_the_process_dies(
    tmp_path: Path, options: str, seed: int
) -> None:
    walk = await walked(tmp_path, seed, options, 100)
    assert walk.lives > 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 140))
@pytest.mark.parametrize(
    "options", ["", "?log_bytes=8192", "?hot_messages=3&log_bytes=8192"], ids=["hot", "folded", "cold"]
)
async def test_p8_p13_the_long_walks(tmp_path: Path, options: str, seed: int) -> None:
    await walked(tmp_path, seed, options, 1000)
