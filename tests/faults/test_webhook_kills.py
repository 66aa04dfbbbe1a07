"""Killed while it posts to an endpoint that fails and loses answers: every message arrives, under one id (P15)."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

from http_endpoint import Request, Reset, answer, http_endpoint

HERE = Path(__file__).parent
KILLS = 6


async def test_p15_killed_at_random_every_message_reaches_the_endpoint_under_one_id(tmp_path: Path) -> None:
    chance = random.Random(15)
    acked: set[int] = set()
    first = 0

    def moody(request: Request) -> bytes:
        if chance.random() < 0.02:
            raise Reset  # it has the message; the answer is lost
        return answer(503 if chance.random() < 0.02 else 200)

    async def run(url: str, count: int, seconds: float | None) -> bool:
        program = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "webhook_program.py"), str(tmp_path / "hooks.db"), url, str(first), str(count),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert program.stdout is not None
        said = [await program.stdout.readline()]  # it is open, and has published its first
        if seconds is not None:
            await asyncio.sleep(seconds)
            program.kill()
        out, _ = await program.communicate()
        lines = b"".join([*said, out]).split(b"\n")[:-1]
        acked.update(int(line) for line in lines if line.isdigit())
        return b"delivered" in lines

    async with http_endpoint() as endpoint:
        endpoint.behaviour = moody
        for _ in range(KILLS):
            await run(endpoint.url, 100_000, chance.uniform(0.1, 0.6))
            first += 100_000
        killed = len(endpoint.requests)
        assert await run(endpoint.url, 10, None)
    bodies: dict[str, set[bytes]] = {}
    for request in endpoint.requests:
        bodies.setdefault(request.headers["x-amz-sns-message-id"], set()).add(request.body)
    assert {len(versions) for versions in bodies.values()} == {1}, "an id means one message"
    arrived = [int(json.loads(body)["Message"]) for (body,) in bodies.values()]
    assert len(arrived) == len(set(arrived)), "a message has one id"
    assert acked <= set(arrived)
    assert len(acked) > KILLS
    assert 0 < killed < len(endpoint.requests)
    assert len(bodies) < len(endpoint.requests), "nothing was ever sent again: this proves little"
