"""One queue: what is ready, delayed and in flight, and every legal way from one to the other.

Pure and synchronous: `now`, ids and boots are arguments. Memory is the truth; what changes is told to `Changes` as the
message itself, whose fields are absolute values, so that a journal can remember it. A message is in exactly one state
(SQS: Q1, Q2); deadlines are compared with >= (Q4); expiry comes before every receive (Q107).
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, assert_never

from pipeflow.messages import (
    Ack,
    Bury,
    Defer,
    Extend,
    Failure,
    Receipt,
    Refused,
    Release,
    Settled,
    Settlement,
    Stale,
)
from pipeflow.specs import YEAR, QueueSpec
from pipeflow.state.attempts import Attempts
from pipeflow.state.changes import Changes
from pipeflow.state.fair import Fair
from pipeflow.state.order import Order
from pipeflow.state.stored import DELAYED, GONE, IN_FLIGHT, READY, Stored, redelay

FAILURES_KEPT = 10
LONGEST_HOLD = 43_200.0
"""Seconds for which one receive hides a message, counted from the receive (SQS: Q63)."""

_SETTLED = Settled()
_SUPERSEDED = Stale("the message was received again; its newest receiver owns it")
_EXPIRED = Stale("the visibility timeout ran out")
_TOO_LONG = Refused(
    "beyond_limit",
    f"one receive hides a message for {LONGEST_HOLD:g} s at most, extensions included; it is visible again at its"
    " deadline",
)
_NEVER = Refused("bad_delay", "a message can be deferred for a year at most")
_GONE = Stale("the message is gone")


class QueueState:
    """The state machine of one queue. Every method takes the time and leaves the queue consistent."""

    __slots__ = (
        "spec",
        "order",
        "changes",
        "ready",
        "delayed",
        "retrying",
        "in_flight",
        "known",
        "keys",
        "buried",
        "expired",
        "fair",
        "attempts",
        "_now",
        "_waiting",
        "_held",
        "_expiring",
        "_count",
        "_sweep_at",
        "_alone",
    )

    def __init__(self, spec: QueueSpec, order: Order, changes: Changes) -> None:
        self.spec = spec
        self.order = order
        self.changes = changes
        self.ready = 0
        self.delayed = 0
        self.retrying = 0
        """Delayed messages that were received before: they wait for a retry."""
        self.in_flight = 0
        self.known: dict[int, Stored] = {}
        """By place: every message here that was ever received."""
        self.keys: dict[str, Stored] = {}
        """By key: the delayed message that can be replaced or cancelled by it."""
        self.buried: list[Stored] = []
        """Left for the dead letters; the owner of the queue moves them on."""
        self.expired = 0
        """Expired since the owner last looked."""
        self.fair: Fair | None = None
        """Its order once tenants share it; a queue without groups has none, and pays for none."""
        self.attempts: Attempts | None = None
        self._now = 0.0
        self._waiting: list[tuple[float, int, Stored]] = []
        self._held: list[tuple[float, int, int, Stored]] = []
        self._expiring: list[tuple[float, int, Stored]] = []
        """By the end of their time to live, those that have one; checked when it comes up."""
        self._count = 0
        self._sweep_at = inf
        self._alone: Stored | None = None

    def respec(self, spec: QueueSpec) -> None:
        """Go on with other options. A new retention holds for what is here, and so does a FIFO queue's new delay for
        what is still delayed (SQS: Q17, Q18).
        """
        redelayed = spec.fifo and spec.delay != self.spec.delay
        self.spec = spec
        oldest = inf
        for message in list(self.all()):
            if redelayed and message.state == DELAYED and not message.receives:
                redelay(message, spec.delay)
                self._count += 1
                heappush(self._waiting, (message.until, self._count, message))
                self.changes.changed(message)
            oldest = min(oldest, message.kept_from)
        self._sweep_at = oldest + spec.retention

    # -- in ------------------------------------------------------------------------------------------------------

    def add(self, message: Stored, now: float, delay: float = 0.0) -> None:
        """Take a new message, visible after `delay` seconds (SQS: Q2 a, b)."""
        if delay > 0:
            message.state = DELAYED
            message.until = now + delay
        else:
            message.state = READY
        self.restore(message)
        self.changes.changed(message)

    def restore(self, message: Stored) -> None:
        """Take a message as it was remembered: nothing changes, so nothing is told."""
        if message.group is not None and self.fair is None and not self.spec.fifo:
            self.share()
        state = message.state
        if state == READY:
            self.ready += 1
        elif state == DELAYED:
            self.delayed += 1
            self.retrying += message.receives > 0
            self._count += 1
            heappush(self._waiting, (message.until, self._count, message))
            if message.key is not None:
                self.keys[message.key] = message
        else:
            self.in_flight += 1
            self._hold(message)
        if message.receives:
            self.known[message.place] = message
        self.order.add(message)
        expires = message.kept_from + self.spec.retention
        if expires < self._sweep_at:
            self._sweep_at = expires
        if message.expires_at != inf:
            self._expires(message)

    def _expires(self, message: Stored) -> None:
        expiring = self._expiring
        self._count += 1
        heappush(expiring, (message.expires_at, self._count, message))
        if len(expiring) > 2 * (self.ready + self.delayed + self.in_flight) + 4096:
            # What was acknowledged leaves the end of its time behind; a long one must not keep it in memory.
            self._expiring = [entry for entry in expiring if entry[2].state != GONE]
            heapify(self._expiring)

    def share(self) -> None:
        """A standard queue has tenants from now on (SQS: Q81)."""
        fair = self.fair = Fair()
        for message in [*self.order.all(), *(m for m in self.known.values() if m.state == IN_FLIGHT)]:
            fair.add(message)
        self.order = fair

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Let time have its effect: lives and delays end, visibility timeouts run out, retention ends (Q2 c, g, l)."""
        self._now = now
        if self._expiring:
            self.expire(now)
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            until, _, message = heappop(waiting)
            if message.state == DELAYED and message.until == until:
                self.delayed -= 1
                self.retrying -= message.receives > 0
                if message.key is not None:
                    self._free_key(message)
                    message.key = None
                self._make_ready(message, front=False)
        held = self._held
        while held and held[0][0] <= now:
            _, _, receive, message = heappop(held)
            if message.state != IN_FLIGHT or message.receives != receive:
                continue
            if message.until > now:
                self._hold(message)
            else:
                self._take_back(message)
                self._make_ready(message, front=False)
        if now >= self._sweep_at:
            self._sweep(now)

    def expire(self, now: float) -> None:
        """Delete what has outlived its time to live, whoever holds it (SQS: Q107)."""
        expiring = self._expiring
        while expiring and expiring[0][0] <= now:
            message = heappop(expiring)[2]
            if message.state != GONE:
                self._expire(message)

    def next_due(self) -> float:
        """When `tick` next has something to do; inf when time alone changes nothing."""
        held = self._held
        while held and (held[0][3].state != IN_FLIGHT or held[0][3].receives != held[0][2]):
            heappop(held)
        waiting = self._waiting
        while waiting and (waiting[0][2].state != DELAYED or waiting[0][2].until != waiting[0][0]):
            heappop(waiting)
        due = self._sweep_at if self.ready + self.delayed + self.in_flight else inf
        if held and held[0][0] < due:
            due = held[0][0]
        if waiting and waiting[0][0] < due:
            due = waiting[0][0]
        expiring = self._expiring
        while expiring and expiring[0][2].state == GONE:
            heappop(expiring)
        if expiring and expiring[0][0] < due:
            due = expiring[0][0]
        return due

    # -- out -----------------------------------------------------------------------------------------------------

    def receive(
        self,
        limit: int,
        max_bytes: int,
        now: float,
        boot: int,
        timeout: float | None = None,
        durable: bool = False,
        attempt_id: str | None = None,
        beside: int = 0,
        size: int = 0,
    ) -> list[Stored]:
        """Hand out what is ready, each with a new receive number (SQS: Q2 d-f, Q51).

        At most `limit` messages and `max_bytes` of bodies, but at least one when there is one. `beside`: how many
        messages of the same queue are in flight that another state machine keeps; `size`: bytes of those that go out
        with these.
        """
        self.tick(now)
        spec = self.spec
        if timeout is None:
            timeout = spec.visibility_timeout
        if attempt_id is not None and self.attempts is not None:
            again = self.attempts.repeated(attempt_id, now, self.known)
            if again is not None:
                self._restart(again, now, timeout)
                self.attempts.note(attempt_id, again, now)
                return again
        if self._alone is not None and self.runs_alone:
            return []
        limit = min(limit, spec.max_in_flight - self.in_flight - beside)
        if limit <= 0 or not self.ready:
            return []
        taken: list[Stored] = []
        expired_before = now - spec.retention
        # Without dead letters a message has nowhere to go: it is tried until its retention ends, never dropped.
        limit_of_receives = spec.max_receives if spec.dead_letters is not None else None
        candidates = self.order.candidates(now)
        for message in candidates:
            if message.kept_from <= expired_before:
                self._expire(message)
                continue
            if limit_of_receives is not None and message.attempt >= limit_of_receives:
                self._bury(message)
                continue
            # Only what was here at a stop that was not clean can have caused it.
            stops = message.stops + (message.suspect and message.held_by not in (0, boot))
            if stops >= 2 and (taken or self.in_flight or beside):
                break
            if (taken or size) and size + message.size > max_bytes:
                break
            size += message.size
            self._hand_out(message, now, boot, timeout, stops, durable)
            taken.append(message)
            if stops >= 2:
                self._alone = message
                break
            if len(taken) == limit:
                break
        # Not left to the collector: without reference counts it comes late, and compiled generators it passes by.
        candidates.close()
        if timeout <= 0:
            for message in taken:
                self._take_back(message)
                self._make_ready(message, front=False)
        if attempt_id is not None:
            self.attempts = self.attempts or Attempts()
            self.attempts.note(attempt_id, taken, now)
        return taken

    def _restart(self, messages: list[Stored], now: float, timeout: float) -> None:
        for message in messages:
            # It is the same receive, and one receive hides a message for so long at most (SQS: Q63).
            until = min(now + timeout, message.received_at + LONGEST_HOLD)
            if until < message.until:
                message.until = until
                self._hold(message)
            message.until = until
            if message.durable:
                self.changes.changed(message)

    @property
    def runs_alone(self) -> bool:
        """Whether a message is in flight that nothing may run beside."""
        return self._alone is not None and self._alone.state == IN_FLIGHT

    def settle(
        self, settlement: Settlement, now: float, boot: int, superseded_ok: bool = False
    ) -> Settled | Stale | Refused:
        """Decide the fate of one received message. The caller has let time pass (`tick`) before."""
        # What a careless caller made of a receipt is that of no message.
        receipt: Any = settlement.receipt
        known: Any = self.known
        message: Stored | None = known.get(receipt.place)
        if message is None:
            return _GONE
        if not self._current(message, receipt):
            if superseded_ok and not self.spec.fifo:
                self._remove(message)
                return _SETTLED
            return _SUPERSEDED
        held = message.state == IN_FLIGHT
        if isinstance(settlement, Ack):
            # A timed-out receipt without successor still counts on standard queues (SQS: Q59, Q61).
            if not held and self.spec.fifo:
                return _EXPIRED
            self._remove(message)
            return _SETTLED
        if isinstance(settlement, Extend):
            return self._extend(message, settlement.visibility_timeout, now) if held else _EXPIRED
        if isinstance(settlement, Defer):
            return self._defer(message, settlement.delay, settlement.failure, now) if held else _EXPIRED
        if isinstance(settlement, Bury):
            if not held and self.spec.fifo:
                return _EXPIRED
            self._note(message, settlement.failure)
            if settlement.headers:
                message.headers = {**(message.headers or {}), **settlement.headers}
            self._bury(message)
            return _SETTLED
        if isinstance(settlement, Release):
            if not held:
                return _EXPIRED
            if not settlement.delay <= YEAR:
                return _NEVER
            message.releases += 1
            if settlement.delay > 0:
                return self._defer(message, settlement.delay, None, now)
            self._give_back(message, front=True)
            return _SETTLED
        assert_never(settlement)

    def take_back(self, message: Stored) -> None:
        """Delete a delayed message: it was cancelled, or another takes its place."""
        self._remove(message)
        message.body = None
        # It leaves its due time behind, which may be a year away.
        if len(self._waiting) > 2 * self.delayed + 4096:
            self.compact_waiting()

    def purge(self) -> int:
        """Delete everything that is here, in flight or not (SQS: Q2 m, Q68); how many there were."""
        victims = list(self.all())
        for message in victims:
            self._remove(message)
        self.order.clear()
        self._waiting.clear()
        self._held.clear()
        self._expiring.clear()
        self._sweep_at = inf
        return len(victims)

    def move_out(self, message: Stored) -> None:
        """Take one message out, whatever its state, for another queue to take in."""
        self._leave(message)
        message.state = GONE
        self.known.pop(message.place, None)
        self.order.released_from(message)
        self.changes.moved(message)

    def receivable(self, most: int) -> int:
        """How many receivers would find a message now if each took one, as far as `most`."""
        if self._alone is not None and self._alone.state == IN_FLIGHT:
            return 0
        room = min(most, self.ready, self.spec.max_in_flight - self.in_flight)
        return self.order.receivable(room) if room > 0 else 0

    # -- looking -------------------------------------------------------------------------------------------------

    def all(self) -> Iterator[Stored]:
        """Every live message: ready ones in order, then delayed by due time, then those in flight."""
        if self.spec.fifo:
            yield from self.order.all()
            return
        yield from self.order.all()
        waiting = [entry for entry in self._waiting if entry[2].state == DELAYED and entry[2].until == entry[0]]
        for _, _, message in sorted(waiting, key=lambda entry: entry[:2]):
            yield message
        yield from [message for message in self.known.values() if message.state == IN_FLIGHT]

    def later_half(self) -> list[Stored]:
        """The delayed messages of a standard queue that come due last: candidates for leaving memory."""
        waiting = {
            message.place: message
            for until, _, message in self._waiting
            if message.state == DELAYED and message.until == until
        }
        ordered = sorted(waiting.values(), key=lambda message: (message.until, message.place))
        return ordered[len(ordered) // 2 :]

    def take_due(self, now: float) -> list[Stored]:
        """Take out the delayed messages that are due, in order of due time, instead of making them ready."""
        due: list[Stored] = []
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            until, _, message = heappop(waiting)
            if message.state == DELAYED and message.until == until:
                self.forget(message)
                due.append(message)
        return due

    def compact_waiting(self) -> None:
        """Let go of messages that left before they came due."""
        self._waiting = [e for e in self._waiting if e[2].state == DELAYED and e[2].until == e[0]]
        heapify(self._waiting)

    def forget(self, message: Stored) -> None:
        """Stop holding a message in memory, nothing of it being changed: the disk has it."""
        self._leave(message)
        message.state = GONE
        self.known.pop(message.place, None)

    # -- the transitions -----------------------------------------------------------------------------------------

    @staticmethod
    def _current(message: Stored, receipt: Receipt) -> bool:
        return message.receives == receipt.receive and message.boot == receipt.boot

    def _hand_out(self, message: Stored, now: float, boot: int, timeout: float, stops: int, durable: bool) -> None:
        self.ready -= 1
        self.in_flight += 1
        message.state = IN_FLIGHT
        message.until = now + timeout
        if not message.receives:
            message.first_received_at = now
        message.receives += 1
        message.received_at = now
        message.boot = boot
        message.held_by = boot
        message.stops = stops
        message.durable = durable
        self.known[message.place] = message
        self._count += 1
        heappush(self._held, (message.until, self._count, message.receives, message))
        self.changes.changed(message)

    def _hold(self, message: Stored) -> None:
        self._count += 1
        heappush(self._held, (message.until, self._count, message.receives, message))

    def _take_back(self, message: Stored) -> None:
        # Out of flight, receipt still the newest: a late acknowledgement on a standard queue counts.
        self.in_flight -= 1
        message.held_by = 0
        message.durable = False
        if self.fair is not None:
            self.fair.landed(message, self._now)
        if len(self._held) > 4 * self.in_flight + 4096:
            self._compact()

    def _compact(self) -> None:
        # Acknowledged messages leave their deadline behind; a long visibility timeout must not keep them in memory.
        self._held = [entry for entry in self._held if entry[3].state == IN_FLIGHT and entry[3].receives == entry[2]]
        heapify(self._held)

    def _make_ready(self, message: Stored, front: bool) -> None:
        message.state = READY
        message.until = 0.0
        self.ready += 1
        self.order.ready_again(message, front)

    def _give_back(self, message: Stored, front: bool) -> None:
        self._take_back(message)
        message.boot = 0
        self._make_ready(message, front)
        self.changes.changed(message)

    def _extend(self, message: Stored, timeout: float, now: float) -> Settled | Refused:
        # Asked this way, what is no number is refused too.
        if not (timeout <= 0 or now + timeout - message.received_at <= LONGEST_HOLD):
            return _TOO_LONG
        if self.attempts is not None:
            self.attempts.changed(message.place)
        durable = message.durable
        if timeout <= 0:
            self._take_back(message)
            self._make_ready(message, front=False)
        else:
            shorter = now + timeout < message.until
            message.until = now + timeout
            if shorter:
                self._hold(message)
        if durable:
            self.changes.changed(message)
        return _SETTLED

    def _defer(self, message: Stored, delay: float, failure: Failure | None, now: float) -> Settled | Refused:
        if not delay <= YEAR:
            return _NEVER
        self._note(message, failure)
        if delay <= 0:
            self._give_back(message, front=False)
            return _SETTLED
        self._take_back(message)
        message.boot = 0
        message.state = DELAYED
        message.until = now + delay
        self.delayed += 1
        self.retrying += 1
        self._count += 1
        heappush(self._waiting, (message.until, self._count, message))
        self.changes.changed(message)
        return _SETTLED

    @staticmethod
    def _note(message: Stored, failure: Failure | None) -> None:
        if failure is not None:
            message.failures = [*(message.failures or ())[-(FAILURES_KEPT - 1) :], failure]

    def _leave(self, message: Stored) -> None:
        if message.state == READY:
            self.ready -= 1
        elif message.state == DELAYED:
            self.delayed -= 1
            self.retrying -= message.receives > 0
            if message.key is not None:
                self._free_key(message)
        elif message.state == IN_FLIGHT:
            self._take_back(message)

    def _free_key(self, message: Stored) -> None:
        assert message.key is not None
        if self.keys.get(message.key) is message:
            del self.keys[message.key]

    def _remove(self, message: Stored) -> None:
        self._leave(message)
        message.state = GONE
        self.known.pop(message.place, None)
        self.order.released_from(message)
        self.changes.gone(message)
        # Its deadlines may lie about for hours yet: they are small, a body may not be.
        message.body = None

    def _bury(self, message: Stored) -> None:
        self.move_out(message)
        self.buried.append(message)

    def _expire(self, message: Stored) -> None:
        self._remove(message)
        self.expired += 1

    def _sweep(self, now: float) -> None:
        """Expire what is too old; the next sweep is when the oldest that is left becomes too old."""
        retention = self.spec.retention
        oldest = inf
        count = 0
        for message in list(self.all()):
            count += 1
            if message.kept_from + retention <= now:
                self._expire(message)
            elif message.kept_from < oldest:
                oldest = message.kept_from
        # A sweep looks at every message: rest in proportion, or a steady trickle of expiries would sweep for ever.
        self._sweep_at = max(oldest + retention, now + count * 2e-5)
