"""A pipeline over real flights: alerts for the late ones, dead letters for the cancelled ones, all of them in files.

flights --+-- delays (60 minutes or more) --> alert --> alerts
          +-- departures --> depart      cancelled flights: dead letters, redriven to `cancelled` --> note
          +-- carriers --> tally --> counts      in files in ./counts
          +-- lake                               files in ./lake, by carrier and day
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import msgspec

from pipeflow import App, At, Batch, Context, Reject
from pipeflow.cli.flights.rows import Flight, january

LATE = 60
VERY_LATE = 180


class Alert(msgspec.Struct, frozen=True):
    carrier: str
    flight: int
    day: int
    minutes: int


class Tally(msgspec.Struct, frozen=True):
    """How many flights of one carrier were in one batch; the sum over all tallies counts the month."""

    carrier: str
    flights: int


app = App("flights", broker="sqlite:///flights.db")

flights = app.topic("flights", Flight)
alerts = app.topic("alerts", Alert)

delays = app.queue("delays", Flight, flights.where_body({"dep_delay": [{"numeric": [">=", LATE]}]}))
departures = app.queue("departures", Flight, flights)
cancelled = app.queue("cancelled", Flight)
carriers = app.queue("carriers", Flight, flights)

lake = app.stream(
    "lake",
    Flight,
    flights,
    sink="file://./lake",
    partition_by=lambda flight: {"carrier": flight.carrier, "day": f"{flight.day:02}"},
)
counts = app.stream("counts", Tally, sink="file://./counts")


@app.source(flights)
async def replay(position: int | None) -> AsyncIterator[At[int, Flight]]:
    """Publish the month, row by row; after a restart, from the row behind the last one that was committed."""
    for number, flight in enumerate(january(), start=1):
        if number > (position or 0):
            yield At(number, flight)


@delays.handler(emit=alerts)
async def alert(flight: Flight) -> Alert | None:
    """One alert a very late flight; it commits together with the acknowledgement."""
    if flight.dep_delay == "NA" or flight.dep_delay < VERY_LATE:
        return None
    return Alert(flight.carrier, flight.flight, flight.day, flight.dep_delay)


@departures.handler
async def depart(flight: Flight) -> None:
    """Takes only flights that left: the others end in the dead letters."""
    if flight.dep_delay == "NA":
        raise Reject("cancelled")


@cancelled.handler
async def note(flight: Flight) -> None:
    """Takes what `depart` would not."""


@carriers.batch_handler(size=500, linger=0.2)
async def tally(batch: Batch[Flight], ctx: Context) -> None:
    """Counts per carrier leave with the acknowledgement of the batch they count, so the sum is exact after a crash."""
    for carrier, number in Counter(message.body.carrier for message in batch).items():
        ctx.put(counts, Tally(carrier, number))
