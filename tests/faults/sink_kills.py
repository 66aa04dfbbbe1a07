"""Kill -9 on programs that fill sinks: at random moments, and at every call that changes the disk (P17).

    python tests/faults/sink_kills.py [kills] [--seed N] [--program NAME ...] [--no-sweep] [--step N]

Random: each program lives and is killed again and again in one folder, then ends by itself, and its objects are
counted: every acknowledged record lies in exactly one. Sweep: a short life is run under strace once for each call it
makes that changes the disk (write, sync, rename, unlink ...), killed at that call, and then once more to its end.
The last line is the result as JSON; the exit code is 1 when a record is missing or there twice.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from forks import fork, outcome
from sink_programs import PROGRAMS, audit, clean, run, twice_now
from sink_sweep import sweep, why_not

LIVES = 20
"""Kills in one folder before it is counted."""


def killed(name: str, folder: Path, life: str, durability: str, rolls: Random) -> None:
    """One life that ends by SIGKILL: some time after it opened its app, or, each fifth, while it still opens it."""
    heard, said = os.pipe()
    child = fork(lambda: run(name, folder, life, durability, None, lambda: os.write(said, b".")))
    os.close(said)
    if rolls.random() < 0.8:
        assert os.read(heard, 1), f"{name}: the program ended before it was open"
    time.sleep(rolls.uniform(0, 0.3))
    os.kill(child, signal.SIGKILL)
    code = outcome(child)
    os.close(heard)
    assert code == -signal.SIGKILL, f"{name}: the program ended by itself, with {code}"


def ended(name: str, folder: Path, life: str) -> float:
    """The last life: takes a little more in, delivers everything and ends by itself. Its seconds."""
    began = time.monotonic()
    code = outcome(fork(lambda: run(name, folder, life, "full", 2)))
    assert code == 0, f"{name}: the last life ended with {code}"
    return time.monotonic() - began


def random_kills(name: str, folder: Path, kills: int, rolls: Random) -> dict[str, int]:
    """Kill one program so often in one folder, let it end, and count."""
    twice = 0
    for life in range(kills):
        killed(name, folder, str(life), rolls.choice(["full", "normal"]), rolls)
        twice += twice_now(folder)
    ended(name, folder, "last")
    result = audit(name, folder)
    return {**result, "twice": result["twice"] + twice}


def campaign(kills: int, seed: int, programs: list[str], scratch: Path) -> dict[str, object]:
    """Random kills, spread over the programs in turn."""
    rolls = Random(seed)
    total: dict[str, int] = {}
    wrong: list[dict[str, object]] = []
    done = round_number = 0
    while done < kills:
        name = programs[round_number % len(programs)]
        folder = scratch / f"{round_number}-{name}"
        folder.mkdir()
        lives = min(LIVES, kills - done)
        result = random_kills(name, folder, lives, rolls)
        if not clean(result):
            wrong.append({"program": name, "round": round_number, **result})
        for key, value in result.items():
            total[key] = total.get(key, 0) + value
        done += lives
        round_number += 1
        print(json.dumps({"kills": done, "program": name, **result}), flush=True)
    return {"kills": done, **total, "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 programs that fill sinks, and count their objects")
    parser.add_argument("kills", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--program", choices=list(PROGRAMS), action="append")
    parser.add_argument("--sweep", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--step", type=int, default=1, help="every so manieth call of the sweep")
    parser.add_argument("--batches", type=int, default=3, help="how much the lives of a sweep take in")
    parser.add_argument(
        "--pages", type=int, default=1, help="every so manieth write of a page of the store, in the sweep"
    )
    wanted = parser.parse_args()
    programs = wanted.program or list(PROGRAMS)
    result: dict[str, object] = {"seed": wanted.seed}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        if wanted.kills:
            result |= campaign(wanted.kills, wanted.seed, programs, Path(scratch))
        if wanted.sweep:
            if (reason := why_not()) is not None:
                print(f"no sweep: {reason}", file=sys.stderr)
                return 2

            def last(name: str, folder: Path) -> None:
                ended(name, folder, "last")

            result["swept"] = {
                name: sweep(name, Path(scratch), last, wanted.step, wanted.pages, wanted.batches) for name in programs
            }
    print(json.dumps(result))
    swept = result.get("swept") or {}
    assert isinstance(swept, dict)
    return 1 if result.get("wrong") or any(each["wrong"] for each in swept.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
