"""Killed while it replays an archive: each message is delivered once, whatever was under way (SNS: T75)."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
COUNT = 3000


async def test_T75_a_replay_that_is_killed_goes_on_and_delivers_each_message_once(tmp_path: Path) -> None:
    chance = random.Random(75)
    database = str(tmp_path / "a.db")

    async def run(*words: str, seconds: float | None = None) -> list[bytes]:
        program = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "archive_program.py"), database, *words, stdout=asyncio.subprocess.PIPE
        )
        assert program.stdout is not None
        said = b""
        if seconds is not None:
            said = await program.stdout.readline()
            await asyncio.sleep(seconds)
            if program.returncode is None:
                program.kill()
        out, _ = await program.communicate()
        return (said + out).splitlines()

    await run("fill", str(COUNT))
    kills = 0
    for _ in range(6):
        kills += b"done" not in await run("replay", seconds=chance.uniform(0.02, 0.3))
    assert kills, "it was never killed in the middle: this proves little"
    assert b"done" in await run("replay")
    delivered = [line.split() for line in await run("count")]
    assert sorted(int(body) for body, _ in delivered) == list(range(COUNT))
    assert len({id for _, id in delivered}) == COUNT
