"""What memory let go, looked up on disk before a call needs it: ids of the deduplication window, and keys.

A call that changes queues decides in one step, without waiting; so whatever it may ask for is brought into memory
first. Where memory has everything, nothing is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from pipeflow.embedded.head import Head
from pipeflow.embedded.intake import Intake, dedup_key_of
from pipeflow.embedded.journal import Journal
from pipeflow.embedded.keys import Keys, look_up
from pipeflow.embedded.nouns import Nouns
from pipeflow.embedded.topic_head import TopicHead
from pipeflow.messages import Emit, Outgoing
from pipeflow.state.dedup import WINDOW, Dedup, dedup_key

LOOKED_UP = 500
"""Ids that one hop to the disk looks up: 10 us each, and commits wait for it."""

Wanted = dict[tuple[int, bytes], Dedup]
"""By (number of queue or topic, id): the window that is asked for it."""


class Recall:
    """Brings back what memory let go."""

    def __init__(self, nouns: Nouns, inlet: Intake, journal: Journal, committed: Callable[[], Awaitable[None]]) -> None:
        self._nouns = nouns
        self._inlet = inlet
        self._journal = journal
        self._committed = committed

    async def for_send(self, head: Head, batch: Sequence[Outgoing], now: float) -> None:
        """Ids that a send of this batch asks for."""
        if head.dedup.shed_upto > now - WINDOW:
            wanted: Wanted = {}
            self._add_sent(wanted, head, batch, now)
            await self._bring(wanted, now)

    async def for_publish(self, topic: TopicHead, batch: Sequence[Outgoing], now: float) -> None:
        """Ids that a publish of this batch asks for, those of its copies included."""
        if self._some_are_gone(now):
            wanted: Wanted = {}
            self._add_published(wanted, topic, batch, now)
            await self._bring(wanted, now)

    async def for_emits(self, emits: Sequence[Emit], now: float) -> None:
        """Everything that these may ask for; keys are in use from here on, until `Intake.used`."""
        if self._some_are_gone(now):
            wanted: Wanted = {}
            for emit in emits:
                if emit.kind == "topic" and (topic := self._nouns.find_topic(emit.target)) is not None:
                    self._add_published(wanted, topic, [emit.message], now)
                elif emit.kind == "queue" and (head := self._nouns.find_head(emit.target)) is not None:
                    self._add_sent(wanted, head, [emit.message], now)
            await self._bring(wanted, now)
        while True:
            wanted_keys = self._keys_of(emits)
            await look_up(wanted_keys, self._committed, self._journal)
            if wanted_keys.keys() == self._keys_of(emits).keys():
                break
            _end(wanted_keys)
        self._in_use(wanted_keys)

    def needed(self, emits: Iterable[Emit]) -> bool:
        """Whether `for_emits` has anything to do."""
        if self._inlet.shed_upto:
            return True
        for emit in emits:  # noqa: SIM110  # a generator costs more than what it looks at
            if emit.message.key is not None:
                return True
        return False

    def _some_are_gone(self, now: float) -> bool:
        """Whether some window let go of ids that are still within their time."""
        if self._inlet.shed_upto <= now - WINDOW:
            self._inlet.shed_upto = 0.0
        return self._inlet.shed_upto > 0

    async def keys(self, head: Head, keys: Iterable[str | None]) -> None:
        """Who holds these keys; they are in use from here on, until `Intake.used`."""
        names = {key for key in keys if isinstance(key, str)}
        while True:
            lanes = head.lanes
            wanted = {lane.keys: names for lane in lanes}
            await look_up(wanted, self._committed, self._journal)
            if lanes == head.lanes:  # else a first message of its priority came meanwhile
                break
            _end(wanted)
        self._in_use(wanted)

    def _in_use(self, wanted: dict[Keys, set[str]]) -> None:
        # Not before nothing is waited for: whoever ended a step meanwhile would have ended this, too.
        self._inlet.using += wanted

    def _keys_of(self, emits: Sequence[Emit]) -> dict[Keys, set[str]]:
        wanted: dict[Keys, set[str]] = {}
        for emit in emits:
            if emit.kind == "queue" and isinstance(emit.message.key, str):
                head = self._nouns.find_head(emit.target)
                for lane in head.lanes if head is not None else ():
                    wanted.setdefault(lane.keys, set()).add(emit.message.key)
        return wanted

    def _add_sent(self, wanted: Wanted, head: Head, batch: Sequence[Outgoing], now: float) -> None:
        for outgoing in batch:
            if _fit(outgoing):
                self._add(wanted, head, dedup_key_of(head.spec, outgoing), now)

    def _add_published(self, wanted: Wanted, topic: TopicHead, batch: Sequence[Outgoing], now: float) -> None:
        state = topic.state
        for outgoing in batch:
            if not _fit(outgoing) or state.refusal(outgoing) is not None:
                continue
            dedup_id = state.dedup_id(outgoing)
            if dedup_id is not None:
                key = dedup_key(dedup_id, outgoing.group if topic.spec.dedup_scope == "group" else None)
                if not self._add(wanted, topic, key, now):
                    continue  # a duplicate: no copies are made
            for target in state.route(outgoing):
                if target.kind == "queue":
                    head = topic.heads[target.target]
                    self._add(wanted, head, dedup_key_of(head.spec, state.addressed(outgoing, target, dedup_id)), now)

    def _add(self, wanted: Wanted, window: Head | TopicHead, key: bytes | None, now: float) -> bool:
        """Whether this id is new, as far as memory knows."""
        if key is None:
            return True
        if window.dedup.find(key, now) is not None:
            return False
        if window.dedup.shed_upto > now - WINDOW:
            wanted[window.number, key] = window.dedup
        return True

    async def _bring(self, wanted: Wanted, now: float) -> None:
        pairs = list(wanted)
        for start in range(0, len(pairs), LOOKED_UP):
            for known in await self._journal.known(pairs[start : start + LOOKED_UP], now - WINDOW):
                window = wanted[known.scope, known.key]
                if window.find(known.key, now) is None:
                    window.add(known.key, known.at, known.id, known.sequence, seen=now)


def _end(wanted: Iterable[Keys]) -> None:
    for keys in wanted:
        keys.end()


def _fit(outgoing: Outgoing) -> bool:
    # What is of another type is refused later, with a reason.
    return isinstance(outgoing.body, bytes) and isinstance(outgoing.dedup_id, str | None)
