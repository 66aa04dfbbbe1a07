"""A stream filled at full rate for an hour of virtual time while its sink is down: how much memory that takes.

Prints one line of JSON: bytes resident before and at most, the bound, and what was put and delivered in the end.
"""

from __future__ import annotations

import json
import resource
import sys

import anyio
from stream_rig import rig

from pipeflow.engine.plan import DeliveryPlan
from pipeflow.errors import SinkUnavailable
from pipeflow.messages import Outgoing
from pipeflow.protocols import Object
from pipeflow.sinks.memory import MemorySink
from pipeflow.specs import StreamSpec

BOUND = 48 << 20
RECORDS = 160_000
PARTITIONS = 500


class Absent(MemorySink):
    """Down until it is told otherwise; then counts records and keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.down = True
        self.lines = 0

    async def write(self, obj: Object) -> None:
        if self.down:
            raise SinkUnavailable("down")
        self.lines += obj.records


def resident() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


async def main() -> None:
    sink = Absent()
    spec = StreamSpec(
        "lake", "memory://lake", compression="none", partitioned=True, buffer_bytes=1 << 20, max_buffered=BOUND
    )
    async with rig(DeliveryPlan(spec), sink=sink, durable=False) as r:
        before = resident()
        put = 0

        async def produce() -> None:
            nonlocal put
            for n in range(RECORDS):
                await r.store.append("lake", [Outgoing(b"%07d" % n + bytes(1017), partition=f"p{n % PARTITIONS}")])
                put += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            for _ in range(60):
                await r.clock.advance(60)
            waiting, peak, held = put, resident(), (await r.stats()).buffered_bytes
            sink.down = False
            while put < RECORDS:
                await r.clock.advance(60)
        await r.deliver()
        told = {"before": before, "peak": peak, "held": held, "bound": BOUND, "waiting": waiting, "put": put}
        print(json.dumps({**told, "delivered": sink.lines}))


if __name__ == "__main__":
    anyio.run(main)
