"""A topic's archive, chunk after chunk: replayed to one subscriber at a rate, or looked through for matches."""

from __future__ import annotations

from msgspec.structs import replace

from pipeflow.archives import CHUNK, IDS_SHOWN, ArchiveReport, ArchiveRequest
from pipeflow.clock import Clock, Signal
from pipeflow.errors import ConfigurationError
from pipeflow.protocols import Store


async def through(request: ArchiveRequest, store: Store, clock: Clock, rate: float | None = None) -> ArchiveReport:
    """Ask until there is nothing more; the reports added up. Stopped anywhere, the same request goes on there.

    `rate`: messages a second that are sent, at most. NotFound: no such topic, archive or subscriber.
    """
    if rate is not None and not rate > 0:
        raise ConfigurationError(f"replay of topic {request.topic}: rate is {rate}; use more than 0")
    limit = CHUNK if rate is None else max(1, min(CHUNK, int(rate / 4)))
    began = clock.now()
    total = ArchiveReport()
    while True:
        done = await store.archived(replace(request, limit=limit))
        total = ArchiveReport(
            total.examined + done.examined,
            total.matched + done.matched,
            total.sent + done.sent,
            done.before if not total.last else total.before,
            (total.ids + done.ids)[:IDS_SHOWN],
            done.last,
            done.done,
        )
        if done.done:
            return total
        request = replace(request, again=False, after=done.last)
        if rate is not None:
            await clock.wait(Signal(), began + total.sent / rate)
