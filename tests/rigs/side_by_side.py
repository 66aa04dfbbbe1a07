"""State machines and the naive model of a queue, side by side: each verb is done to both, and both must agree.

What a broker adds is here in its plainest form: places are counted, buried messages go to a second queue, and what the
state machines tell their `Changes` is kept as rows, of which a restart makes new state machines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from random import Random

import msgspec
from naive_queue import Accepted, Item, Model

from pipeflow.messages import Ack, Bury, Defer, Extend, Receipt, Release, Settlement
from pipeflow.specs import QueueSpec
from pipeflow.state.dedup import Dedup, dedup_key
from pipeflow.state.groups import Groups
from pipeflow.state.order import Line
from pipeflow.state.queue import QueueState
from pipeflow.state.stored import DELAYED, IN_FLIGHT, READY, Stored

STARTED = 1_000_000.0


@dataclass
class Rows:
    """What a journal remembers of a queue: every message as it was when it was last told of."""

    kept: dict[int, Stored] = field(default_factory=dict)

    def changed(self, message: Stored) -> None:
        self.kept[message.place] = msgspec.structs.replace(message)

    def gone(self, message: Stored) -> None:
        del self.kept[message.place]

    def moved(self, message: Stored) -> None:
        del self.kept[message.place]


class Pair:
    """One queue twice."""

    def __init__(self, spec: QueueSpec) -> None:
        self.boot = 1
        self.rows = Rows()
        self.state = self._machine(spec)
        self.model = Model(spec)
        self.dedup = Dedup()
        self.receipts: list[tuple[str, Receipt]] = []
        self.given: set[Receipt] = set()
        self.expired = 0

    def _machine(self, spec: QueueSpec) -> QueueState:
        return QueueState(spec, Groups() if spec.fifo else Line(), self.rows)

    # -- the verbs -----------------------------------------------------------------------------------------------

    def send(
        self,
        body: str,
        now: float,
        *,
        group: str | None,
        delay: float,
        dedup_id: str | None,
        size: int,
        ttl: float | None,
    ) -> bool:
        """Whether it was new."""
        if dedup_id is not None:
            key = dedup_key(dedup_id, group if self.state.spec.dedup_scope == "group" else None)
            found, original = self.dedup.find(key, now), self.model.original(dedup_id, group, now)
            assert found == (None if original is None else (str(original.place), original.place)), (dedup_id, found)
            if original is not None:
                return False
            place = self.model.places + 1
            self.dedup.add(key, now, str(place), place)
            self.model.accepted.append(Accepted(dedup_id, group, now, place))
            self.model.accepted = [each for each in self.model.accepted if now - each.at < 1000]
        item = self.model.send(body, group, delay, now, size, ttl)
        self.state.add(Stored(item.place, body, b"", size, now, now, group=group, expires_at=item.ends), now, delay)
        return True

    def receive(
        self,
        now: float,
        limit: int,
        timeout: float | None = None,
        max_bytes: int = 1 << 20,
        durable: bool = False,
        attempt_id: str | None = None,
    ) -> list[str]:
        model = self.model
        model.pass_time(now)
        again = model.repeated(attempt_id, now) if attempt_id is not None else None
        messages = self.state.receive(limit, max_bytes, now, self.boot, timeout, durable, attempt_id)
        taken = [message.id for message in messages]
        buried = [message.id for message in self.state.buried]
        seconds = timeout if timeout is not None else model.spec.visibility_timeout
        if attempt_id is not None and again is not None:
            assert (taken, buried) == (again, [])
            model.hand_out_again(attempt_id, taken, seconds, now)
        else:
            model.hand_out(taken, buried, limit, max_bytes, seconds, now)
            if attempt_id is not None:
                model.note_attempt(attempt_id, taken, now)
        for message in messages:
            self._check_receipt(message, again is None, durable)
        return taken

    def _check_receipt(self, message: Stored, new: bool, durable: bool) -> None:
        item = self.model.live[message.id]
        item.durable = durable if new else item.durable
        assert (message.receives, message.attempt) == (item.receives, item.attempts), message
        assert (message.first_received_at, message.received_at) == (item.first_received_at, item.received_at)
        assert message.until == (item.until if item.state == "in_flight" else 0.0), message
        receipt = Receipt(message.place, message.boot, message.receives)
        assert new == (receipt not in self.given), "only a repeated receive gives a receipt again (SQS: Q51, Q57)"
        self.given.add(receipt)
        if new:
            self.receipts.append((message.id, receipt))

    def settle(self, settlement: Settlement, body: str, now: float) -> None:
        self.model.pass_time(now)
        self.state.tick(now)
        superseded_ok = isinstance(settlement, Ack) and settlement.superseded_ok
        answer = self.state.settle(settlement, now, self.boot, superseded_ok)
        assert type(answer) is self.model.settle(settlement, body, now), (settlement, answer)

    def tick(self, now: float) -> None:
        self.state.tick(now)
        self.model.pass_time(now)

    def purge(self) -> None:
        assert self.state.purge() == self.model.purge()

    def respec(self, spec: QueueSpec, now: float) -> None:
        self.tick(now)
        self.state.respec(spec)
        self.model.respec(spec, now)
        self.tick(now)

    def restart(self, now: float) -> None:
        """New state machines of what was remembered, the rules of the broker's loads applied (SQS: Q55)."""
        self.tick(now)
        self.check(now)
        self.boot += 1
        kept, self.rows = self.rows.kept, Rows()
        self.expired += self.state.expired
        self.state = self._machine(self.state.spec)
        for place in sorted(kept):
            message = kept[place]
            held = message.state == IN_FLIGHT and message.durable and message.until > now
            if (message.state == IN_FLIGHT and not held) or (message.state == DELAYED and message.until <= now):
                message.state, message.until = READY, 0.0
            message.held_by = self.boot if held else 0  # the stop was a clean one
            self.rows.changed(message)
            self.state.restore(message)
        self.model.restart(now)
        self.tick(now)

    # -- what must agree -----------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Every count, every deadline, and which messages there are."""
        self.tick(now)
        state, model = self.state, self.model
        counts = (state.ready, state.delayed, state.retrying, state.in_flight, self.expired + state.expired)
        expected = (model.count("ready"), model.count("delayed"), model.retrying(), model.count("in_flight"))
        assert counts == (*expected, model.expired)
        assert state.order.available() == bool(model.receivable()), "who waits is woken when something is there"
        due, expected_due = state.next_due(), model.next_due()
        assert now < due <= expected_due + 0.01, f"time is kept: {due} instead of {expected_due}"
        assert not state.buried
        assert not model.letters

    def check_messages(self) -> None:
        """Message by message, in memory and as remembered."""
        places = {item.place: item for item in self.model.live.values()}
        here = list(self.state.all())
        assert sorted(message.place for message in here) == sorted(places)
        assert sorted(self.rows.kept) == sorted(places)
        for message in here:
            item, row = places[message.place], self.rows.kept[message.place]
            assert ("ready", "delayed", "in_flight")[message.state] == item.state, message
            assert item.state == "ready" or message.until == item.until, message
            for each in (message, row):
                assert (each.receives, each.releases, each.group) == (item.receives, item.releases, item.group), each
        if isinstance(self.state.order, Groups):
            assert {*self.state.order.names()} == {item.group for item in places.values()}, "no empty group is kept"
        received = {place for place, item in places.items() if item.receives}
        assert {*self.state.known} == received, "what was ever received can be settled"


class Bench:
    """A queue and its dead letters, both twice, and a clock."""

    def __init__(self, spec: QueueSpec) -> None:
        self.now = STARTED
        self.work = Pair(spec)
        self.dead = Pair(QueueSpec("dead", fifo=spec.fifo, max_receives=None, retention=4000.0))
        self.names = 0

    @property
    def pairs(self) -> tuple[Pair, Pair]:
        return self.work, self.dead

    def send(
        self,
        *,
        group: str | None = None,
        delay: float = 0.0,
        dedup_id: str | None = None,
        size: int = 1,
        ttl: float | None = None,
    ) -> bool:
        self.names += 1
        spec, name = self.work.state.spec, f"m{self.names}"
        wait = spec.delay if spec.fifo else delay
        return self.work.send(name, self.now, group=group, delay=wait, dedup_id=dedup_id, size=size, ttl=ttl)

    def receive(self, pair: Pair, limit: int = 1, timeout: float | None = None, **more: object) -> list[str]:
        taken = pair.receive(self.now, limit, timeout, **more)  # type: ignore[arg-type]  # the options of a receive
        self._take_letters()
        return taken

    def settle(self, pair: Pair, settlement: Settlement, body: str) -> None:
        pair.settle(settlement, body, self.now)
        self._take_letters()

    def _take_letters(self) -> None:
        """Messages that died go on as dead letters: same name, same receives, a place of their own (SQS: Q90, Q91)."""
        items, self.work.model.letters = self.work.model.letters, []
        messages = list(self.work.state.buried)
        self.work.state.buried.clear()
        assert [item.body for item in items] == [message.id for message in messages]
        for item, message in zip(items, messages, strict=True):
            self._move(self.dead, item.body, item, message, receives=message.receives, releases=message.releases)
        # The dead letters of dead letters have nowhere to go: a burial there is an end.
        self.dead.model.letters.clear()
        self.dead.state.buried.clear()

    def redrive(self) -> int:
        """Every letter that nobody holds goes back as a new message (SQS: Q99)."""
        self.dead.tick(self.now)
        items = sorted(self.dead.model.live.values(), key=lambda item: item.place)
        for item in [item for item in items if item.state != "in_flight"]:
            message = next(each for each in self.dead.state.all() if each.place == item.place)
            self.dead.state.move_out(message)
            del self.dead.model.live[item.body]
            self.names += 1
            self._move(self.work, f"m{self.names}", item, message, receives=0, releases=0)
        return len(items)

    def _move(self, to: Pair, name: str, item: Item, message: Stored, receives: int, releases: int) -> None:
        moved = to.model.send(name, item.group, 0.0, self.now, item.size)
        moved.receives, moved.releases, moved.tried = receives, releases, receives - releases
        moved.first_received_at = item.first_received_at if receives else 0.0
        twin = msgspec.structs.replace(
            message, place=moved.place, id=name, state=READY, until=0.0, boot=0, held_by=0, durable=False,
            kept_from=self.now, sent_at=self.now, expires_at=inf, receives=receives, releases=releases,
            tried=moved.tried,
        )  # fmt: skip
        moved.given_back = True
        to.state.add(twin, self.now)

    def advance(self, seconds: float, leap: bool = False) -> None:
        """Let time pass from deadline to deadline, as a broker does, or in one leap, as a machine that slept does."""
        target = self.now + seconds
        while not leap and (due := min(pair.model.next_due() for pair in self.pairs)) <= target:
            self.now = max(self.now, due)
            for pair in self.pairs:
                pair.tick(self.now)
        self.now = target
        for pair in self.pairs:
            pair.tick(self.now)

    def restart(self) -> None:
        for pair in self.pairs:
            pair.restart(self.now)

    def check(self) -> None:
        for pair in self.pairs:
            pair.check(self.now)

    def check_messages(self) -> None:
        for pair in self.pairs:
            pair.check_messages()


SPECS: dict[str, QueueSpec] = {
    "standard": QueueSpec("q", visibility_timeout=10.0, retention=200.0, dead_letters="dead", max_receives=3),
    "tenants": QueueSpec("q", visibility_timeout=10.0, retention=200.0, dead_letters="dead", max_receives=3),
    "fifo": QueueSpec("q", fifo=True, visibility_timeout=10.0, retention=200.0, dead_letters="dead", max_receives=3),
    "fifo by group": QueueSpec(
        "q", fifo=True, visibility_timeout=10.0, retention=200.0, dead_letters="dead", max_receives=3,
        dedup_scope="group",
    ),
}  # fmt: skip
"""The kinds of queues that are walked; what else an option says is changed on the way."""


def another(spec: QueueSpec, random: Random) -> QueueSpec:
    """The same queue with other options."""
    return msgspec.structs.replace(
        spec,
        visibility_timeout=random.choice([0.0, 3.0, 10.0, 43_200.0]),
        retention=random.choice([60.0, 200.0, 1e6]),
        max_receives=random.choice([1, 2, 3, None]),
        dead_letters=random.choice(["dead", "dead", "dead", None]),
        max_in_flight=random.choice([1, 4, 12, 120_000]),
        delay=random.choice([0.0, 0.0, 4.0, 30.0]) if spec.fifo else 0.0,
    )


class Walk:
    """A random walk over a bench; the same seed walks the same way."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind = kind
        self.random = Random(f"{kind} {seed}")
        self.bench = Bench(another(SPECS[kind], self.random))
        self.steps = 0
        self.seen: dict[str, int] = {}

    def walk(self, steps: int) -> None:
        actions = {
            self.send: 28, self.receive: 30, self.settle: 36, self.advance: 18, self.redrive: 1.5, self.purge: 0.3,
            self.respec: 0.6, self.restart: 0.6,
        }  # fmt: skip
        for action in self.random.choices(list(actions), list(actions.values()), k=steps):
            action()
            self.steps += 1
            self.bench.check()
            if self.steps % 25 == 0:
                self.bench.check_messages()

    def note(self, what: str, count: int = 1) -> None:
        self.seen[what] = self.seen.get(what, 0) + count

    def any_pair(self) -> Pair:
        return self.random.choices(self.bench.pairs, [6, 1])[0]

    def send(self) -> None:
        random = self.random
        fifo = self.bench.work.state.spec.fifo
        for _ in range(random.choice([1, 1, 1, 2, 6]) if len(self.bench.work.model.live) < 40 else 0):
            group = random.choice("abc") if fifo else random.choice("ab") if self.kind == "tenants" else None
            dedup_id = random.choice([None, *"vwxyz"]) if fifo else None
            delay = random.choice([0.0, 0.0, 0.0, 2.0, 15.0, 90.0])
            ttl, size = random.choice([None, None, 1.0, 8.0, 60.0, 500.0]), random.choice([1, 1, 5, 50])
            new = self.bench.send(group=group, delay=delay, dedup_id=dedup_id, size=size, ttl=ttl)
            self.note("sent" if new else "duplicates")

    def receive(self) -> None:
        random = self.random
        pair = self.any_pair()
        before = pair.model.buried
        taken = self.bench.receive(
            pair,
            random.choice([1, 1, 3, 10]),
            random.choice([None, None, 0.0, 3.0, 25.0, 500.0]),
            max_bytes=random.choice([1 << 20, 1 << 20, 20]),
            durable=random.random() < 0.3,
            attempt_id=random.choice([None, "one", "two"]) if pair.state.spec.fifo else None,
        )
        self.note("received", len(taken))
        self.note("exhausted", pair.model.buried - before)

    def settle(self) -> None:
        pair = self.any_pair()
        if not pair.receipts:
            return
        body, receipt = pair.receipts.pop(self.random.randrange(len(pair.receipts)))
        self.bench.settle(pair, self.settlement(receipt), body)
        if self.random.random() < 0.5:  # it stays, to be refused later
            pair.receipts.append((body, receipt))
        del pair.receipts[:-60]

    def settlement(self, receipt: Receipt) -> Settlement:
        match self.random.choice(["ack", "ack", "older", "defer", "extend", "extend", "release", "bury"]):
            case "ack":
                return Ack(receipt)
            case "older":
                return Ack(receipt, superseded_ok=True)
            case "defer":
                return Defer(receipt, self.random.choice([0.0, 5.0, 30.0]))
            case "extend":
                return Extend(receipt, self.random.choice([0.0, 1.0, 20.0, 60.0, 43_190.0, 43_200.0]))
            case "release":
                return Release(receipt)
            case _:
                return Bury(receipt)

    def advance(self) -> None:
        seconds = self.random.choice([0.5, 1.0, 1.0, 3.0, 5.0, 10.0, 45.0, 150.0, 299.5])
        self.bench.advance(seconds, leap=self.random.random() < 0.2)

    def redrive(self) -> None:
        self.note("redriven", self.bench.redrive())

    def purge(self) -> None:
        pair = self.any_pair()
        pair.tick(self.bench.now)
        self.note("purged", len(pair.model.live))
        pair.purge()

    def respec(self) -> None:
        work = self.bench.work
        work.respec(another(work.state.spec, self.random), self.bench.now)

    def restart(self) -> None:
        self.bench.restart()
