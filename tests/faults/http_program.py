"""A program that puts numbered records into a stream to an HTTP endpoint, and prints each once it is on disk.

http_program.py DATABASE URL FIRST COUNT
"""

from __future__ import annotations

import sys

import anyio

from pipeflow import App, Endpoint


async def main(database: str, url: str, first: int, count: int) -> None:
    app = App("hooks", broker=f"sqlite:///{database}")
    stream = app.stream(
        "hooks",
        bytes,
        sink=url,
        endpoint=Endpoint(access_key="env:HOOK_KEY", timeout=5),
        buffer_bytes=200,
        buffer_seconds=0.05,
    )
    async with app:
        for number in range(first, first + count):
            await stream.put(b"%06d" % number)
            print(number, flush=True)
        await stream.flush()
        print("flushed", flush=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
