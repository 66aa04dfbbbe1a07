"""P17 for a sink that fails: wherever it is abandoned, each record is in the sink or in failures, once."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable

import pytest
from msgspec import Struct
from record_owner import Owner
from stream_rig import rig

from pipeflow.engine.plan import DeliveryPlan
from pipeflow.errors import ObjectRefused, SinkUnavailable
from pipeflow.messages import Outgoing
from pipeflow.protocols import Object
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import StreamSpec

SPEC = StreamSpec("lake", "memory://lake", compression="none", buffer_bytes=12, retry_seconds=1)
FAILURES = StreamSpec(
    "lake", "memory://lake", compression="none", buffer_bytes=12, retry_seconds=1, failures="memory://failed"
)


class Crash(Struct):
    snapshot: bytes
    objects: dict[str, bytes]
    failed: dict[str, bytes]


class Moody(MemorySink):
    """Takes every third object at once, every third at the second attempt, and every third never."""

    def __init__(self, before: Callable[[], None], moods: bool = True, refuses: bool = False) -> None:
        super().__init__()
        self.before = before
        self.moods = moods
        self.refuses = refuses
        self.seen: dict[str, int] = {}

    async def write(self, obj: Object) -> None:
        self.before()
        tries = self.seen[obj.name] = self.seen.get(obj.name, 0) + 1
        mood = list(self.seen).index(obj.name) % 3 if self.moods else 0
        if mood == 2 and self.refuses:
            raise ObjectRefused("never")
        if mood == 2 or (mood == 1 and tries == 1):
            raise SinkUnavailable("not now")
        await super().write(obj)
        self.before()


async def crashes_of(spec: StreamSpec, refuses: bool = False) -> tuple[list[Crash], set[str]]:
    """Copies of everything at each step of a run, and the records that were acknowledged by its end."""
    found: list[Crash] = []
    owner = Owner(at=0.0)

    def take() -> None:
        found.append(Crash(owner.snapshot, dict(sink.objects), dict(failures.objects)))

    sink, failures = Moody(take, refuses=refuses), Moody(take, moods=False)
    owner.on_commit = take
    offered: set[str] = set()
    async with rig(DeliveryPlan(spec), owner=owner, sink=sink, failures=failures) as r:
        await r.clock.advance(1)
        for n in range(6):
            records = [f"{n}-{i}" for i in range(5)]
            offered.update(records)
            await r.store.append("lake", [Outgoing(record.encode()) for record in records])
            await r.clock.advance(5)
        r.store.demand("lake")
        await r.clock.advance(60)
        take()
    return found, offered


async def counted(spec: StreamSpec, crash: Crash) -> tuple[Counter[str], int]:
    """Go on from the copies with sinks that work, retry what is parked, and count: (records, accepted)."""
    sink, failures = MemorySink(), MemorySink()
    sink.objects.update(crash.objects)
    failures.objects.update(crash.failed)
    async with rig(DeliveryPlan(spec), owner=Owner(crash.snapshot, at=500.0), sink=sink, failures=failures) as r:
        await r.log.parking.retry("lake", None)
        await r.deliver()
        stats = await r.stats()
        assert stats.accepted == stats.delivered + stats.failed
        assert (stats.buffered, stats.buffered_bytes, stats.parked) == (0, 0, 0)
        assert r.owner.count("record_trouble") == 0
    found = Counter(line for content in sink.objects.values() for line in content.decode().split())
    for content in failures.objects.values():
        found.update(base64.b64decode(json.loads(line)["rawData"]).decode() for line in content.splitlines())
    return found, stats.accepted


@pytest.mark.parametrize(("spec", "refuses"), [(FAILURES, False), (SPEC, False), (SPEC, True)])
async def test_p17_S73_wherever_it_stops_each_record_is_in_the_sink_or_in_failures_once(
    spec: StreamSpec, refuses: bool
) -> None:
    found, offered = await crashes_of(spec, refuses)
    assert len(found) > 40
    for crash in found:
        records, accepted = await counted(spec, crash)
        assert len(records) == accepted
        assert set(records.values()) <= {1}
        assert set(records) <= offered
    assert set(records) == offered
    assert bool(found[-1].failed) == (spec.failures is not None)
