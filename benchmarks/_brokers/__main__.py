"""One system in a process of its own, `python -m _brokers NAME FOLDER BEHIND`: reads a cell a line, answers each."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import traceback
from pathlib import Path

from _rounds import loop_factory

from _brokers.driving import Callers, fill
from _brokers.peer import Absent, Books
from _brokers.servers import many_files, stop_all
from _brokers.systems import SYSTEMS


def say(**answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def serve(name: str, folder: Path, behind: int) -> None:
    (system,) = (each for each in SYSTEMS if each.name == name)
    many_files()
    try:
        peer = await system.open(folder)
    except Absent as absent:
        say(absent=str(absent))
        return
    books = Books(peer.body)
    try:
        await fill(peer, books, behind)
        callers = Callers(peer, books, behind)
        say(ready=name)
        while line := await asyncio.to_thread(sys.stdin.readline):
            say(**await callers.drive(**json.loads(line)))
    except Exception as error:
        say(failed=_told(error))
    finally:
        await peer.close()


def _told(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return "".join(traceback.format_exception(error, limit=-3))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
        finally:
            stop_all()
