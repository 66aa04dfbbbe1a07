"""Looking through a queue for messages, the cold tail included, in bounded memory and in nobody's way.

Messages are looked at a page at a time, and between two pages everybody else has a turn: the pages that the journal
reads are what a commit may have to wait for. Looking counts no receive, and brings nothing into memory that stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pipeflow.embedded.claims import SHOWN
from pipeflow.embedded.head import Head
from pipeflow.embedded.inspection import SCANNED_BYTES, STATES, as_it_is, asks_about_bodies, look, matcher, seen
from pipeflow.looking import FOUND_BYTES
from pipeflow.protocols import Found, Peeked, Search
from pipeflow.state.stored import DELAYED, GONE, IN_FLIGHT, READY, Stored
from pipeflow.webhooks import REPLAYED

if TYPE_CHECKING:
    from pipeflow.embedded.broker import EmbeddedBroker

PAGE = 100
"""Messages between two turns of others: 1 ms of the loop, or of the journal's thread (benchmarks/searching.py)."""
TURN = 25
"""Messages that are looked at in one turn of the loop."""
BESIDE = 500
"""Bytes that a message is in an answer beside its content: names of fields, times, ids."""
_NUMBERS = {"ready": READY, "delayed": DELAYED, "in_flight": IN_FLIGHT}

Page = list[tuple[Stored, bytes]]
"""Messages with their bodies; without them where those are kept aside."""


async def search(broker: EmbeddedBroker, head: Head, request: Search) -> Found:
    """The first messages that match, in the order of delivery, and how many were looked at.

    A message that moves while others are looked at is told once; which of its states that is, is open.
    """
    now = broker.clock.now()
    matches = None if request.where is None else matcher(request.where, now)
    needle, state = request.contains, _NUMBERS[request.state] if request.state is not None else None
    whole = asks_about_bodies(request.where) or needle is not None
    found: dict[str, Peeked] = {}
    examined = 0
    # What a store in memory shows is what it holds anyway.
    room: float = inf if broker.journal.instant else FOUND_BYTES
    for lane in head.lanes:
        async for page in _pages(broker, lane, state):
            for message, body in page:
                examined += 1
                if not examined % TURN:
                    # A send takes several turns of the loop: each is to be short, not only the time between pages.
                    await asyncio.sleep(0)
                    broker.check_open()
                if message.state == GONE or (state is not None and message.state != state):
                    continue
                if message.claim is not None:
                    peeked = await seen(broker.claims, lane, message, whole)
                    body = peeked.body
                elif needle is not None and needle not in body:
                    continue
                else:
                    peeked = look(lane, message)
                    if message.body is None:
                        peeked = replace(peeked, body=body)
                if needle is not None and needle not in body:
                    continue
                if matches is not None and not matches(peeked):
                    continue
                shown = peeked if message.claim is None else replace(peeked, body=body[:SHOWN])
                if found.setdefault(_known_by(message), shown) is shown:
                    room -= _weight(message, shown)
                if len(found) >= request.limit or room <= 0:
                    return Found(list(found.values()), examined, False)
    return Found(list(found.values()), examined, True)


def _weight(message: Stored, shown: Peeked) -> int:
    """Bytes that the answer has of this message."""
    body = len(shown.body) if message.claim is None else message.claim.size
    failures = sum(len(each.type) + len(each.message) for each in shown.failures)
    return BESIDE + len(shown.body) + max(0, message.size - body) + failures


def _known_by(message: Stored) -> str:
    """What tells a message from others, wherever it lies; copies that replays of an archive made have one id."""
    if message.headers is not None and REPLAYED in message.headers:
        return f"{message.id} {message.place}"
    return message.id


async def _pages(broker: EmbeddedBroker, head: Head, state: int | None) -> AsyncIterator[Page]:
    """Every message once, in memory first, then on disk, as it is when its page is asked for."""
    places: set[int] = set()
    tail, delayed = head.tail.ready > 0, head.tail.delayed > 0
    cold = tail or delayed
    async for page in _in_memory(broker, head, places if cold else None):
        yield page
    # On disk a FIFO queue's delayed messages lie among the others.
    if tail and (state != DELAYED or head.spec.fifo):
        async for messages in _tail(broker, head):
            yield _from_disk(head, messages, places, broker.clock.now())
    if delayed and state in (None, DELAYED):
        async for messages in _delayed(broker, head):
            yield _from_disk(head, messages, places, broker.clock.now())
    if cold:
        # What came into memory meanwhile, from where it was not looked at yet.
        async for page in _in_memory(broker, head, places):
            yield page


async def _in_memory(broker: EmbeddedBroker, head: Head, places: set[int] | None) -> AsyncIterator[Page]:
    """What memory has, but for what lies in `places`, where it is noted."""
    messages = iter(head.state.all())
    while chunk := list(islice(messages, PAGE)):
        if places is not None:
            chunk = [message for message in chunk if message.place not in places]
            places.update(message.place for message in chunk)
        absent = [message for message in chunk if message.body is None and message.claim is None]
        if absent:
            bodies = await broker.journal.bodies([(message.row, message.shared) for message in absent])
            read = {message.place: body for message, body in zip(absent, bodies, strict=True)}
        else:
            await asyncio.sleep(0)
            read = {}
        page: Page = []
        for message in chunk:
            body = message.body if message.body is not None else read.get(message.place)
            if message.state in STATES and (body is not None or message.claim is not None):
                page.append((message, body or b""))
        yield page
        broker.check_open()


async def _tail(broker: EmbeddedBroker, head: Head) -> AsyncIterator[list[Stored]]:
    after = head.counters.purged_upto
    while True:
        loaded = await broker.journal.load(head.number, max(after, head.counters.purged_upto), PAGE, SCANNED_BYTES)
        if not loaded.last:
            return
        after = loaded.last
        yield loaded.messages


async def _delayed(broker: EmbeddedBroker, head: Head) -> AsyncIterator[list[Stored]]:
    due = (0.0, 0)
    while True:
        loaded = await broker.journal.load_delayed(head.number, *due, PAGE, SCANNED_BYTES)
        if not loaded.last:
            return
        due = (loaded.due, loaded.last + 1)
        yield loaded.messages


def _from_disk(head: Head, read: Sequence[Stored], places: set[int], now: float) -> Page:
    page: Page = []
    fresh = {id(message) for message in read}
    for message in as_it_is(head, list(read), places):
        if message.state == GONE:
            continue
        if id(message) in fresh and (message.state == IN_FLIGHT or _has_come_due(head, message, now)):
            # Nobody has loaded it since it became visible, or since who held it died.
            message.state, message.until, message.key = READY, 0.0, None
        page.append((message, message.body or b""))
    return page


def _has_come_due(head: Head, message: Stored, now: float) -> bool:
    if message.state != DELAYED:
        return False
    if head.tail.delays is not None:
        head.tail.delays.redelay(message)
    return message.until <= now
