"""A queue as a naive reader of its rules keeps it: one list of messages, all of it looked at for every question.

SQS: Q1, Q2, Q17, Q18, Q33, Q50, Q51, Q55, Q57, Q59-Q63, Q68, Q71, Q73, Q75, Q76, Q89, Q99, Q107.

It knows nothing of heaps, heads, tails or journals, and shares no code with the state machines: slow, and obvious. What
the rules leave open (which of several messages that became visible at the same moment comes first) it takes over from
whoever is compared with it, after checking that it was allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from pipeflow.messages import Ack, Bury, Defer, Extend, Refused, Release, Settled, Settlement, Stale
from pipeflow.specs import QueueSpec

LONGEST_HOLD = 43_200.0
WINDOW = 300.0


@dataclass
class Item:
    """One message as the model sees it; its body is its name."""

    body: str
    group: str | None
    place: int
    kept_from: float
    size: int = 1
    ends: float = inf
    """When its own time to live does."""
    priority: int = 0
    state: str = "ready"
    until: float = 0.0
    visible_since: float = 0.0
    """Since when it is ready; less than all others when it was given back, for it goes to the front."""
    key: str | None = None
    receives: int = 0
    releases: int = 0
    tried: int = 0
    """Attempts before it was a dead letter."""
    first_received_at: float = 0.0
    received_at: float = 0.0
    durable: bool = False
    given_back: bool = False
    """Deferred or released since its last receive: that receipt is worth nothing any more."""

    @property
    def attempts(self) -> int:
        return self.receives - self.releases - self.tried


@dataclass
class Accepted:
    """One send that had a dedup id."""

    dedup_id: str
    group: str | None
    at: float
    place: int


@dataclass
class Model:
    """The rules of a queue, read one by one."""

    spec: QueueSpec
    live: dict[str, Item] = field(default_factory=dict)
    letters: list[Item] = field(default_factory=list)
    """Dead letters that nobody has taken from here yet."""
    accepted: list[Accepted] = field(default_factory=list)
    attempts: dict[str, tuple[float, list[tuple[str, int]]]] = field(default_factory=dict)
    """By attempt id: when it received, and (message, receive) of what it brought."""
    places: int = 0
    released: int = 0
    sent: int = 0
    acked: int = 0
    expired: int = 0
    buried: int = 0
    purged: int = 0
    cancelled: int = 0

    # -- in ------------------------------------------------------------------------------------------------------

    def send(
        self, body: str, group: str | None, delay: float, now: float, size: int = 1, ttl: float | None = None
    ) -> Item:
        self.places += 1
        self.sent += 1
        ends = now + ttl if ttl is not None else inf
        item = Item(body, group, self.places, now, size, ends, visible_since=now)
        if delay > 0:
            item.state, item.until = "delayed", now + delay
        self.live[body] = item
        return item

    def cancel(self, key: str, now: float) -> bool:
        """Whether a message of this key was delayed, and never visible; then it is gone."""
        self.pass_time(now)
        for item in list(self.live.values()):
            if item.key == key and item.state == "delayed" and not item.receives:
                self._leave(item)
                self.cancelled += 1
                return True
        return False

    def original(self, dedup_id: str, group: str | None, now: float) -> Accepted | None:
        """What a send with this id repeats: an accepted one of the last five minutes, in its scope (SQS: Q71, Q73)."""
        return next(
            (
                each
                for each in self.accepted
                if each.dedup_id == dedup_id
                and now - each.at < WINDOW
                and (self.spec.dedup_scope == "queue" or each.group == group)
            ),
            None,
        )

    def respec(self, spec: QueueSpec, now: float) -> None:
        """Other options: a FIFO queue's new delay holds for what is still delayed, a retention for all (Q17, Q18)."""
        if spec.fifo and spec.delay != self.spec.delay:
            for item in self.live.values():
                if item.state == "delayed" and not item.receives:
                    item.until = item.kept_from + spec.delay
        self.spec = spec
        self.pass_time(now)

    # -- time ----------------------------------------------------------------------------------------------------

    def pass_time(self, now: float) -> None:
        for item in list(self.live.values()):
            if min(item.kept_from + self.spec.retention, item.ends) <= now:
                del self.live[item.body]
                self.expired += 1
            elif item.state != "ready" and item.until <= now:
                item.state, item.visible_since = "ready", now

    def next_due(self) -> float:
        """When time next changes something."""
        ends = [min(item.kept_from + self.spec.retention, item.ends) for item in self.live.values()]
        dues = [item.until for item in self.live.values() if item.state != "ready"]
        return min([*ends, *dues], default=inf)

    # -- looking -------------------------------------------------------------------------------------------------

    def count(self, state: str) -> int:
        return sum(item.state == state for item in self.live.values())

    def retrying(self) -> int:
        return sum(item.state == "delayed" and item.receives > 0 for item in self.live.values())

    def blocked(self, item: Item) -> bool:
        """Whether the prefix rule holds a ready message back (SQS: Q75)."""
        return self.spec.fifo and any(
            other.group == item.group and other.place < item.place and other.state != "ready"
            for other in self.live.values()
        )

    def receivable(self) -> list[Item]:
        return [item for item in self.live.values() if item.state == "ready" and not self.blocked(item)]

    def exhausted(self, item: Item) -> bool:
        """Whether the next receive would be one too many (SQS: Q89)."""
        most = self.spec.max_receives if self.spec.dead_letters is not None else None
        return most is not None and item.attempts >= most

    # -- out -----------------------------------------------------------------------------------------------------

    def received(self, body: str, timeout: float, now: float, together: Sequence[str] = ()) -> Item:
        """One message of a receive; `together` is what it brought before this one."""
        item = self.live.get(body)
        assert item is not None, f"{body} was handed out and should be gone"
        assert item.state == "ready", f"{body} was handed out while it was {item.state}"
        earlier = {each.body for each in self.live.values() if each.group == item.group and each.place < item.place}
        assert not self.spec.fifo or earlier <= {*together}, f"{body} was handed out before {earlier} of its group"
        assert not self.exhausted(item), f"{body} was handed out once too often"
        item.first_received_at = item.first_received_at or now
        item.receives += 1
        item.received_at = now
        item.given_back = False
        item.state, item.until = "in_flight", now + timeout
        return item

    def hand_out(
        self, taken: Sequence[str], buried: Sequence[str], limit: int, max_bytes: int, timeout: float, now: float
    ) -> None:
        """A receive of all there is brought these and sent those to the dead letters: check it, and follow."""
        room = min(limit, self.spec.max_in_flight - self.count("in_flight"))
        if room <= 0:
            assert not [*taken, *buried], "received with no room in flight"
            return
        if self.spec.fifo:
            assert (list(taken), list(buried)) == self._next_of_groups(room, max_bytes)
        else:
            self._check_line(taken, buried, room, max_bytes)
        for body in buried:
            self.bury(self.live[body])
        for n, body in enumerate(taken):
            self.received(body, timeout, now, taken[:n])
        if timeout <= 0:
            for body in taken:
                self.live[body].state, self.live[body].visible_since = "ready", now

    def _next_of_groups(self, room: int, max_bytes: int) -> tuple[list[str], list[str]]:
        """Group by group, by the age of their oldest message, each drained as far as the prefix rule lets (Q75-76)."""
        taken: list[str] = []
        buried: list[str] = []
        size = 0
        groups: dict[str | None, list[Item]] = {}
        for item in sorted(self.live.values(), key=lambda item: item.place):
            groups.setdefault(item.group, []).append(item)
        for items in sorted(groups.values(), key=lambda items: items[0].place):
            for item in items:
                if item.state != "ready":
                    break
                if self.exhausted(item):
                    buried.append(item.body)
                    continue
                if len(taken) == room or (taken and size + item.size > max_bytes):
                    return taken, buried
                size += item.size
                taken.append(item.body)
                if len(taken) == room:
                    return taken, buried
        return taken, buried

    def _check_line(self, taken: Sequence[str], buried: Sequence[str], room: int, max_bytes: int) -> None:
        """The oldest visible comes first, and nobody is left standing while there is room (SQS: Q55)."""
        assert len(taken) <= room
        for body in buried:
            item = self.live[body]
            assert item.state == "ready", f"{body} was buried while it was {item.state}"
            assert self.exhausted(item), f"{body} was buried after {item.attempts} attempts"
        left = [item for item in self.live.values() if item.state == "ready" and item.body not in {*taken, *buried}]
        size = sum(self.live[body].size for body in taken)
        assert len(taken) <= 1 or size <= max_bytes, f"{size} bytes were handed out"
        if len(taken) < room:
            assert not left or (taken and any(size + item.size > max_bytes for item in left)), f"{left} were ready"
        tenants = any(item.group is not None for item in self.live.values())
        if left and not tenants:  # whose turn it is among tenants is told by the naive model of fair queues
            first_left = min(item.visible_since for item in left)
            came = [self.live[body].visible_since for body in [*buried, *taken]]
            assert all(since <= first_left for since in came), "somebody was passed over"
            assert came[len(buried) :] == sorted(came[len(buried) :]), "the oldest visible comes first"

    # -- receives that are repeated ------------------------------------------------------------------------------

    def repeated(self, attempt_id: str, now: float) -> list[str] | None:
        """What a receive with this id brought in the last five minutes, if all of it is as it left it (SQS: Q57)."""
        at, brought = self.attempts.get(attempt_id, (0.0, []))
        same = all(
            body in self.live and (item := self.live[body]).state == "in_flight" and item.receives == receive
            for body, receive in brought
        )
        return [body for body, _ in brought] if brought and now - at < WINDOW and same else None

    def hand_out_again(self, attempt_id: str, taken: Sequence[str], timeout: float, now: float) -> None:
        for body in taken:
            item = self.live[body]
            item.until = min(now + timeout, item.received_at + LONGEST_HOLD)
        self.note_attempt(attempt_id, taken, now)

    def note_attempt(self, attempt_id: str, taken: Sequence[str], now: float) -> None:
        items = [self.live[body] for body in taken]
        self.attempts[attempt_id] = now, [(item.body, item.receives) for item in items]

    # -- settling ------------------------------------------------------------------------------------------------

    def settle(self, settlement: Settlement, body: str, now: float) -> type[Settled | Stale | Refused]:
        """What it is answered with; what it does."""
        item = self.live.get(body)
        if item is None or item.given_back or item.receives != settlement.receipt.receive:
            if isinstance(settlement, Ack) and settlement.superseded_ok and item is not None and not self.spec.fifo:
                self._leave(item)
                self.acked += 1
                return Settled
            return Stale
        held = item.state == "in_flight"
        if not held and (self.spec.fifo or not isinstance(settlement, Ack | Bury)):
            return Stale
        match settlement:
            case Ack():
                self._leave(item)
                self.acked += 1
            case Bury():
                self.bury(item)
            case Extend(visibility_timeout=timeout):
                if timeout > 0 and now + timeout - item.received_at > LONGEST_HOLD:
                    return Refused
                mine = (body, item.receives)
                self.attempts = {id: each for id, each in self.attempts.items() if mine not in each[1]}
                item.until = now + timeout
                if timeout <= 0:
                    item.state, item.visible_since = "ready", now
            case Defer(delay=delay):
                item.given_back = True
                item.state, item.until, item.visible_since = ("delayed" if delay > 0 else "ready"), now + delay, now
            case Release(delay=delay) if delay > 0:
                item.given_back = True
                item.releases += 1
                item.state, item.until, item.visible_since = "delayed", now + delay, now
            case Release():
                item.given_back = True
                item.releases += 1
                self.released += 1
                item.state, item.visible_since = "ready", -self.released  # the front
        return Settled

    def bury(self, item: Item) -> None:
        self._leave(item)
        self.letters.append(item)
        self.buried += 1

    def purge(self) -> int:
        count = len(self.live)
        self.purged += count
        self.live.clear()
        return count

    def restart(self, now: float) -> None:
        """Another process goes on: what only the old one held is ready, in the order of places (SQS: Q55)."""
        self.attempts.clear()
        for item in self.live.values():
            if item.state == "in_flight" and not item.durable:
                item.state = "ready"
            if item.state == "ready":
                item.visible_since = now

    def _leave(self, item: Item) -> None:
        del self.live[item.body]
