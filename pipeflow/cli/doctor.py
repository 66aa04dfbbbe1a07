"""`pipeflow doctor`: what a store is, what stands around it, and what will hurt; it repairs nothing."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import anyio
import click
import msgspec
from msgspec import Struct

from pipeflow.app import App
from pipeflow.cli import units
from pipeflow.cli.loading import load_app, usual_target
from pipeflow.cli.main import colour_wanted, leaf
from pipeflow.cli.opening import check_reachable, database_of, opened
from pipeflow.cli.output import count, json_option
from pipeflow.embedded.sqlite.examination import claims_of, examine, sqlite_version
from pipeflow.embedded.sqlite.outbox_file import OutboxFile
from pipeflow.embedded.sqlite.ownership import owner_of
from pipeflow.errors import ConfigurationError, NotFound, PipeflowError
from pipeflow.protocols import Features, StoreStats
from pipeflow.specs import Topology
from pipeflow.version import __version__
from pipeflow.wiring.features import missing

Status = Literal["ok", "note", "warn", "bad"]

EXTRAS = (("uvloop", "a faster loop"), ("isal", "faster gzip"), ("zstandard", "zstd"))
WAL_RESET_FIXED = (3, 51, 3)
TIGHT = 1 << 30
FULL = 128 << 20
"""Bytes free below which sends are refused soon: the bound of the write-ahead log and 64 MiB beside it."""

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs"}


class Check(Struct, frozen=True):
    """One thing that was looked at. `bad` makes the command fail."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def environment() -> Iterator[Check]:
    """This Python and what is installed beside pipeflow."""
    python = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}"
    yield Check("pipeflow", "ok", f"{__version__}, {python}")
    version = ".".join(map(str, sqlite_version()))
    if sqlite_version() >= WAL_RESET_FIXED:
        yield Check("sqlite", "ok", version)
    else:
        yield Check(
            "sqlite",
            "note",
            f"{version}: before 3.51.3 two writers could damage a write-ahead log; pipeflow has one writer only",
            "open a store with no other program while an app runs",
        )
    missing = [f"{name} ({why})" for name, why in EXTRAS if find_spec(name) is None]
    if missing:
        yield Check("extras", "note", f"not installed: {', '.join(missing)}", "pip install 'pipeflow[fast]'")
    else:
        yield Check("extras", "ok", ", ".join(name for name, _ in EXTRAS))


def surroundings(database: Path) -> Iterator[Check]:
    """The file, its directory and its disk, without opening the store."""
    yield from _permissions(database)
    yield from _disk(database)
    owner = owner_of(database)
    yield Check("owner", "ok", f"process {owner}, reached through its socket" if owner else "nobody has it open")
    yield _file(database)


def _permissions(database: Path) -> Iterator[Check]:
    facts = database.stat()
    mode = stat.S_IMODE(facts.st_mode)
    if hasattr(os, "geteuid") and facts.st_uid != os.geteuid():
        yield Check(
            "file", "warn", f"{database} belongs to user {facts.st_uid}", "run as that user, or change its owner"
        )
    elif mode & 0o077:
        yield Check("file", "warn", f"{database} can be read by others (mode {mode:04o})", f"chmod 600 {database}")
    else:
        yield Check("file", "ok", f"{database}, {units.size(facts.st_size)}, mode {mode:04o}")
    directory = database.absolute().parent
    if not os.access(directory, os.W_OK | os.X_OK):
        yield Check("directory", "bad", f"{directory} cannot be written", f"chmod u+wx {directory}")
    elif stat.S_IMODE(directory.stat().st_mode) & 0o002 and not directory.stat().st_mode & stat.S_ISVTX:
        yield Check("directory", "warn", f"{directory} can be written by everybody", f"chmod o-w {directory}")
    else:
        yield Check("directory", "ok", f"{directory}")


def _disk(database: Path) -> Iterator[Check]:
    free = shutil.disk_usage(database.absolute().parent).free
    if free < FULL:
        yield Check("disk", "bad", f"{units.size(free)} free: sends are refused", "free space or move the store")
    elif free < TIGHT:
        yield Check("disk", "warn", f"{units.size(free)} free", "free space before sends are refused")
    else:
        yield Check("disk", "ok", f"{units.size(free)} free")
    kind = _filesystem(database.absolute())
    if kind in NETWORK:
        yield Check("filesystem", "bad", f"{kind}: locks and shared memory do not work there", "use a local disk")


def _filesystem(path: Path) -> str:
    """Its type as the kernel names it; empty where it does not tell."""
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        return ""
    places = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    above = [(place, kind) for place, kind in places if path == Path(place) or Path(place) in path.parents]
    return max(above, key=lambda mount: len(mount[0]), default=("", ""))[1]


def _file(database: Path) -> Check:
    examined = examine(database)
    if not examined.ours:
        return Check("integrity", "bad", f"{database} is a database of another program", "name the store's own file")
    if not examined.known:
        return Check("integrity", "bad", f"format {examined.format} is newer than this version", "upgrade pipeflow")
    if examined.damage:
        return Check("integrity", "bad", "; ".join(examined.damage[:3]), "restore a backup, or move the file aside")
    return Check("integrity", "ok", f"format {examined.format}, quick check finds nothing")


def bodies_aside(database: Path) -> Iterator[Check]:
    """Large bodies that lie in files beside the store: whether all are there, and none that nobody needs."""
    claims = {claim.name: claim.size for claim in claims_of(database) if not claim.place}
    directory = database.with_name(f"{database.name}-claims")
    there = {path.name for path in directory.rglob("*") if path.is_file()}
    missing = [name for name in claims if name not in there and not (directory / name).exists()]
    if missing:
        # An owner may have deleted some while we looked.
        still = {claim.name for claim in claims_of(database)}
        missing = [name for name in missing if name in still]
    if missing:
        yield Check(
            "large bodies", "bad", f"{count(len(missing))} files are missing in {directory}, {missing[0]} first",
            "bring them back from a backup; their messages are set aside when they are received",
        )  # fmt: skip
    orphans = len(there - claims.keys())
    if orphans and owner_of(database) is None:
        yield Check(
            "large bodies", "note", f"{count(orphans)} files that no message needs", "a running app deletes them"
        )
    elif claims and not missing:
        size = units.size(sum(claims.values()))
        yield Check("large bodies", "ok", f"{count(len(claims))} in files beside the store, {size}")


def contents(stats: StoreStats, topology: Topology, declared: Topology | None) -> Iterator[Check]:
    """What the store says of itself, and what it holds that no code speaks of."""
    yield Check("store", "ok", f"{stats.url}, durability {stats.durability}, boot {stats.boot}, id {stats.store_id}")
    waiting = sum(
        queue.ready + queue.delayed + queue.in_flight
        for queue in stats.queues
        if not (queue.holds_dead_letters or queue.archives)
    )
    nouns = f"{len(stats.topics)} topics, {len(stats.queues)} queues, {len(stats.streams)} streams"
    yield Check("nouns", "ok", f"{nouns}; {count(waiting)} messages")
    if stats.quarantined:
        yield Check("damage", "bad", f"{count(stats.quarantined)} damaged rows were set aside", "restore a backup")
    dead = [f"{queue.name} ({count(queue.dead)})" for queue in stats.queues if queue.dead]
    if dead:
        first = next(queue.name for queue in stats.queues if queue.dead)
        yield Check("dead letters", "note", ", ".join(dead), f"pipeflow dlq ls {first} --group-by error")
    failed = [f"{stream.name} ({count(stream.failed)})" for stream in stats.streams if stream.failed]
    if failed:
        yield Check("failed records", "note", ", ".join(failed), "read them under the error prefix of the sink")
    parked = [f"{stream.name} ({count(stream.parked)})" for stream in stats.streams if stream.parked]
    if parked:
        first = next(stream.name for stream in stats.streams if stream.parked)
        yield Check("parked records", "warn", ", ".join(parked), f"pipeflow parked ls {first}")
    if declared is not None:
        yield _undeclared(topology, declared)


def _undeclared(topology: Topology, declared: Topology) -> Check:
    known = _names(declared)
    gone = [f"{kind} {name}" for kind, name in _names(topology) if (kind, name) not in known]
    if not gone:
        return Check("code", "ok", "everything in the store is declared by the app")
    remedy = "declare it again; or `pipeflow purge` a queue, `pipeflow streams delete` a stream"
    return Check("code", "warn", f"not declared by the app: {', '.join(gone)}", remedy)


def _names(topology: Topology) -> list[tuple[str, str]]:
    return [
        *(("topic", spec.name) for spec in topology.topics),
        *(("queue", spec.name) for spec in topology.queues),
        *(("stream", spec.name) for spec in topology.streams),
    ]


def outboxes(app: App) -> Iterator[Check]:
    """What the outboxes of an app could not send."""
    for outbox in (outbox for router in app.walk() for outbox in router.outboxes):
        name = f"outbox {outbox.path}"
        try:
            waiting = OutboxFile(outbox.path, outbox.table).awaiting()
        except NotFound:
            continue  # nothing was ever written
        except PipeflowError as error:
            yield Check(name, "bad", str(error))
            continue
        aside, pending = sum(each.aside for each in waiting), sum(each.pending for each in waiting)
        if aside:
            remedy = f"pipeflow outbox ls {outbox.path} --table {outbox.table}"
            yield Check(name, "warn", f"{count(aside)} rows could not be sent", remedy)
        else:
            yield Check(name, "ok", f"{count(pending)} rows pending")


def examination(url: str | None, app: App | None) -> list[Check]:
    """Every check that can be made; one that fails keeps no other from being made."""
    checks = list(environment())
    declared = app.topology() if app is not None else None
    checks += outboxes(app) if app is not None else ()
    if url is None:
        return [*checks, Check("store", "note", "no store is named here", "pipeflow doctor sqlite:///FILE")]
    try:
        check_reachable(url)
        database = database_of(url)
        if database is not None:
            checks += surroundings(database)
            checks += bodies_aside(database)
        checks += anyio.run(_asked, url, app, declared)
    except (PipeflowError, OSError, BaseExceptionGroup) as error:
        cause = leaf(error)
        if not isinstance(cause, PipeflowError | OSError):
            raise
        checks.append(Check("store", "bad", str(cause)))
    return checks


async def _asked(url: str, app: App | None, declared: Topology | None) -> list[Check]:
    async with opened(url) as store:
        checks = list(contents(await store.stats(), await store.describe(), declared))
        if app is not None:
            checks += _features(app, store.features)
        return checks


def _features(app: App, features: Features) -> Iterator[Check]:
    """What the app declares and the store cannot do: it will not start."""
    for lack in missing(list(app.walk()), features):
        yield Check("features", "bad", lack, "the app does not start on this store; change that, or use another store")


SIGNS: dict[Status, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "note": ("note", "cyan"),
    "warn": ("warn", "yellow"),
    "bad": ("BAD", "red"),
}


def show_checks(checks: list[Check]) -> None:
    """One line each, with its remedy below."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        sign, colour = SIGNS[check.status]
        click.echo(
            f"{click.style(f'{sign:<5}', fg=colour, bold=True)}{check.name:<{width}}  {check.detail}",
            color=colour_wanted(sys.stdout),
        )
        if check.remedy:
            click.echo(f"     {'':<{width}}  -> {check.remedy}")


@click.command()
@click.argument("url", required=False)
@click.option("--broker", metavar="URL", envvar="PIPEFLOW_BROKER", show_envvar=True, help="The same as URL.")
@click.option("--app", metavar="MODULE:APP", help="Compare with what this app declares.")
@json_option
def doctor(url: str | None, broker: str | None, app: str | None, as_json: bool) -> int:
    """Examine a store, its file, its disk and what is installed. Exit code 1 when something is bad.

    Without URL, the store of the app in app.py or main.py here. Nothing is repaired.
    """
    loaded = load_app(app) if app is not None or (url is None and usual_target() is not None) else None
    named = url or broker or (loaded.broker if loaded is not None else None)
    if named is not None and "://" not in named:
        raise ConfigurationError(f"{named!r} is no URL; write sqlite:///{named}")
    checks = examination(named, loaded)
    bad = any(check.status == "bad" for check in checks)
    if as_json:
        click.echo(msgspec.json.encode({"url": named, "ok": not bad, "checks": checks}).decode())
    else:
        show_checks(checks)
    return int(bad)
