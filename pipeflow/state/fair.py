"""The order of a fair queue: tenants share a standard queue, and a noisy one waits for the quiet (SQS: Q81-Q84).

The group of a message is its tenant; a message without one is a tenant of its own. There are no locks and no order
within a tenant beyond that of every standard queue: the oldest visible message comes first, whosever it is. A tenant is
noisy while it has much of what consumers can do, and then it is served when no quiet tenant has a message; nothing of
it is dropped or delayed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from heapq import heappop, heappush, heapreplace, merge
from math import inf
from typing import Final

from pipeflow.state.stored import IN_FLIGHT, READY, Stored

MANY: Final = 30
"""Messages of a tenant in flight, or handed out lately, below which it is never noisy (SQS: Q82)."""
SHARES: Final = 10
"""It is noisy when it has more than one of so many parts of what is in flight, or of consumers' time (SQS: Q82)."""
SILENCE: Final = 300.0
"""Seconds without a send after which it is quiet again (SQS: Q84)."""
HALF_LIFE: Final = 60.0
"""Seconds after which time that consumers spent counts half."""
ROOM: Final = 10_000
"""Tenants of whom something is remembered before those without a message here are forgotten."""
LEAST: Final = 0.001
"""Seconds that a message costs its consumer at least."""


class Tenant:
    """One group of a fair queue: what of it is ready, and what it took of the consumers."""

    __slots__ = ("at", "busy", "in_flight", "line", "name", "noisy", "since", "taken")

    def __init__(self, name: str) -> None:
        self.name = name
        self.at: int | None = None
        """Where it stands among the quiet: not behind its next message."""
        self.line: deque[tuple[int, Stored]] = deque()
        """(when it became ready, message): a number that only grows, less than all others for what was given back."""
        self.in_flight = 0
        self.taken = 0
        """Handed out since it came, or since it was last noisy."""
        self.busy = 0.0
        """Seconds of consumers' time, each worth as much as the scale said when it was spent."""
        self.noisy = False
        self.since = 0.0
        """When it last sent, or became noisy."""

    def head(self) -> Stored | None:
        """Its next message; what left the queue meanwhile is passed over."""
        line = self.line
        while line and line[0][1].state != READY:
            line.popleft()
        return line[0][1] if line else None


class Fair:
    """The order of a standard queue that has tenants."""

    __slots__ = (
        "elsewhere",
        "in_flight",
        "tail",
        "_busy",
        "_first",
        "_last",
        "_noisy",
        "_plain",
        "_quiet",
        "_review_at",
        "_room",
        "_scale_from",
        "_tenants",
    )

    def __init__(self) -> None:
        self.in_flight = 0
        self.tail = False
        """Tenants may have more messages than are here: one without any here is not known to have none."""
        self.elsewhere = False
        """Quiet tenants may have messages that are not here: a noisy one waits until it is known."""
        self._tenants: dict[str, Tenant] = {}
        self._plain = Tenant("")
        """Messages without a group: always quiet, for each is a tenant of its own."""
        self._noisy: dict[str, Tenant] = {}
        self._quiet: list[tuple[int, str]] = []
        """(when its oldest became ready, quiet tenant); checked when it comes up."""
        self._first = 0
        self._last = 0
        self._busy = 0.0
        self._scale_from = 0.0
        self._review_at = inf
        self._room = ROOM

    # -- what the queue tells ------------------------------------------------------------------------------------

    def add(self, message: Stored) -> None:
        tenant = self._tenant(message)
        if message.sent_at > tenant.since:
            tenant.since = message.sent_at
        if message.state == READY:
            self.ready_again(message, front=False)
        elif message.state == IN_FLIGHT:
            self._takes_off(tenant)

    def ready_again(self, message: Stored, front: bool) -> None:
        tenant = self._tenant(message)
        line = tenant.line
        if front:
            self._first -= 1
            line.appendleft((self._first, message))
        else:
            self._last += 1
            line.append((self._last, message))
        if not tenant.noisy and tenant.head() is message and (tenant.at is None or line[0][0] < tenant.at):
            self._line_up(tenant)

    def released_from(self, message: Stored) -> None:
        # Left in its line and passed over: its state says GONE.
        tenant = self._tenants.get(message.group) if message.group is not None else None
        if tenant is not None:
            self._forget_idle(tenant)

    def sent(self, group: str | None, sent_at: float) -> None:
        """A message of this tenant is ready that is not here."""
        self.tail = True
        tenant = self._tenants.get(group) if group is not None else None
        if tenant is not None:
            tenant.since = max(tenant.since, sent_at)
        if tenant is None or not tenant.noisy:
            self.elsewhere = True

    def landed(self, message: Stored, now: float) -> None:
        """A message is in flight no more: what it cost the consumers is known."""
        tenant = self._tenant(message)
        tenant.in_flight -= 1
        self.in_flight -= 1
        cost = max(LEAST, now - message.received_at) * self._scale(now)
        tenant.busy += cost
        self._busy += cost

    # -- which is next -------------------------------------------------------------------------------------------

    def candidates(self, now: float) -> Generator[Stored, None, None]:
        while (tenant := self._next(now)) is not None:
            # Out of its line before it is looked at: a message that comes back at once queues up anew, once.
            number, message = tenant.line.popleft()
            try:
                yield message
            finally:
                if message.state == READY:
                    tenant.line.appendleft((number, message))
                elif message.state == IN_FLIGHT:
                    self._takes_off(tenant)
                if tenant.head() is None:
                    self._line_ended(tenant)
            if message.state == READY:
                return

    def available(self) -> bool:
        if self._quiet_head() is not None:
            return True
        return not self.elsewhere and any(tenant.head() is not None for tenant in self._noisy.values())

    def receivable(self, most: int) -> int:
        return most if self.available() else 0

    @property
    def starved(self) -> bool:
        """Nothing of a quiet tenant is ready here, and something may be elsewhere."""
        return self.elsewhere and bool(self._noisy) and self._quiet_head() is None

    def is_noisy(self, name: str) -> bool:
        """Whether this tenant waits for the quiet ones."""
        return name in self._noisy

    def noisy(self) -> list[str]:
        """The tenants that wait for the quiet ones."""
        return list(self._noisy)

    def all(self) -> Iterator[Stored]:
        lines = [list(tenant.line) for tenant in (self._plain, *self._tenants.values())]
        return (message for _, message in merge(*lines, key=_number) if message.state == READY)

    def clear(self) -> None:
        self._tenants.clear()
        self._noisy.clear()
        self._quiet.clear()
        self._plain = Tenant("")
        self._busy = 0.0
        self.in_flight = 0
        self.elsewhere = self.tail = False

    # -- tenants -------------------------------------------------------------------------------------------------

    def _tenant(self, message: Stored) -> Tenant:
        name = message.group
        if name is None:
            return self._plain
        tenant = self._tenants.get(name)
        if tenant is None:
            if len(self._tenants) >= self._room:
                self._forget_all_idle()
            tenant = self._tenants[name] = Tenant(name)
        return tenant

    def _takes_off(self, tenant: Tenant) -> None:
        tenant.in_flight += 1
        tenant.taken += 1
        self.in_flight += 1

    def _line_up(self, tenant: Tenant) -> None:
        """Stand among the quiet where its next message does."""
        tenant.at = tenant.line[0][0]
        heappush(self._quiet, (tenant.at, tenant.name))

    def _line_ended(self, tenant: Tenant) -> None:
        if tenant.noisy and not self.tail:
            self._calm(tenant)
        self._forget_idle(tenant)

    def _forget_idle(self, tenant: Tenant) -> None:
        if not (self.tail or tenant.in_flight or tenant.noisy or tenant.head() is not None):
            self._tenants.pop(tenant.name, None)

    def _forget_all_idle(self) -> None:
        """Also those that may have more messages elsewhere: who has is known no more, once there are so many."""
        kept = {t.name: t for t in self._tenants.values() if t.in_flight or t.noisy or t.head() is not None}
        self._tenants = kept
        self._room = max(ROOM, 2 * len(kept))

    def _quiet_head(self) -> Tenant | None:
        """The quiet tenant whose oldest message has been ready for longest."""
        quiet = self._quiet
        while quiet:
            number, name = quiet[0]
            tenant = self._tenants.get(name) if name else self._plain
            if tenant is None or tenant.at != number:
                heappop(quiet)
            elif tenant.head() is None:
                heappop(quiet)
                tenant.at = None
                self._forget_idle(tenant)
            elif tenant.line[0][0] == number:
                return tenant
            else:
                # What stood before it was handed out, or left the queue.
                tenant.at = tenant.line[0][0]
                heapreplace(quiet, (tenant.at, name))
        return None

    def _next(self, now: float) -> Tenant | None:
        if now >= self._review_at:
            self._review(now)
        while (tenant := self._quiet_head()) is not None:
            if not self._is_loud(tenant):
                return tenant
            tenant.noisy = True
            tenant.at = None
            tenant.since = max(tenant.since, now)
            self._noisy[tenant.name] = tenant
            self._review_at = min(self._review_at, tenant.since + SILENCE)
        for each in [each for each in self._noisy.values() if each.head() is None]:
            self._line_ended(each)
        waiting = [each for each in self._noisy.values() if each.head() is not None]
        if self.elsewhere or not waiting:
            return None
        return min(waiting, key=lambda each: (each.in_flight, each.line[0][0]))

    def _is_loud(self, tenant: Tenant) -> bool:
        if tenant.taken < MANY or tenant is self._plain:
            return False
        has_slots = tenant.in_flight >= MANY and tenant.in_flight * SHARES > self.in_flight
        return has_slots or tenant.busy * SHARES > self._busy

    def _review(self, now: float) -> None:
        """Let those be quiet again that have sent nothing for long."""
        for tenant in list(self._noisy.values()):
            if now - tenant.since >= SILENCE:
                self._calm(tenant)
        self._review_at = min((each.since + SILENCE for each in self._noisy.values()), default=inf)

    def _calm(self, tenant: Tenant) -> None:
        del self._noisy[tenant.name]
        tenant.noisy = False
        tenant.taken = 0
        tenant.busy = 0.0
        self.elsewhere = self.elsewhere or self.tail
        if tenant.head() is not None:
            self._line_up(tenant)
        self._forget_idle(tenant)

    def _scale(self, now: float) -> float:
        """What a second is worth now: twice as much each half-life, so that what is past fades by itself."""
        age = (now - self._scale_from) / HALF_LIFE
        if age > 100:
            fade = 0.5 ** min(age, 1000)
            for tenant in (self._plain, *self._tenants.values()):
                tenant.busy *= fade
            self._busy *= fade
            self._scale_from = now
            age = 0.0
        return float(2.0**age)


def _number(entry: tuple[int, Stored]) -> int:
    return entry[0]
