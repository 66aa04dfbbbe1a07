"""Servers on free ports of the loopback, with their files beside pipeflow's store."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from _brokers.peer import Absent

SBIN = (Path("/usr/sbin"),)
POSTGRES = tuple(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
PATIENCE = 15.0
"""Seconds within which a server has to answer."""


def program(name: str, *places: Path) -> str:
    """Where a server is, or why it is not compared."""
    found = shutil.which(name) or next((str(place / name) for place in places if (place / name).exists()), None)
    if found is None:
        raise Absent(f"no {name} on this machine")
    return found


def versions() -> list[str]:
    """Of the servers that are here."""
    found = []
    for name, places in (("redis-server", ()), ("nats-server", SBIN), ("beanstalkd", ()), ("postgres", POSTGRES)):
        try:
            said = subprocess.run(
                [program(name, *places), "-v" if name == "beanstalkd" else "--version"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout
        except Absent:
            continue
        number = re.search(r"\d+(\.\d+)+", said)
        found.append(f"{name} {number[0] if number else '?'}")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """A process that listens on a port, started by `start` and ended by `stop`, whatever happens in between."""

    def __init__(self, command: Sequence[str], port: int, folder: Path) -> None:
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
        self.pid = self._process.pid
        _started.append(self)
        self._until_it_answers(port)

    def _until_it_answers(self, port: int) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                return
            except OSError:
                if self._process.poll() is None and time.monotonic() < until:
                    time.sleep(0.02)
                    continue
            self.stop()
            said = self._log.read_text(errors="replace").strip().splitlines()
            last = said[-1].replace(f"{self._log.parent}/", "") if said else "it says nothing"
            raise Absent(f"its server does not start: {last}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


_started: list[Server] = []


def stop_all() -> None:
    """End every server that this process started, and no other."""
    for server in _started:
        server.stop()


def many_files() -> None:
    """A connection for each of two thousand callers."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 16_384), hard), hard))


def root() -> bool:
    return os.getuid() == 0
