"""Parked segments: on disk across restarts and formats, and what an operator does with them, through the socket too."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from record_owner import Owner

from pipeflow.clock import VirtualClock
from pipeflow.embedded.log import Log
from pipeflow.errors import NotFound, ObjectRefused, RefusedError
from pipeflow.messages import Manifest, ObjectFacts, Outgoing, Segment, Trouble
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import StreamSpec, Topology

STREAM = StreamSpec("lake", "memory://lake")
TROUBLE = Trouble(3, 300.0, 1500.0, "Sink.Unavailable", "down", parked_at=1500.0)


def out(*bodies: str) -> list[Outgoing]:
    return [Outgoing(body.encode()) for body in bodies]


async def park(log: Log, *bodies: str) -> Segment:
    await log.append("lake", out(*bodies))
    log.outlet.demand("lake")
    segment = await log.outlet.seal("lake")
    assert segment is not None
    await log.outlet.note(segment, TROUBLE)
    return segment


async def test_what_is_parked_survives_a_restart_with_the_reason_the_time_and_the_attempts() -> None:
    owner = Owner()
    segment = await park(owner.open(STREAM), "a", "b")
    log = Owner(owner.snapshot).open(STREAM)
    assert await log.outlet.seal("lake") is None
    (parked,) = log.parking.parked("lake")
    assert (parked.id, parked.name, parked.records) == (segment.id, segment.name, 2)
    assert (parked.parked_at, parked.attempts, parked.reason) == (1500.0, 3, "down")
    (stats,) = log.stats()
    assert (stats.parked, stats.parked_segments, stats.buffered) == (2, 1, 2)


async def test_what_an_attempt_met_survives_a_restart_and_is_forgotten_with_the_commit() -> None:
    owner = Owner()
    log = owner.open(STREAM)
    await log.append("lake", out("a"))
    log.outlet.demand("lake")
    segment = await log.outlet.seal("lake")
    assert segment is not None
    met = Trouble(2, 17.5, 1400.0, "Sink.Unavailable", "down", done=1)
    await log.outlet.note(segment, met)
    again = Owner(owner.snapshot)
    log = again.open(STREAM)
    assert await log.outlet.seal("lake") == segment
    assert log.outlet.trouble(segment) == met
    await log.outlet.commit(segment, Manifest([ObjectFacts(segment.name, 1, 1, 1)]))
    assert again.count("record_trouble") == 0


async def test_a_retry_is_on_disk_before_it_is_answered() -> None:
    owner = Owner()
    log = owner.open(STREAM)
    segment = await park(log, "a")
    assert await log.parking.retry("lake", [segment.id]) == 1
    log = Owner(owner.snapshot).open(STREAM)
    assert log.parking.parked("lake") == []
    assert await log.outlet.seal("lake") == segment
    assert log.outlet.trouble(segment).waited == 0.0


async def test_discarding_deletes_counts_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner()
    log = owner.open(STREAM)
    segment = await park(log, "a", "b")
    kept = await park(log, "c")
    assert await log.parking.discard("lake", [segment.id]) == 2
    assert segment.name in caplog.text
    again = Owner(owner.snapshot)
    log = again.open(STREAM)
    assert [parked.id for parked in log.parking.parked("lake")] == [kept.id]
    (stats,) = log.stats()
    assert (stats.discarded, stats.parked, stats.delivered) == (2, 1, 0)
    assert (again.count("record_block"), again.count("record_segment"), again.count("record_trouble")) == (1, 1, 1)


async def test_an_unknown_id_does_nothing_to_the_others() -> None:
    log = Owner().open(STREAM)
    segment = await park(log, "a")
    for verb in (log.parking.retry, log.parking.discard):
        with pytest.raises(NotFound, match=rf"77 is not parked; parked are: {segment.id}"):
            await verb("lake", [segment.id, 77])
    assert len(log.parking.parked("lake")) == 1
    with pytest.raises(NotFound):
        await log.parking.retry("pond", None)


async def test_a_segment_with_damage_is_parked_listed_discarded_and_never_retried() -> None:
    owner = Owner()
    log = owner.open(STREAM)
    await log.append("lake", out("good"))
    await log.append("lake", out("bad"))
    log.outlet.demand("lake")
    await log.outlet.seal("lake")
    owner.connection.execute("UPDATE record_block SET blob = CAST(replace(blob, 'bad', 'BAD') AS BLOB)")
    log = Owner(owner.snapshot).open(STREAM)
    (parked,) = log.parking.parked("lake")
    assert parked.code == "Store.Damaged"
    assert await log.parking.retry("lake", None) == 0
    with pytest.raises(RefusedError, match="damaged"):
        await log.parking.retry("lake", [parked.id])
    await log.parking.discard("lake", [parked.id])
    assert log.parking.parked("lake") == []


async def test_a_segment_whose_trouble_is_damaged_is_left_to_an_operator() -> None:
    owner = Owner()
    log = owner.open(STREAM)
    segment = await park(log, "a")
    owner.connection.execute("UPDATE record_trouble SET crc = crc + 1")
    log = Owner(owner.snapshot).open(STREAM)
    (parked,) = log.parking.parked("lake")
    assert "unknown" in parked.reason
    await log.parking.retry("lake", None)
    assert await log.outlet.seal("lake") == segment


async def test_a_flush_waits_for_the_others_before_it_tells_of_what_is_parked() -> None:
    log = Owner().open(STREAM)
    segment = await park(log, "a")
    with pytest.raises(ObjectRefused, match=segment.name):
        await log.outlet.delivered("lake")


# On the real store


async def test_a_store_of_version_1_opens_and_parks(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = sqlite3.connect(path)
    old.executescript(Path(__file__).with_name("version_1.sql").read_text())
    old.close()
    url = f"sqlite:///{path}"
    store = await open_store(url, clock=VirtualClock(1000.0))
    store.demand("lake")
    segment = await store.seal("lake")
    assert segment is not None
    await store.note(segment, TROUBLE)
    await store.close()
    store = await open_store(url, clock=VirtualClock(1000.0))
    assert [parked.id for parked in await store.parked("lake")] == [segment.id]
    await store.close()


async def test_the_owners_socket_lists_retries_and_discards(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    owner = await open_store(url)
    await owner.declare(Topology(streams=(STREAM,)))
    client: Store = await open_store(url, client=True)
    try:
        ids = []
        for body in "abc":
            await owner.append("lake", out(body))
            owner.demand("lake")
            segment = await owner.seal("lake")
            assert segment is not None
            await owner.note(segment, TROUBLE)
            ids.append(segment.id)
        assert await client.parked("lake") == await owner.parked("lake")
        assert await client.discard_parked("lake", ids[:1]) == 1
        with pytest.raises(NotFound, match="is not parked"):
            await client.discard_parked("lake", ids[:1])
        assert await client.retry_parked("lake", ids[1:2]) == 1
        assert await client.retry_parked("lake") == 1
        assert await client.parked("lake") == []
        (stats,) = (await client.stats()).streams
        assert (stats.discarded, stats.buffered) == (1, 2)
    finally:
        await client.close()
        await owner.close()
