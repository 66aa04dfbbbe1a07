"""`pipeflow demo`: the main job on real input, shown live and told in figures that are right after a kill too.

Every figure comes from the store's own durable counters, so a run that was killed and resumed reports the same ones.
"""

from __future__ import annotations

import gzip
import json
import os
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click
import msgspec

from pipeflow.cli.flights.app import app, cancelled, departures
from pipeflow.cli.flights.rows import TOTAL
from pipeflow.cli.output import say
from pipeflow.engine.scopes import task_scope
from pipeflow.errors import ConfigurationError
from pipeflow.filters import where_body
from pipeflow.protocols import QueueStats, Redrive, Store, StoreStats, StreamStats, TopicStats

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table

HOME = Path("flights-out")
STORE = "flights.db"
CANCELLED = Redrive(
    departures.name, to=cancelled.name, where=where_body({"error": ["Reject"], "body": {"dep_delay": ["NA"]}})
)


PRINTED = (
    "published",
    "delayed",
    "alerts",
    "cancelled_dead",
    "redriven",
    "files",
    "records_in_files",
    "seconds",
    "out",
)
"""The keys of `--json`; the table shows more."""


class Figures(msgspec.Struct, frozen=True):
    """What happened."""

    published: int
    delayed: int
    alerts: int
    cancelled_dead: int
    redriven: int
    files: int
    records_in_files: int
    bytes: int
    seconds: float
    out: str
    carriers: dict[str, int]


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the store and the files go: an empty directory.",
)
@click.option("--resume", is_flag=True, help="Go on in the directory of an earlier run, however it ended.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def demo(out: Path | None, resume: bool, as_json: bool) -> None:
    """Run a month of real flights through topics, queues and a stream, into compressed files.

    27,004 flights are published; the late ones raise alerts, the cancelled ones end in dead letters and are redriven,
    and all of them are written to files by carrier and day, each exactly once. Kill it at any moment and run it again
    with --resume.
    """
    began = time.perf_counter()
    directory = place(out, resume)
    # The app's own paths are relative, as in any program: its store and files lie where it runs.
    os.chdir(directory)
    from rich.console import Console

    errors = Console(stderr=True)
    try:
        stats, reasons = anyio.run(
            perform, errors if errors.is_terminal else None, backend_options={"use_uvloop": has_uvloop()}
        )
    except KeyboardInterrupt:
        say(f"interrupted; pipeflow demo --out {directory} --resume goes on from here")
        raise
    figures = gather(stats, time.perf_counter() - began, directory)
    if as_json:
        click.echo(json.dumps({key: getattr(figures, key) for key in PRINTED}))
    else:
        Console().print(table(figures, reasons))


def has_uvloop() -> bool:
    """Whether the faster loop is installed."""
    from importlib.util import find_spec

    return find_spec("uvloop") is not None


def place(out: Path | None, resume: bool) -> Path:
    """The directory of this run, made and fit to be used; ConfigurationError when it is not."""
    directory = (out if out is not None else unnamed(resume)).resolve()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        there = sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise ConfigurationError(f"{directory}: {error.strerror}; name a directory that can be written") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{directory}: cannot be written; name another with --out")
    if there and not resume:
        raise ConfigurationError(
            f"{directory}: not empty (it holds {there[0]}); add --resume to go on there, or name another with --out"
        )
    if there and not any(name.startswith(STORE) for name in there):
        raise ConfigurationError(f"{directory}: holds no {STORE} to resume; name the directory of an earlier run")
    return directory


def unnamed(resume: bool) -> Path:
    """Without --out: the next run's directory below `flights-out`, or the newest one when resuming."""
    runs = sorted(int(path.name) for path in HOME.glob("*") if path.name.isdigit()) if HOME.is_dir() else []
    newest = runs[-1] if runs else 0
    return HOME / str(newest if resume and runs else newest + 1)


async def perform(console: Console | None) -> tuple[StoreStats, dict[str, int]]:
    """Both halves of the job. Each is done as far as the store says it is not, so a resumed run skips what is."""
    async with app.running(broker=f"sqlite:///{STORE}") as runtime, task_scope() as watchers:
        store = runtime.store
        progress = board(console)
        with progress if progress is not None else nullcontext():
            if progress is not None:
                watchers.start_soon(follow, store, progress)
            await runtime.until_idle()
            reasons = await dead_by_error(store)
            await store.redrive(CANCELLED)
            await runtime.until_idle()
        watchers.cancel_scope.cancel()
        stats = await store.stats()
    return stats, reasons


async def dead_by_error(store: Store) -> dict[str, int]:
    """How many dead letters of `departures` there are of each error."""
    dead = await store.peek(departures.name, limit=TOTAL, dead=True)
    return Counter(
        f"{letter.failures[-1].type}: {letter.failures[-1].message}" if letter.failures else "unknown"
        for letter in dead
    )


def gather(stats: StoreStats, seconds: float, directory: Path) -> Figures:
    """The figures of the job from the store's counters."""
    published, alerts = topic(stats, "flights"), topic(stats, "alerts")
    delays, dead, lake = queue(stats, "delays"), queue(stats, "departures"), stream(stats, "lake")
    return Figures(
        published=published.published,
        delayed=delays.sent,
        alerts=alerts.published,
        cancelled_dead=dead.buried,
        redriven=dead.redriven,
        files=lake.objects,
        records_in_files=lake.delivered,
        bytes=lake.object_bytes,
        seconds=round(seconds, 2),
        out=str(directory),
        carriers=tallied(directory),
    )


def tallied(directory: Path) -> dict[str, int]:
    """Flights per carrier, summed over the tallies in the files, the busiest carrier first."""
    total: Counter[str] = Counter()
    for path in sorted((directory / "counts").rglob("*.gz")):
        with gzip.open(path, "rt") as lines:
            for line in lines:
                tally = json.loads(line)
                total[tally["carrier"]] += tally["flights"]
    return dict(total.most_common())


def topic(stats: StoreStats, name: str) -> TopicStats:
    return next(found for found in stats.topics if found.name == name)


def queue(stats: StoreStats, name: str) -> QueueStats:
    return next(found for found in stats.queues if found.name == name)


def stream(stats: StoreStats, name: str) -> StreamStats:
    return next(found for found in stats.streams if found.name == name)


def board(console: Console | None) -> Progress | None:
    """A bar for each thing that counts up, on a terminal only."""
    if console is None:
        return None
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description:>22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


async def follow(store: Store, progress: Progress) -> None:
    """Move the bars to the store's counters a few times a second."""
    bars = {name: progress.add_task(name, total=TOTAL) for name in ("published", "departures", "counted", "in files")}
    while True:
        move(bars, progress, await store.stats())
        await anyio.sleep(0.2)  # how often a person sees the bars move


def move(bars: dict[str, TaskID], progress: Progress, stats: StoreStats) -> None:
    departed, counted = queue(stats, "departures"), queue(stats, "carriers")
    progress.update(bars["published"], completed=topic(stats, "flights").published)
    progress.update(bars["departures"], completed=departed.acked + departed.buried)
    progress.update(bars["counted"], completed=counted.acked)
    progress.update(bars["in files"], completed=stream(stats, "lake").delivered)


def table(figures: Figures, reasons: dict[str, int]) -> Table:
    """What happened, in a screenful."""
    from rich.table import Table

    shown = Table(title="a month of flights", show_header=False)
    shown.add_column(justify="right", style="bold")
    shown.add_column()
    busiest = ", ".join(f"{carrier} {count:,}" for carrier, count in list(figures.carriers.items())[:5])
    grouped = ", ".join(f"{count:,} {error}" for error, count in reasons.items())
    rows = [
        (f"{figures.published:,}", "flights published"),
        (f"{figures.delayed:,}", "60 minutes late or more, in the queue delays"),
        (f"{figures.alerts:,}", "alerts for 180 minutes or more"),
        (f"{figures.cancelled_dead:,}", f"dead letters of departures{f' ({grouped})' if grouped else ''}"),
        (f"{figures.redriven:,}", "redriven to the queue cancelled"),
        (f"{figures.files:,}", f"files with {figures.records_in_files:,} flights, {figures.bytes:,} bytes"),
        (f"{figures.published / figures.seconds:,.0f}", f"flights a second, {figures.seconds:.1f} s in all"),
        (f"{len(figures.carriers)}", f"carriers: {busiest} ..."),
    ]
    for row in rows:
        shown.add_row(*row)
    shown.caption = f"files in {figures.out}/lake"
    return shown
