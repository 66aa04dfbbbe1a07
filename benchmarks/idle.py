"""What an open store costs while nothing happens: processor time, and how often its process wakes up at all.

"queues": an open store with that many queues; "receivers": with a parked receiver on each; "handlers": `pipeflow run`
of an app with a handler on each, all fed by one topic; "everything": ten of them, a stream into files, a webhook, an
archive and two sources, messages that wait an hour for their retry, and records that wait in the stream's buffer. Each
is a process of its own. Once it has settled it is looked at for `--seconds`: `cpu_ms` is user and system time of all
its threads, in the steps of the kernel's clock (10 ms), `wakeups` how often one of them went to sleep meanwhile
(voluntary context switches).

    python benchmarks/idle.py [--rounds N] [--seconds S] [--settle S] [--queues N ...] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from _rounds import alone, table

from pipeflow.messages import Want
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

ROOT = Path(__file__).resolve().parents[1]
PERCENT = 2.0
"""Target: of a core, with 10,000 idle queues."""
HANDLERS = """
    from collections.abc import AsyncIterator

    from pipeflow import App, At, Retry

    app = App("idle", broker="sqlite:///idle.db")
    orders = app.topic("orders", dict)
    queues = [app.queue(f"q{n}", dict, orders) for n in range(QUEUES)]


    async def handle(order: dict) -> None:
        raise Retry(after=3600)


    for queue in queues:
        queue.handler(concurrency=1)(handle)
"""
EVERYTHING = """

    kept = app.topic("kept", dict, archive=7)
    lake = app.stream("lake", dict, kept, orders, sink="file://./lake", buffer_seconds=900)
    hook = app.webhook("hook", kept.where(kind="none"), url="https://hooks.example/", handshake=False)


    @app.source(orders)
    async def one(position: int | None) -> AsyncIterator[At[int, dict]]:
        yield At(1, {"id": 1})


    @app.source(kept)
    async def other(position: int | None) -> AsyncIterator[At[int, dict]]:
        yield At(1, {"id": 1})
"""


async def hold(queues: int, parked: bool) -> None:
    """An open store, until the process is ended."""
    store = await open_store("sqlite:///idle.db")
    await store.declare(Topology(queues=tuple(QueueSpec(f"q{n}") for n in range(queues))))
    if parked:
        await asyncio.gather(*(store.receive(f"q{n}", Want(1, wait=36_000.0)) for n in range(queues)))
    await asyncio.Event().wait()


def look(pid: int) -> tuple[float, int]:
    """Milliseconds of processor time of a process, and voluntary context switches of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")
    switches = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        switches += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))
    return cpu, switches


def watch(command: Sequence[str], folder: Path, seconds: float, settle: float) -> dict[str, float]:
    """Start a program, wait until it rests, and look at it for a while."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}
    )
    try:
        rest(process, settle)
        cpu, switches = look(process.pid)
        time.sleep(seconds)
        later, more = look(process.pid)
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        (resident,) = (int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    finally:
        process.kill()
        process.wait()
    return {"cpu_ms": later - cpu, "wakeups": more - switches, "resident_mb": resident >> 10}


def rest(process: subprocess.Popen[bytes], settle: float) -> None:
    """Return when the process has used no time for so many seconds, its start behind it."""
    time.sleep(settle)
    before = -1.0
    while (now := look(process.pid)[0]) != before:
        if process.poll() is not None:
            raise SystemExit(f"the program ended with {process.returncode}")
        before = now
        time.sleep(max(settle, 0.5))


def program(case: str, queues: int, folder: Path) -> list[str]:
    """What to start for a case."""
    if case in ("queues", "receivers"):
        return [sys.executable, str(Path(__file__).resolve()), "--child", case, str(queues)]
    text = HANDLERS.replace("QUEUES", str(queues)) + (EVERYTHING if case == "everything" else "")
    (folder / "program.py").write_text(textwrap.dedent(text))
    return [sys.executable, "-m", "pipeflow", "run", "program:app"]


def main() -> None:
    parser = argparse.ArgumentParser(description="what an open store costs while nothing happens")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--settle", type=float, default=2.0)
    parser.add_argument("--queues", type=int, nargs="+", default=[10_000])
    parser.add_argument("--quick", action="store_true", help="a second of everything: to test the benchmark")
    parser.add_argument("--child", nargs=2, metavar=("CASE", "QUEUES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        case, queues = options.child
        alone(hold(int(queues), case == "receivers"))
        return
    if options.quick:
        options.rounds, options.seconds, options.settle, options.queues = 1, 0.5, 0.5, [100]
    cases = [("queues", n) for n in options.queues] + [("receivers", n) for n in options.queues if n <= 10_000]
    rows = []
    cases += [("handlers", n) for n in options.queues if n <= 10_000] + [("everything", 10)]
    for case, queues in cases:
        looks = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
                looks.append(watch(program(case, queues, Path(folder)), Path(folder), options.seconds, options.settle))
        # The least: what others make the machine do is not the store's.
        least = {name: min(each[name] for each in looks) for name in looks[0]}
        percent = least["cpu_ms"] / options.seconds / 10
        result = {"case": case, "queues": queues, **least, "seconds": options.seconds, "percent": round(percent, 3)}
        if queues <= 10_000:
            result |= {"target_percent": PERCENT, "reached": percent < PERCENT}
        print(json.dumps(result), flush=True)
        rows.append((case, f"{queues:,}", least["cpu_ms"], least["wakeups"], least["resident_mb"]))
    table(f"{options.seconds:g} s of nothing", ("", "queues", "cpu ms", "wake-ups", "MB"), rows)


if __name__ == "__main__":
    main()
