"""A system in its own process, seen from the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from functools import cached_property
from pathlib import Path

from _brokers.driving import PATIENCE
from _brokers.peer import Wrong
from _brokers.systems import System

FILLS, HANGS = 600.0, 120.0
"""Seconds after which a system is given up: until it has its messages behind it, and in one cell."""
BENCHMARKS = Path(__file__).resolve().parent.parent
COMPILED = BENCHMARKS.parent / "build" / "compiled"


class Running:
    """Starts at once and makes itself ready while others do; rests between cells."""

    def __init__(self, system: System, folder: Path, behind: int) -> None:
        self.system = system
        self._folder = folder
        self._behind = behind
        self._process = self._start(folder)

    def _start(self, folder: Path) -> subprocess.Popen[str]:
        folder.mkdir()
        # Servers that run as a user of their own have to get at their files.
        folder.parent.chmod(0o755)
        first = [str(COMPILED)] if self.system.compiled else []
        paths = [*first, str(BENCHMARKS.parent), str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, "-m", "_brokers", self.system.name, str(folder), str(self._behind)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    @cached_property
    def missing(self) -> str | None:
        """Why it cannot be measured here; None when it is ready."""
        try:
            answer = self._answer(FILLS)
        except Wrong as wrong:
            return str(wrong)
        return str(answer["absent"]) if "absent" in answer else None

    def restart(self) -> None:
        """After a failure: empty, and with its messages behind it again."""
        self.close()
        self._folder = self._folder.with_name(f"{self._folder.name}-again")
        self._process = self._start(self._folder)
        del self.missing
        if self.missing is not None:
            print(f"{self.system.name}: did not start again, {self.missing}", file=sys.stderr)

    def drive(self, callers: int, batch: int, seconds: float) -> dict[str, float]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"callers": callers, "batch": batch, "seconds": seconds}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Wrong(f"failed: {error}") from error
        return {name: float(str(value)) for name, value in self._answer(HANGS).items()}

    def _answer(self, within: float) -> dict[str, object]:
        assert self._process.stdout is not None
        late = threading.Timer(within, self._process.terminate)
        late.start()
        try:
            line = self._process.stdout.readline()
        finally:
            late.cancel()
        answer: dict[str, object] = json.loads(line or '{"failed": "it gave no answer"}')
        if "failed" in answer:
            raise Wrong("failed: " + str(answer["failed"]).strip().splitlines()[-1])
        return answer

    def close(self) -> None:
        """Let it end its server and itself."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it is gone
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()
