"""A year of real flights through a topic and two streams, into Parquet and JSON lines by carrier and month.

    flights --+-- table (find the status, by carrier and month) --> ./table/carrier=UA/month=01/*.parquet
              +-- lines (the same)                              --> ./lines/carrier=UA/month=01/*.jsonl.gz

    python examples/year/year.py DIRECTORY      run it, from nothing or from where an earlier run was killed

Prints one JSON object, and writes throughput.json, what was published and delivered by when, into the directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from pipeflow import App, At
from pipeflow.events import Delivered, Event, Published
from rows import Flight, data_file, flights

LATE = 15
"""Minutes from which a departure counts as delayed in the statistics of the US Department of Transportation."""

STEP = 0.1
"""Seconds that one point of the throughput covers."""

SECONDS = 2.0
"""A month goes by in about as many, and a file should not have to wait for the end of the year."""

app = App("year", broker="sqlite:///year.db")
departures = app.topic("departures", Flight)


def by_carrier_and_month(flight: Flight) -> dict[str, str]:
    return {"carrier": flight.carrier, "month": f"{flight.month:02}"}


table = app.stream(
    "table",
    Flight,
    departures,
    sink="file://./table",
    partition_by=by_carrier_and_month,
    format="parquet",
    buffer_seconds=SECONDS,
)
lines = app.stream(
    "lines", Flight, departures, sink="file://./lines", partition_by=by_carrier_and_month, buffer_seconds=SECONDS
)


@table.transform
@lines.transform
def find_status(flight: Flight) -> Flight:
    """Say what became of the flight."""
    if flight.dep_time is None:
        status = "cancelled"
    elif flight.arr_delay is None:
        status = "diverted"
    else:
        status = "late" if flight.dep_delay is not None and flight.dep_delay >= LATE else "on time"
    return msgspec.structs.replace(flight, status=status)


@app.source(departures)
async def replay(position: int | None) -> AsyncIterator[At[int, Flight]]:
    """Publish the year, row by row; after a restart, from the row behind the last one that was committed."""
    for number, flight in enumerate(flights(data_file()), start=1):
        if number > (position or 0):
            yield At(number, flight)


class Throughput:
    """What was published, and delivered by each stream, by step of time since the start."""

    def __init__(self) -> None:
        self.points: dict[str, dict[int, int]] = {"published": {}, "table": {}, "lines": {}}
        self._began = time.perf_counter()

    def note(self, event: Event) -> None:
        """Count what the event tells of."""
        if isinstance(event, Published):
            self._add("published", event.count)
        elif isinstance(event, Delivered):
            self._add(event.stream, event.records)

    def _add(self, line: str, count: int) -> None:
        step = int((time.perf_counter() - self._began) / STEP)
        self.points[line][step] = self.points[line].get(step, 0) + count

    def written(self, path: Path) -> None:
        """One list per line: records in each step."""
        last = max((max(points, default=0) for points in self.points.values()), default=0)
        series = {name: [points.get(step, 0) for step in range(last + 1)] for name, points in self.points.items()}
        path.write_text(json.dumps({"step": STEP, "records": series}))


def main() -> int:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    # The app's own paths are relative, as in any program: its store and files lie where it runs.
    os.chdir(directory)
    throughput = Throughput()
    app.observe(throughput.note)
    began = time.perf_counter()
    asyncio.run(app.run_until_idle())
    seconds = time.perf_counter() - began
    throughput.written(Path("throughput.json"))
    print(json.dumps({"seconds": round(seconds, 2)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
