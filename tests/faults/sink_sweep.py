"""One program, killed at every call that changes the disk, one run for each: strace counts the calls and sends SIGKILL.

What lies on disk is the same between two such calls, so these are all the states that a kill can leave behind.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from forks import fork, outcome
from sink_programs import audit, clean, run

PR_SET_PTRACER, ANY = 0x59616D61, ctypes.c_ulong(-1)

CALLS = (
    *("write", "writev", "pwrite64", "pwritev", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink"),
    *("unlinkat", "ftruncate", "fallocate", "mkdir", "mkdirat", "link", "linkat", "symlinkat", "sendfile"),
)
PAGES = "pwrite64"
_LINE = re.compile(r"(\d+) +([a-z0-9_]+)\(")


def why_not() -> str | None:
    """Why there can be no sweep here; None when there can."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian, Ubuntu: apt-get install strace)"
    if subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
        return "strace may not trace here (ptrace is forbidden, as in some containers)"
    return None


def traced(name: str, folder: Path, batches: int, *options: str) -> int:
    """One life under strace, which takes hold of it before it begins; its exit code, or minus the signal."""
    begin, go = os.pipe()

    def life() -> None:
        # Where only ancestors may trace a process, this one lets any.
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY)
        sys.dont_write_bytecode = True
        os.read(begin, 1)
        run(name, folder, "swept", "full", batches)

    child = fork(life)
    with subprocess.Popen(["strace", "-f", "-qq", "-p", str(child), *options], stderr=subprocess.DEVNULL) as tracer:
        while not held(child):
            if tracer.poll() is not None:
                os.kill(child, signal.SIGKILL)
                raise RuntimeError(f"strace ended with {tracer.returncode} before the life of {name} began")
            time.sleep(0.001)
        os.write(go, b".")
        code = outcome(child)
    os.close(begin)
    os.close(go)
    return code


def held(process: int) -> bool:
    """Whether somebody traces it."""
    status = Path(f"/proc/{process}/status").read_text()
    return "TracerPid:\t0\n" not in status


def points(name: str, folder: Path, batches: int, pages: int) -> Iterator[tuple[str, int]]:
    """(call, its number) of everything that a whole life does to the disk. strace counts for each thread alone.

    `pages`: only each so manieth of the writes of SQLite's pages, which are four of five calls.
    """
    log = folder / "trace"
    code = traced(name, folder, batches, "-o", str(log), "-e", f"trace={','.join(CALLS)}")
    assert code == 0, f"{name}: the traced life ended with {code}"
    counts = Counter(match.groups() for line in log.read_text().splitlines() if (match := _LINE.match(line)))
    for call in CALLS:
        most = max((count for (_, made), count in counts.items() if made == call), default=0)
        for number in range(1, most + 1, pages if call == PAGES else 1):
            yield call, number


def sweep(
    name: str, scratch: Path, end: Callable[[str, Path], object], step: int = 1, pages: int = 1, batches: int = 3
) -> dict[str, object]:
    """Kill one life of some batches at each `step`th point, let the next one end, and count its objects."""
    whole = scratch / f"{name}-whole"
    whole.mkdir()
    found = list(points(name, whole, batches, pages))[::step]
    died = acknowledged = 0
    wrong: list[dict[str, object]] = []
    for call, number in found:
        folder = scratch / f"{name}-{call}-{number}"
        folder.mkdir()
        (folder / "acknowledged").touch()
        where = f"{call}:signal=KILL:when={number}"
        died += (
            traced(name, folder, batches, "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={where}")
            == -signal.SIGKILL
        )
        end(name, folder)
        result = audit(name, folder)
        acknowledged += result["acknowledged"]
        if not clean(result):
            wrong.append({"call": call, "number": number, **result})
            print(json.dumps({"program": name, **wrong[-1]}), flush=True)
        else:
            shutil.rmtree(folder)
    figures = {"points": len(found), "died": died, "acknowledged": acknowledged, "wrong": wrong}
    print(json.dumps({"program": name, **figures}), flush=True)
    return figures
