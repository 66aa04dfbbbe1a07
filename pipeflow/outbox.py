"""An outbox: messages that are part of a transaction in the program's own database, and are sent when that commits.

Publishing between two stores has a gap: a crash after the order was committed loses its message, and one after the
message was sent may leave it without an order. Here the message is a row of the same transaction.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

from msgspec.structs import replace

from pipeflow.clock import SystemClock
from pipeflow.embedded.sqlite.outbox import (
    AsyncConnection,
    Statements,
    SyncConnection,
    fits,
    retry,
    retry_async,
    write,
    write_async,
)
from pipeflow.errors import ConfigurationError, RefusedError
from pipeflow.messages import AttributeValue, Outgoing, Refused
from pipeflow.names import IdPool
from pipeflow.queue import Queue
from pipeflow.specs import QueueSpec
from pipeflow.state.wishes import unfit_ids, unfulfillable, unseen, unusable_key, unwaitable
from pipeflow.topic import Topic, outgoing

if TYPE_CHECKING:
    from pipeflow.engine.runtime import Runtime

T = TypeVar("T")

__all__ = ["Outbox"]

_UNFIT = re.compile(r"[^A-Za-z0-9_.-]")


class Outbox:
    """Takes messages for topics and queues in transactions of an SQLite file. Made by `app.outbox("app.db")`.

    No app need be open to write; the process that runs the app relays, in the order of commits, each message once.
    """

    __slots__ = ("path", "table", "name", "place", "_say", "_clock", "_open")

    def __init__(self, path: str, table: str, *, name: str | None = None, place: str = "") -> None:
        if not fits(table):
            raise ConfigurationError(
                f"{place}: outbox {path}: table {table!r}; use letters, digits and underscores, and not sqlite_ first"
            )
        self.path = Path(path)
        self.table = table
        self.name = name or "outbox." + _UNFIT.sub("_", f"{self.path.name}.{table}")[:100]
        """What the position of the relay is kept under in the store."""
        self.place = place
        self._say = Statements(table)
        self._clock = SystemClock()
        self._open: list[Runtime] = []

    @overload
    def publish(
        self,
        connection: SyncConnection,
        topic: Topic[T],
        value: T,
        /,
        *,
        group: str | None = None,
        dedup_id: str | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        attributes: Mapping[str, AttributeValue] | None = None,
        **keywords: AttributeValue,
    ) -> str: ...
    @overload
    def publish(
        self,
        connection: AsyncConnection,
        topic: Topic[T],
        value: T,
        /,
        *,
        group: str | None = None,
        dedup_id: str | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        attributes: Mapping[str, AttributeValue] | None = None,
        **keywords: AttributeValue,
    ) -> Awaitable[str]: ...
    def publish(
        self,
        connection: SyncConnection | AsyncConnection,
        topic: Topic[T],
        value: T,
        /,
        *,
        group: str | None = None,
        dedup_id: str | None = None,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        attributes: Mapping[str, AttributeValue] | None = None,
        **keywords: AttributeValue,
    ) -> str | Awaitable[str]:
        """Publish when the connection's transaction commits; the id that the message will have.

        With a connection of `sqlite3` at once, with one of `aiosqlite` to be awaited. A rollback publishes nothing.
        The transaction is opened where none is; nothing is committed here. Options are those of `topic.publish`; a
        delay and a ttl count from the relay. RefusedError, ConfigurationError: nothing was written.
        """
        if not isinstance(topic, Topic):
            raise ConfigurationError(f"outbox {self.path}: {topic!r} is no topic; outbox.send(...) is for queues")
        sent = outgoing(topic.encode(value), group, dedup_id, delay, ttl, priority, attributes, keywords)
        return self._write(connection, topic, sent)

    @overload
    def send(
        self,
        connection: SyncConnection,
        queue: Queue[T],
        value: T,
        /,
        *,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        key: str | None = None,
        group: str | None = None,
        dedup_id: str | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        **keywords: AttributeValue,
    ) -> str: ...
    @overload
    def send(
        self,
        connection: AsyncConnection,
        queue: Queue[T],
        value: T,
        /,
        *,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        key: str | None = None,
        group: str | None = None,
        dedup_id: str | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        **keywords: AttributeValue,
    ) -> Awaitable[str]: ...
    def send(
        self,
        connection: SyncConnection | AsyncConnection,
        queue: Queue[T],
        value: T,
        /,
        *,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        key: str | None = None,
        group: str | None = None,
        dedup_id: str | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        **keywords: AttributeValue,
    ) -> str | Awaitable[str]:
        """Send straight to a queue when the connection's transaction commits; otherwise as `publish`."""
        if not isinstance(queue, Queue):
            raise ConfigurationError(f"outbox {self.path}: {queue!r} is no queue; outbox.publish(...) is for topics")
        sent = outgoing(queue.codec.encode(value), group, dedup_id, delay, ttl, priority, attributes, keywords, key=key)
        return self._write(connection, queue, sent)

    @overload
    def retry(self, connection: SyncConnection, /) -> int: ...
    @overload
    def retry(self, connection: AsyncConnection, /) -> Awaitable[int]: ...
    def retry(self, connection: SyncConnection | AsyncConnection, /) -> int | Awaitable[int]:
        """Send again, when this transaction commits, what was set aside; how many messages. They go to the end.

        With a connection of aiosqlite it is awaited.
        """
        if isinstance(connection, SyncConnection):
            count = retry(connection, self._say, self._clock.now())
            self._nudge()
            return count
        return self._retry_async(self._async(connection))

    async def _retry_async(self, connection: AsyncConnection) -> int:
        count = await retry_async(connection, self._say, self._clock.now())
        self._nudge()
        return count

    def bind(self, runtime: Runtime) -> None:
        """A relay may run in this runtime."""
        self._open.append(runtime)

    def unbind(self, runtime: Runtime) -> None:
        """It runs there no more."""
        if runtime in self._open:
            self._open.remove(runtime)

    def _write(
        self, connection: SyncConnection | AsyncConnection, noun: Topic[T] | Queue[T], sent: Outgoing
    ) -> str | Awaitable[str]:
        refused = _refusal(noun, sent)
        if refused is not None:
            raise RefusedError(refused.code, refused.reason)
        kind, target = "queue" if isinstance(noun, Queue) else "topic", noun.name
        now = self._clock.now()
        # Entropy of its own each time: threads and forked workers write here, and a pool is for one task.
        id = IdPool().new(now)
        sent = replace(sent, id=id)
        if isinstance(connection, SyncConnection):
            write(connection, self._say, now, kind, target, sent)
            self._nudge()
            return id
        return self._write_async(self._async(connection), now, kind, target, sent)

    def _async(self, connection: AsyncConnection) -> AsyncConnection:
        if not isinstance(connection, AsyncConnection):
            raise ConfigurationError(
                f"outbox {self.path}: {connection!r} is no connection of sqlite3 or aiosqlite; SQLAlchemy has it as "
                "connection.connection.driver_connection"
            )
        return connection

    async def _write_async(
        self, connection: AsyncConnection, now: float, kind: str, target: str, sent: Outgoing
    ) -> str:
        await write_async(connection, self._say, now, kind, target, sent)
        self._nudge()
        assert sent.id is not None
        return sent.id

    def _nudge(self) -> None:
        for runtime in self._open:
            runtime.nudge(self.name)

    def __repr__(self) -> str:
        return f"<outbox {self.path} {self.table}>"


def _refusal(noun: Topic[T] | Queue[T], sent: Outgoing) -> Refused | None:
    """Why this would only be set aside later: it is refused while somebody is there to see it."""
    name, fifo = noun.name, noun.spec.fifo
    refused = unfulfillable(name, sent, fifo=fifo)
    if fifo and sent.group is None:
        refused = refused or Refused("missing_group", f"{name}: it is FIFO and needs group=... with every message")
    refused = refused or unfit_ids(name, sent)
    if sent.delay is not None:
        refused = refused or unwaitable(name, sent.delay, fifo=fifo)
    if isinstance(noun, Queue):
        refused = refused or _refusal_of_queue(noun.spec, sent)
    return refused


def _refusal_of_queue(spec: QueueSpec, sent: Outgoing) -> Refused | None:
    if sent.key is not None and (refused := unusable_key(spec, sent.key)) is not None:
        return refused
    if sent.ttl is not None and (refused := unseen(spec, sent.ttl, sent.delay)) is not None:
        return refused
    if len(sent.body) > spec.max_body:
        return Refused("too_large", f"{spec.name}: the body has {len(sent.body)} bytes, the limit is {spec.max_body}")
    return None
