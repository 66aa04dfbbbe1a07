"""A program that replays an archive of numbered messages to a queue, in small chunks.

archive_program.py DATABASE fill COUNT | replay | count
"""

from __future__ import annotations

import sys

import anyio

from pipeflow.archives import ArchiveRequest
from pipeflow.engine.archives import through
from pipeflow.messages import Outgoing
from pipeflow.registry import open_store
from pipeflow.specs import DAY, FilterPolicy, QueueSpec, Subscription, TopicSpec, Topology, archive_queue

TOPIC = TopicSpec("t", archive=DAY)
NEVER = FilterPolicy('{"never": ["x"]}')


async def main(database: str, verb: str, count: int) -> None:
    store = await open_store(f"sqlite:///{database}")
    taken = None if verb == "replay" else NEVER  # filled and counted, the queue itself takes nothing of the topic
    await store.declare(
        Topology(
            topics=(TOPIC,),
            queues=(QueueSpec("q", max_receives=None), archive_queue(TOPIC)),
            subscriptions=(Subscription("t", "queue", "q", taken), Subscription("t", "queue", "t-archive")),
        )
    )
    if verb == "fill":
        await store.publish("t", [Outgoing(b"%d" % number) for number in range(count)])
    elif verb == "replay":
        print("open", flush=True)
        await through(ArchiveRequest("t", "q"), store, store.clock, rate=2000)
        print("done", flush=True)
    else:
        for peeked in await store.peek("q", 1 << 30):
            print(peeked.body.decode(), peeked.id)
    await store.close()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
