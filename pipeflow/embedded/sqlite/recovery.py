"""Opening a store: whose file it is, which format it has, and what it remembers.

Nothing is deleted because it is not understood: a foreign, newer or damaged file is refused by name and left alone.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from math import inf
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import msgspec
from msgspec import Struct

from pipeflow.embedded.group import row_crc
from pipeflow.embedded.journal import (
    DELAYED_BIT,
    PLACE_BITS,
    PLACE_MASK,
    Counters,
    Heads,
    Known,
    Recovered,
    RecoveredLane,
    RecoveredQueue,
    RecoveredTopic,
    Row,
    TopicCounters,
    Waiting,
    Way,
)
from pipeflow.embedded.keys import RETRIES
from pipeflow.embedded.sqlite import audit, schema, statements, streams
from pipeflow.errors import PipeflowError, StoreCorrupt, Unavailable
from pipeflow.messages import Claim
from pipeflow.moves import Move
from pipeflow.names import new_secret
from pipeflow.specs import ClaimSpec, QueueSpec, StreamSpec, Subscription, TopicSpec
from pipeflow.state.stored import Stored

T = TypeVar("T")
KNOWN_KEPT = 200_000
MARKED_AT_A_TIME = 10_000
"""Rows of an older format that are looked at together: some MB of them."""

_row = msgspec.msgpack.Decoder(Row)
_claim = msgspec.msgpack.Decoder(Claim)


def prepare(connection: sqlite3.Connection, path: Path, created: bool) -> None:
    """Set the connection up, check whose file it is, make or migrate its tables."""
    execute = connection.execute
    # A damaged header shows here, before anything is written.
    application, version = (execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    empty = execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if not empty and application != schema.APPLICATION_ID:
        raise StoreCorrupt(f"{path} is a database of another program; name another file for the store")
    if version > schema.VERSION:
        raise StoreCorrupt(
            f"{path} has format {version}, this pipeflow knows up to {schema.VERSION}; install a newer pipeflow."
            " Nothing was changed"
        )
    for pragma in (
        # Twice SQLite's own: a row of 1 KiB wastes less of it, and a commit is half the writes (benchmarks/queues.py).
        "page_size = 8192",
        "journal_mode = WAL",
        "synchronous = FULL",
        "wal_autocheckpoint = 0",
        "trusted_schema = OFF",
        "cell_size_check = ON",
        # Some builds of SQLite overwrite what was deleted with zeros, each page of it: a queue would be written twice.
        "secure_delete = FAST",
        "temp_store = MEMORY",
        "cache_size = -32768",
        f"journal_size_limit = {64 << 20}",
    ):
        execute(f"PRAGMA {pragma}")
    if empty:
        _steps(connection, (*schema.TABLES, *streams.TABLES, *_stamps(schema.VERSION)))
    elif version < schema.VERSION:
        _migrate(connection, path, version)


def _stamps(version: int) -> tuple[str, ...]:
    return (f"PRAGMA application_id = {schema.APPLICATION_ID}", f"PRAGMA user_version = {version}")


def _steps(connection: sqlite3.Connection, steps: tuple[str, ...], marks: bool = False) -> None:
    def take() -> None:
        for step in steps:
            connection.execute(step)
        if marks:
            _mark_out_of_line(connection)

    transact(connection, take)


def transact(connection: sqlite3.Connection, work: Callable[[], T]) -> T:
    """All of it or nothing of it."""
    connection.execute(statements.BEGIN)
    try:
        result = work()
        connection.execute(statements.COMMIT)
    except BaseException:
        # SQLite has rolled back by itself after some errors.
        if connection.in_transaction:
            connection.execute(statements.ROLLBACK)
        raise
    return result


def _checkpoint(connection: sqlite3.Connection) -> None:
    """Make durable what the dead process wrote without syncing, before anything new is acknowledged."""
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as error:
        # No room in the file: then it stays in the log, and the next commit's sync of the log covers it.
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise


def _migrate(connection: sqlite3.Connection, path: Path, version: int) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy2(path, path.with_name(f"{path.name}.v{version}.backup"))
    for step in range(version, schema.VERSION):
        _steps(connection, (*schema.MIGRATIONS[step], *_stamps(step + 1)), marks=step + 1 == schema.MARKED_SINCE)


class _Kept(Struct, array_like=True):
    """The beginning of a row."""

    id: str
    sent_at: float
    kept_from: float


_kept = msgspec.msgpack.Decoder(_Kept)


def _mark_out_of_line(connection: sqlite3.Connection) -> None:
    """Mark the rows whose retention does not count in the order of their places, as groups do when they write them."""
    clock = float((connection.execute(statements.CLOCK).fetchone() or (0.0,))[0])
    queue, line, after = -1, 0.0, -1
    while rows := connection.execute(statements.SCAN, (after, MARKED_AT_A_TIME)).fetchall():
        marks: list[tuple[float, int]] = []
        for after, head, crc in rows:
            if after >> PLACE_BITS != queue:
                queue, line = after >> PLACE_BITS, 0.0
            if row_crc(after, head) != crc:
                continue
            kept = _kept.decode(head).kept_from
            if after & DELAYED_BIT or not line <= kept <= clock:
                marks.append((kept, after))
            else:
                line = kept
        connection.executemany(statements.MARK, marks)


def recover(connection: sqlite3.Connection, path: Path, now: float, begun: Sequence[tuple[str, Any]]) -> Recovered:
    """Everything but the messages, which are loaded when somebody asks for them; begins a new boot.

    `begun`: more facts of the new boot.
    """
    execute = connection.execute
    facts: dict[str, Any] = dict(execute(statements.ALL_FACTS).fetchall())
    clean = bool(facts.get("clean", 1))
    if not clean:
        _checkpoint(connection)
    boot = int(facts.get("boot", 0)) + 1
    store_id = str(facts.get("store_id") or new_secret(6).hex())
    key = facts.get("receipt_key") or new_secret()
    put = [("boot", boot), ("clean", 0), ("store_id", store_id), ("receipt_key", key), *begun]
    transact(connection, lambda: connection.executemany(statements.PUT_FACT, put))
    clock = float(facts.get("clock", 0.0))
    nouns = _nouns(connection, path, now)
    recent = execute(statements.RECENT_KNOWN, (clock - 300.0, KNOWN_KEPT)).fetchall()
    sources = {}
    for name, position, crc in execute(statements.ALL_SOURCES):
        if crc32(position) != crc:
            raise _damaged(path, f"the position of source {name}")
        sources[name] = position
    held, _ = read_messages(connection, execute(statements.LOAD_HELD).fetchall())
    return Recovered(
        store_id=store_id,
        boot=boot,
        clean=clean,
        clock=clock,
        receipt_key=bytes(key),
        last_body=execute(statements.LAST_BODY).fetchone()[0] or 0,
        queues=nouns.queues,
        lanes=nouns.lanes,
        topics=nouns.topics,
        subscriptions=nouns.subscriptions,
        streams=nouns.streams,
        held=[(message.queue, message) for message in held],
        known=[Known(*row) for row in reversed(recent)],
        known_upto=recent[-1][2] if len(recent) >= KNOWN_KEPT else 0.0,
        sources=sources,
        gone=nouns.gone,
        moves=nouns.moves,
        claims=nouns.claims,
        last_entry=audit.last(connection),
        log=streams.recover(connection),
    )


class _Nouns(Struct):
    queues: list[RecoveredQueue] = []
    lanes: list[RecoveredLane] = []
    topics: list[RecoveredTopic] = []
    subscriptions: list[Subscription] = []
    streams: list[StreamSpec] = []
    moves: list[Move] = []
    gone: list[RecoveredQueue] = []
    claims: ClaimSpec | None = None


def _nouns(connection: sqlite3.Connection, path: Path, now: float) -> _Nouns:
    found = _Nouns()
    counted = _counters(connection, path, statements.ALL_QUEUE_COUNTERS, Counters)
    published = _counters(connection, path, statements.ALL_TOPIC_COUNTERS, TopicCounters)
    for kind, name, number, spec, crc in connection.execute(statements.ALL_NOUNS).fetchall():
        if crc32(spec) != crc:
            raise _damaged(path, f"the declaration of {kind} {name}")
        if kind in ("queue", "gone"):
            known = counted.get(number) or Counters()
            queue = RecoveredQueue(number, msgspec.msgpack.decode(spec, type=QueueSpec), known)
            (found.queues if kind == "queue" else found.gone).append(queue)
            queue.waiting = _waiting(connection, number, known, queue.spec.fifo, now)
        elif kind == "lane":
            of, priority = msgspec.msgpack.decode(spec, type=tuple[int, int])
            known = counted.get(number) or Counters()
            waiting = _waiting(connection, number, known, False, now)
            found.lanes.append(RecoveredLane(number, of, priority, known, waiting))
        elif kind == "topic":
            seen = published.get(number) or TopicCounters()
            found.topics.append(RecoveredTopic(number, msgspec.msgpack.decode(spec, type=TopicSpec), seen))
        elif kind == "stream":
            found.streams.append(msgspec.msgpack.decode(spec, type=StreamSpec))
        elif kind == "move":
            found.moves.append(msgspec.msgpack.decode(spec, type=Move))
        elif kind == "claims":
            found.claims = msgspec.msgpack.decode(spec, type=ClaimSpec)
        else:
            found.subscriptions.append(msgspec.msgpack.decode(spec, type=Subscription))
    return found


def _waiting(connection: sqlite3.Connection, number: int, counters: Counters, fifo: bool, now: float) -> Waiting:
    # What was purged may not have been swept away yet.
    purged = number << PLACE_BITS | counters.purged_upto
    if fifo and counters.rows:
        moment = counters.redelayed_at or now
        return Waiting(moment, fifo=connection.execute(statements.COUNT_DUE, (number, moment, purged)).fetchone()[0])
    if counters.delayed_rows:
        values = (number, RETRIES, purged | DELAYED_BIT)
        return Waiting(retries=connection.execute(statements.COUNT_NAMED, values).fetchone()[0])
    return Waiting()


def _counters(connection: sqlite3.Connection, path: Path, statement: str, type: type[T]) -> dict[int, T]:
    found: dict[int, T] = {}
    for number, counters, crc in connection.execute(statement).fetchall():
        if crc32(counters) != crc:
            raise _damaged(path, f"the counters of noun {number}")
        found[number] = msgspec.msgpack.decode(counters, type=type)
    return found


def _damaged(path: Path, what: str) -> StoreCorrupt:
    return StoreCorrupt(f"{path}: {what} is damaged; restore a backup, or move the file aside. Nothing was changed")


def translated(path: Path, error: sqlite3.DatabaseError) -> PipeflowError:
    """What it means for whoever uses the store."""
    text = str(error)
    if isinstance(error, sqlite3.OperationalError) and "malformed" not in text:
        return Unavailable(f"{path}: {text}; repair the disk or free space, then start again")
    return StoreCorrupt(
        f"{path}: {text}; restore a backup, or move the file aside and start with an empty store. Nothing was changed"
    )


def read_messages(connection: sqlite3.Connection, rows: list[Any]) -> tuple[list[Stored], list[int]]:
    """(messages, keys of damaged rows). A damaged row is never delivered, and never thrown away (P7)."""
    messages: list[Stored] = []
    damaged: list[int] = []
    for key, head, crc, body, shared in rows:
        message = _read(connection, key, head, crc, body, shared)
        if message is None:
            damaged.append(key)
        else:
            messages.append(message)
    return messages, damaged


def read_heads(rows: Iterable[Any], way: Way) -> Heads:
    """The messages of these rows without their bodies; of places, those without a moment of their own."""
    found = Heads([], damaged=[])
    by_place = way == "place"
    for key, head, crc, shared, kept, moment in rows:
        found.rows += 1
        found.last = (moment, key & PLACE_MASK if by_place else key)
        if by_place and kept is not None:
            continue
        row = _decoded(key, head, crc)
        if row is None:
            found.damaged.append((moment, key))
        else:
            found.messages.append(_stored(key, row, None, shared))
    return found


def _decoded(key: int, head: bytes, crc: int) -> Row | None:
    if row_crc(key, head) != crc:
        return None
    try:
        return _row.decode(head)
    except msgspec.MsgspecError:
        return None


def _read(
    connection: sqlite3.Connection, key: int, head: bytes, crc: int, body: bytes | None, shared: int | None
) -> Stored | None:
    row = _decoded(key, head, crc)
    if row is None:
        return None
    claim = None
    if shared is not None:
        body, pointer = connection.execute(statements.SHARED_BODY, (shared,)).fetchone() or (None, None)
        if pointer is not None:
            body, claim = None, decode_claim(pointer)
    # The bytes of a body that is kept aside are compared when they are handed out.
    if (claim is None and (body is None or crc32(body) != row.body_crc)) or (claim and claim.crc != row.body_crc):
        return None
    return _stored(key, row, body, shared, claim)


def _stored(key: int, row: Row, body: bytes | None, shared: int | None, claim: Claim | None = None) -> Stored:
    return Stored(
        place=key & PLACE_MASK,
        id=row.id,
        body=body,
        size=row.size,
        sent_at=row.sent_at,
        kept_from=row.kept_from,
        attributes=row.attributes,
        headers=row.headers,
        group=row.group,
        dedup_id=row.dedup_id,
        receives=row.receives,
        releases=row.releases,
        first_received_at=row.first_received_at,
        received_at=row.received_at,
        state=row.state,
        until=row.until,
        boot=row.boot,
        held_by=row.held_by,
        durable=row.durable,
        stops=row.stops,
        failures=row.failures,
        source=row.source,
        envelope=row.envelope,
        shared=shared or 0,
        queue=key >> PLACE_BITS,
        row=key,
        body_crc=row.body_crc,
        claim=claim,
        expires_at=row.expires_at if row.expires_at is not None else inf,
        key=row.key,
        tried=row.tried,
    )


def encode_claim(claim: Claim) -> bytes:
    """A pointer to a body kept aside, behind its checksum."""
    pointer = msgspec.msgpack.encode(claim)
    return crc32(pointer).to_bytes(4, "big") + pointer


def decode_claim(kept: bytes) -> Claim | None:
    """The pointer; None when it is damaged."""
    pointer = kept[4:]
    return _claim.decode(pointer) if crc32(pointer).to_bytes(4, "big") == kept[:4] else None
