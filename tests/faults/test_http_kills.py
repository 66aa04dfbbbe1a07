"""Killed while it delivers to an endpoint that loses answers: by its ids a receiver has each record once (P19)."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from pathlib import Path

from http_endpoint import Request, Reset, acknowledged, http_endpoint

HERE = Path(__file__).parent
KEY = "canary-5f1d0c"
KILLS = 6


async def test_p19_killed_at_random_each_acknowledged_record_has_one_id_and_each_id_one_body(tmp_path: Path) -> None:
    chance = random.Random(19)
    database = tmp_path / "hooks.db"
    acked: set[bytes] = set()
    first = 0

    def moody(request: Request) -> bytes:
        if chance.random() < 0.02:
            raise Reset  # it has the records; the answer is lost
        return acknowledged(request, 503 if chance.random() < 0.02 else 200)

    async def run(url: str, count: int, seconds: float | None) -> bool:
        program = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "http_program.py"), str(database), url, str(first), str(count),
            env={**os.environ, "HOOK_KEY": KEY}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert program.stdout is not None
        said = [await program.stdout.readline()]  # it is open, and has put its first
        if seconds is not None:
            await asyncio.sleep(seconds)
            program.kill()
        out, err = await program.communicate()
        assert KEY not in err.decode()
        lines = b"".join([*said, out]).split(b"\n")[:-1]
        acked.update(b"%06d" % int(line) for line in lines if line.isdigit())
        return b"flushed" in lines

    async with http_endpoint() as endpoint:
        endpoint.behaviour = moody
        for _ in range(KILLS):
            await run(endpoint.url, 100_000, chance.uniform(0.05, 0.5))
            first += 100_000
        endpoint.behaviour = acknowledged
        assert await run(endpoint.url, 10, None)
    bodies: dict[str, set[bytes]] = {}
    for request in endpoint.requests:
        assert request.headers["x-amz-firehose-access-key"] == KEY
        bodies.setdefault(request.id, set()).add(request.body)
    assert {len(versions) for versions in bodies.values()} == {1}
    once = {request.id: request for request in endpoint.requests}
    records = Counter(record for request in once.values() for record in request.records)
    assert set(records.values()) == {1}
    assert acked <= set(records)
    assert len(acked) > KILLS
    assert len(once) < len(endpoint.requests), "nothing was ever sent again: this proves little"
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes(), f"the key lies in {path.name}"
