"""Bodies that are too large for one frame travel in parts: ahead of the call that sends them, behind the receive.

What travels in a frame of its own has an empty body, and the name of its parts in a header. Parts belong to their
connection and end with it; whoever receives has all of them before anybody sees the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol

from msgspec.structs import replace

from pipeflow.embedded.verbs import VERBS, Verb
from pipeflow.embedded.weighing import PARTS
from pipeflow.errors import RefusedError
from pipeflow.messages import Ack, Delivery, Outgoing, Release, Settlement
from pipeflow.specs import LARGEST_BODY

PART_BYTES = 4 << 20
"""Bytes of one part: other calls of the connection go between two of them."""
WHOLE_BYTES = 2 * PART_BYTES
"""Bytes of a body that travels with its message."""
FORGET = -1


class Asked(Protocol):
    """The connection to the owner."""

    async def ask(self, verb: Verb, *arguments: object) -> Any: ...

    def tell(self, verb: Verb, *arguments: object) -> None: ...


class Held:
    """What the owner holds for one connection: bodies that are coming in, and those of deliveries that go out."""

    def __init__(self) -> None:
        self._coming: dict[str, list[bytes]] = {}
        self._going: dict[str, bytes] = {}
        self._size = 0
        self._keys = count(1)

    def part(self, key: str, part: bytes) -> None:
        """One more part of a body that a later call sends; an empty one: it will not be sent."""
        if not part:
            self._size -= sum(map(len, self._coming.pop(key, ())))
            return
        if self._size + len(part) > LARGEST_BODY:
            raise RefusedError("TooLarge", f"bodies of {LARGEST_BODY} bytes at most may be on their way to the store")
        self._coming.setdefault(key, []).append(part)
        self._size += len(part)

    def rest(self, key: str, offset: int) -> bytes:
        """The next part of a delivery's body; after the last one it is forgotten."""
        if offset == FORGET:
            self._going.pop(key, None)
            return b""
        body = self._going.get(key)
        if body is None:
            raise RefusedError("PartsLost", "the rest of this body is not held any more; receive the message again")
        if offset + PART_BYTES > len(body):
            del self._going[key]
        return body[offset : offset + PART_BYTES]

    def whole(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a call with the bodies that came ahead of it in their places."""
        if not self._coming or len(arguments) != 2 or not isinstance(arguments[1], list):
            return arguments
        return arguments[0], [self._joined(item) for item in arguments[1]]

    def _joined(self, item: Any) -> Any:
        if isinstance(item, Ack):
            return replace(item, emits=[replace(emit, message=self._joined(emit.message)) for emit in item.emits])
        if not isinstance(item, Outgoing) or item.headers is None or PARTS not in item.headers:
            return item
        parts = self._coming.pop(item.headers[PARTS], None)
        if parts is None:
            raise RefusedError("PartsLost", "a body did not come whole; send it again")
        self._size -= sum(map(len, parts))
        return replace(item, body=b"".join(parts), headers=_without(item.headers))

    def cut(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Deliveries as they fit into a frame."""
        return [
            self._cut(each) if len(each.body) > WHOLE_BYTES or PARTS in each.headers else each for each in deliveries
        ]

    def _cut(self, delivery: Delivery) -> Delivery:
        if len(delivery.body) <= WHOLE_BYTES:
            # Its sender used the name of our header, before that was refused: there are no parts to ask for.
            return replace(delivery, headers=_without(delivery.headers) or {})
        key = str(next(self._keys))
        self._going[key] = delivery.body
        return replace(delivery, body=b"", headers={**delivery.headers, PARTS: key})


class Ahead:
    """What one call sends ahead of itself. Leaving it by an error has the owner forget what came of it."""

    def __init__(self, link: Asked, keys: count[int]) -> None:
        self._link = link
        self._keys = keys
        self._sent: list[str] = []

    async def batch(self, batch: Sequence[Any]) -> list[Any]:
        """The batch as it fits into a frame, the rest of it sent."""
        try:
            return [await self._item(item) for item in batch]
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """The call is not made."""
        for key in self._sent:
            self._link.tell(VERBS["part"], key, b"")

    async def _item(self, item: Any) -> Any:
        if isinstance(item, Ack) and any(len(emit.message.body) > WHOLE_BYTES for emit in item.emits):
            return replace(item, emits=[replace(emit, message=await self._item(emit.message)) for emit in item.emits])
        if not isinstance(item, Outgoing) or len(item.body) <= WHOLE_BYTES:
            return item
        key = str(next(self._keys))
        self._sent.append(key)
        for start in range(0, len(item.body), PART_BYTES):
            await self._link.ask(VERBS["part"], key, item.body[start : start + PART_BYTES])
        return replace(item, body=b"", headers={**(item.headers or {}), PARTS: key})


def in_parts(batch: Sequence[Outgoing] | Sequence[Settlement]) -> bool:
    """Whether some body of the batch is too large to travel with it."""
    for item in batch:
        if isinstance(item, Outgoing):
            if len(item.body) > WHOLE_BYTES:
                return True
        elif isinstance(item, Ack) and item.emits and in_parts([emit.message for emit in item.emits]):
            return True
    return False


async def complete(link: Asked, queue: str, deliveries: list[Delivery]) -> list[Delivery]:
    """Deliveries with what did not fit into the frame. All are given back when the caller is cancelled meanwhile."""
    if not any(PARTS in delivery.headers for delivery in deliveries):
        return deliveries
    try:
        return [await _completed(link, each) if PARTS in each.headers else each for each in deliveries]
    except BaseException:
        forget(link, deliveries)
        link.tell(VERBS["settle"], queue, [Release(delivery.receipt) for delivery in deliveries])
        raise


def forget(link: Asked, deliveries: Sequence[Delivery]) -> None:
    """Nobody asks for the rest of these."""
    for delivery in deliveries:
        if PARTS in delivery.headers:
            link.tell(VERBS["rest"], delivery.headers[PARTS], FORGET)


async def _completed(link: Asked, delivery: Delivery) -> Delivery:
    key, parts, size = delivery.headers[PARTS], [], 0
    while True:
        part: bytes = await link.ask(VERBS["rest"], key, size)
        parts.append(part)
        size += len(part)
        if len(part) < PART_BYTES:
            return replace(delivery, body=b"".join(parts), headers=_without(delivery.headers) or {})


def _without(headers: dict[str, str]) -> dict[str, str] | None:
    return {name: value for name, value in headers.items() if name != PARTS} or None
