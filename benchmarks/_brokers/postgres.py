"""PostgreSQL as a queue: SKIP LOCKED, prepared statements, a pool; a batch is one statement over arrays.

A claim is not synced where sends and deletes are: one that a crash takes back is a message delivered again.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from _brokers.peer import BODY, Absent, Taken
from _brokers.servers import POSTGRES, Server, free_port, program, root

POOL = 32
"""Connections for sends and deletes, and as many for claims."""
TABLE = """
    CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, held timestamptz, body bytea NOT NULL)
        WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
    CREATE INDEX jobs_waiting ON jobs (id) WHERE held IS NULL;
"""
SEND = "INSERT INTO jobs (body) VALUES ($1)"
SEND_MANY = "INSERT INTO jobs (body) SELECT unnest($1::bytea[])"
CLAIM = """
    UPDATE jobs SET held = now()
    WHERE id = ANY (ARRAY (SELECT id FROM jobs WHERE held IS NULL ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING body, id
"""
DELETE = "DELETE FROM jobs WHERE id = $1"
DELETE_MANY = "DELETE FROM jobs WHERE id = ANY ($1::bigint[])"
SETTINGS = {
    "max_connections": 2 * POOL + 20,
    "autovacuum_naptime": "2s",
    "unix_socket_directories": "''",
    "listen_addresses": "'127.0.0.1'",
    "logging_collector": "off",
}


class Postgres:
    body = BODY

    def __init__(self, server: Server, settled: Any, claims: Any) -> None:
        self._process = server
        self._settled = settled
        self._claims = claims
        self.server = server.pid

    async def sender(self) -> Postgres:
        return self

    taker = sender

    def send(self, bodies: Sequence[bytes]) -> Awaitable[object]:
        if len(bodies) == 1:
            return self._settled.execute(SEND, bodies[0])
        return self._settled.execute(SEND_MANY, bodies)

    def take(self, limit: int) -> Awaitable[Sequence[Taken]]:
        return self._claims.fetch(CLAIM, limit)

    def ack(self, taken: Sequence[Taken]) -> Awaitable[object]:
        if len(taken) == 1:
            return self._settled.execute(DELETE, taken[0][1])
        return self._settled.execute(DELETE_MANY, [id for _, id in taken])

    def end(self) -> None:
        return

    async def left(self) -> int:
        return int(await self._settled.fetchval("SELECT count(*) FROM jobs"))

    async def close(self) -> None:
        await self._settled.close()
        await self._claims.close()
        self._process.stop()


def _as_postgres(folder: Path) -> list[str]:
    """PostgreSQL does not run as root: its files are the user's that its package makes, and so are its processes."""
    if not root():
        return []
    if shutil.which("setpriv") is None:
        raise Absent("PostgreSQL does not run as root, and there is no setpriv")
    try:
        shutil.chown(folder, "postgres", "postgres")
    except LookupError:
        raise Absent("PostgreSQL does not run as root, and there is no user postgres") from None
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


async def _as_it_is(connection: Any) -> None:
    """Nobody changes its settings: resetting them would be one more question for every call."""


def _initdb(own: list[str], files: Path) -> None:
    command = [*own, program("initdb", *POSTGRES), "-D", str(files), "-U", "bench", "--auth=trust", "--no-sync"]
    made = subprocess.run(
        [*command, "-E", "UTF8", "--locale=C"], capture_output=True, text=True, cwd=files.parent, check=False
    )
    if made.returncode != 0:
        raise Absent(f"initdb: {made.stderr.strip().splitlines()[-1]}")


async def open_peer(setting: str, folder: Path) -> Postgres:
    try:
        import asyncpg
    except ImportError:
        raise Absent("the package asyncpg is not installed") from None
    postgres = program("postgres", *POSTGRES)
    own, files, port = _as_postgres(folder), folder / "files", free_port()
    await asyncio.to_thread(_initdb, own, files)
    options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}".replace("'", ""))]
    server = Server([*own, postgres, "-D", str(files), "-p", str(port), *options], port, folder)

    url = f"postgres://bench@127.0.0.1:{port}/postgres"
    while True:
        try:
            await (await asyncpg.connect(url)).close()
            break
        except asyncpg.CannotConnectNowError:
            await asyncio.sleep(0.05)  # it listens before it serves

    async def pool(synchronous: str) -> Any:
        return await asyncpg.create_pool(
            url,
            min_size=POOL,
            max_size=POOL,
            reset=_as_it_is,
            server_settings={"synchronous_commit": synchronous, "jit": "off"},
        )

    settled = await pool(setting)
    await settled.execute(TABLE)
    return Postgres(server, settled, await pool("off"))
