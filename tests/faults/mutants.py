"""Break one line of the broker at a time and see that the tests notice: tests that cannot fail prove nothing.

    python tests/faults/mutants.py [NAME ...]

Each mutant is a copy of the tree with one line changed. It is caught when a test fails, and survives when all pass.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUEUES = (
    "tests/unit/embedded/test_races.py",
    "tests/unit/embedded/test_recovery.py",
    "tests/unit/embedded/test_durability.py",
    "tests/unit/embedded/test_tail.py",
    "tests/unit/embedded/test_moves.py",
    "tests/conformance",
    "tests/properties/test_crash_walks.py",
    "tests/properties/test_queues_against_a_naive_model.py",
)
STREAMS = (
    "tests/unit/embedded/test_log.py",
    "tests/unit/engine/test_delivery_crashes.py",
    "tests/unit/engine/test_delivery.py",
    "tests/unit/sinks",
)
MOVES = ("tests/unit/embedded/test_dead_letter_moves.py",)
FAIR = ("tests/unit/embedded/test_tail.py",)
KILLS = ("tests/faults/test_sink_kills.py",)


@dataclass(frozen=True)
class Mutant:
    """One broken line."""

    name: str
    path: str
    line: str
    broken: str
    tests: tuple[str, ...] = QUEUES


QUEUE, GROUPS = "pipeflow/state/queue.py", "pipeflow/state/groups.py"
OUTLET, FILE = "pipeflow/embedded/outlet.py", "pipeflow/sinks/file.py"
BROKER, GROUP, HEAD = "pipeflow/embedded/broker.py", "pipeflow/embedded/group.py", "pipeflow/embedded/head.py"
TAIL = "pipeflow/embedded/tail.py"
INTAKE, TENDING = "pipeflow/embedded/intake.py", "pipeflow/embedded/tending.py"
RECOVERY = "pipeflow/embedded/sqlite/recovery.py"

SEALED = "self._ledger.changes().append(Sealed(sealed.segment))"
DELIVERED = """        try:
            for obj in made.objects:
                await self._write_object(segment, obj)
"""
FORGOTTEN = """        await self._store.commit(segment, made.manifest)
        try:
            for obj in made.objects:
                await self._write_object(segment, obj)
"""
CONSUMED = "self._ledger.changes().append(Consumed(log.spec.name, block.last))"

MUTANTS = (
    Mutant("ack_before_commit", BROKER, "        await waiter", "        pass"),
    Mutant("normal_called_full", RECOVERY, '"synchronous = FULL"', '"synchronous = NORMAL"'),
    Mutant(
        "receipt_not_checked",
        QUEUE,
        "return message.receives == receipt.receive and message.boot == receipt.boot",
        "return True",
    ),
    Mutant("receipt_of_another_boot", QUEUE, " and message.boot == receipt.boot", ""),
    Mutant(
        "dedup_in_memory_only",
        INTAKE,
        "self._gathering.known.append(Known(_scope(head), key, at, id, sequence))",
        "pass",
    ),
    Mutant("row_crc_not_checked", RECOVERY, "if row_crc(key, head) != crc:", "if False:"),
    Mutant("body_crc_not_checked", RECOVERY, "if body is None or crc32(body) != row.body_crc:", "if body is None:"),
    Mutant(
        "group_released_at_receive",
        GROUPS,
        "while group and group[0].state == GONE:",
        "while group and group[0].state >= 2:",
    ),
    Mutant(
        "prefix_rule_broken",
        GROUPS,
        "                return\n            yield message",
        "                continue\n            yield message",
    ),
    Mutant("counters_not_journaled", GROUP, "frozen.queues.append((head.number, _encode(head.counters)))", "pass"),
    Mutant("max_receives_off_by_one", QUEUE, ">= limit_of_receives:", "> limit_of_receives:"),
    Mutant("move_forgotten_at_restart", "pipeflow/embedded/moving.py", "if move.under_way:", "if False:", MOVES),
    Mutant("letter_moved_twice", "pipeflow/embedded/moving.py", " or dead.has_left(message.place)", "", MOVES),
    Mutant(
        "noisy_tenant_hides_the_others",
        "pipeflow/state/fair.py",
        "if self.elsewhere or not waiting",
        "if not waiting",
        FAIR,
    ),
    Mutant(
        "read_from_behind_twice", TAIL, "if self.ahead and message.place in self.ahead", "if False and self.ahead", FAIR
    ),
    Mutant("expiry_ignored", QUEUE, "if message.kept_from + retention <= now:", "if False:"),
    Mutant("held_deadline_forgotten", GROUP, "held = message.until if", "held = None if"),
    Mutant("release_is_an_attempt", QUEUE, "message.releases += 1", "pass"),
    Mutant("sweep_before_its_purge", TENDING, "self._unswept.add(head.number)", "pass"),
    Mutant("purge_forgotten_at_restart", HEAD, "counters.purged_upto = counters.last_place", "pass"),
    Mutant("shared_body_never_released", HEAD, "if message.shared:", "if False:"),
    Mutant("row_counted_where_it_went", GROUP, "            self.uncount(message.row)", "            pass"),
    Mutant("no_wake_up_behind_a_cold_tail", BROKER, "                self.tending.feed(head)", "                pass"),
    Mutant("boot_not_counted", RECOVERY, 'int(facts.get("boot", 0)) + 1', 'int(facts.get("boot", 0)) or 1'),
    Mutant("clock_goes_back_at_restart", BROKER, "self.clock.floor(recovered.clock)", "pass"),
    Mutant(
        "delivered_before_it_is_sealed",
        OUTLET,
        SEALED,
        "pass",
        STREAMS,
    ),
    Mutant("seal_not_synced", OUTLET, "self._ledger.owner.gathering.sync = True", "pass", STREAMS),
    Mutant("file_not_synced", FILE, "os.fsync(file)", "pass", STREAMS),
    Mutant("directory_not_synced", FILE, "os.fsync(folder)", "pass", STREAMS),
    Mutant(
        "written_under_a_new_name_after_a_kill",
        OUTLET,
        SEALED,
        "pass",
        KILLS,
    ),
    Mutant("forgotten_before_it_is_written", "pipeflow/engine/delivery.py", DELIVERED, FORGOTTEN, KILLS),
    Mutant("leftovers_stay", FILE, "        _remove(folder, temporary)\n        try:", "        try:", KILLS),
    Mutant("intake_kept_after_it_was_derived", "pipeflow/embedded/log.py", CONSUMED, "pass", KILLS),
    Mutant("sequences_start_anew", HEAD, "counters.last_place += 1\n        message.place", "message.place"),
)


def tree(folder: Path) -> None:
    """A copy of what the tests need."""
    for name in ("pipeflow", "tests", "connectors"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def caught(mutant: Mutant, folder: Path) -> str | None:
    """The test that noticed; None when none did."""
    file = folder / mutant.path
    whole = file.read_text()
    if mutant.line not in whole:
        raise LookupError(f"mutant {mutant.name}: {mutant.path} has no line {mutant.line!r} any more; adapt it")
    file.write_text(whole.replace(mutant.line, mutant.broken, 1))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "--timeout", "20", *mutant.tests],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    finally:
        file.write_text(whole)
    if done.returncode == 0:
        return None
    if done.returncode != 1:
        raise RuntimeError(f"mutant {mutant.name}: pytest ended with {done.returncode}\n{done.stdout[-2000:]}")
    named = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))]
    return named[0].rpartition("::")[2] if named else "a timeout"


def main() -> int:
    wanted = set(sys.argv[1:])
    chosen = [mutant for mutant in MUTANTS if not wanted or mutant.name in wanted]
    survivors: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree(folder)
        for mutant in chosen:
            by = caught(mutant, folder)
            print(f"{mutant.name}: {by or 'SURVIVED'}", file=sys.stderr, flush=True)
            if by is None:
                survivors.append(mutant.name)
    caught_all = len(chosen) - len(survivors)
    print(json.dumps({"campaign": "mutants", "mutants": len(chosen), "caught": caught_all, "survivors": survivors}))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
