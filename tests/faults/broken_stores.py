"""Lines of stores and streams, each broken in one way: what is durable, in order, counted and never twice."""

from __future__ import annotations

from mutant import Mutant

STREAMS = (
    "tests/unit/embedded/test_log.py",
    "tests/unit/engine/test_delivery_crashes.py",
    "tests/unit/engine/test_delivery.py",
    "tests/unit/sinks",
)
MOVES = ("tests/unit/embedded/test_dead_letter_moves.py",)
FAIR = ("tests/unit/embedded/test_tail.py",)
KILLS = ("tests/faults/test_sink_kills.py",)

QUEUE, GROUPS = "pipeflow/state/queue.py", "pipeflow/state/groups.py"
OUTLET, FILE = "pipeflow/embedded/outlet.py", "pipeflow/sinks/file.py"
BROKER, GROUP, HEAD = "pipeflow/embedded/broker.py", "pipeflow/embedded/group.py", "pipeflow/embedded/head.py"
TAIL = "pipeflow/embedded/tail.py"
INTAKE, TENDING = "pipeflow/embedded/intake.py", "pipeflow/embedded/tending.py"
RECOVERY = "pipeflow/embedded/sqlite/recovery.py"
JOURNAL, PENDING = "pipeflow/embedded/sqlite/journal.py", "pipeflow/embedded/sqlite/pending.py"
AHEAD, COMMIT_LOG = "pipeflow/embedded/sqlite/ahead.py", "pipeflow/embedded/sqlite/commitlog.py"
LOGGED = (
    "tests/properties/test_commit_log_against_tables.py",
    "tests/unit/embedded/test_durability.py",
    "tests/unit/embedded/test_recovery.py",
    "tests/unit/embedded/test_log_damage.py",
)

SEALED = "self._ledger.changes().append(Sealed(sealed.segment))"
DELIVERED = "        manifest = await self._writer.write(segment, made)\n"
FORGOTTEN = f"        await self._store.commit(segment, made.manifest)\n{DELIVERED}"
CONSUMED = "self._ledger.changes().append(Consumed(log.spec.name, block.last))"

MUTANTS = (
    Mutant("ack_before_commit", "pipeflow/embedded/commits.py", "        return waiter", "        return _AT_ONCE"),
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
        "gathering.known.append(Known(_scope(head), key, at, id, sequence))",
        "pass",
    ),
    Mutant("row_crc_not_checked", RECOVERY, "if row_crc(key, head) != crc:", "if False:"),
    Mutant("body_crc_not_checked", RECOVERY, "(body is None or crc32(body) != row.body_crc)", "body is None"),
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
    Mutant("letter_moved_twice", "pipeflow/embedded/choosing.py", " or dead.tail.has_left(message.place)", "", MOVES),
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
    Mutant("purge_forgotten_at_restart", HEAD, "counters.purged_upto = self.places.last_place", "pass"),
    Mutant("shared_body_never_released", HEAD, "if message.shared:", "if False:"),
    Mutant("row_counted_where_it_went", GROUP, "            self.uncount(message.row)", "            pass"),
    Mutant("no_wake_up_behind_a_cold_tail", BROKER, "            self.tending.feed(head)", "            pass"),
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
    Mutant("sequences_start_anew", HEAD, "place = self.places.last_place + 1", "place = self.counters.purged_upto + 1"),
    Mutant("log_not_synced", AHEAD, "        if sync:\n            self._log.sync()\n", "", LOGGED),
    Mutant(
        "log_not_synced_when_idle",
        JOURNAL,
        "        self._sync_tables()\n        self._ahead.sync()",
        "        self._sync_tables()",
        LOGGED,
    ),
    Mutant(
        "group_in_the_tables_not_synced_before_those_in_the_log",
        JOURNAL,
        "if sync and self._unsynced:",
        "if False:",
        LOGGED,
    ),
    Mutant(
        "tables_read_without_the_log",
        JOURNAL,
        "            self._settle(connection)\n            return function",
        "            return function",
        LOGGED,
    ),
    Mutant(
        "half_called_whole_too_far",
        JOURNAL,
        "self._put_synced(connection, [rest], self._ahead.folded,",
        "self._put_synced(connection, [rest], self._ahead.number,",
        LOGGED,
    ),
    Mutant("half_written_over_before_its_time", AHEAD, "            turn()\n", "", LOGGED),
    Mutant(
        "log_in_one_half",
        COMMIT_LOG,
        "self._base = self._end = self.half - self._base",
        "self._end = self._base",
        LOGGED,
    ),
    Mutant("torn_commit_believed", COMMIT_LOG, " or crc32(payload, crc32(header[_SUMMED])) != crc:", ":", LOGGED),
    Mutant("damage_in_the_log_not_seen", AHEAD, "        if behind:\n", "        if False:\n", LOGGED),
    Mutant(
        "what_went_before_a_crash_not_looked_for",
        PENDING,
        "                if again:\n                    gone.add(key)\n                continue",
        "                continue",
        LOGGED,
    ),
    Mutant(
        "what_moved_before_a_crash_not_looked_for",
        PENDING,
        "            if again and key != old:",
        "            if False:",
        LOGGED,
    ),
    Mutant(
        "what_moved_on_after_a_crash_not_looked_for",
        PENDING,
        "self.former[key] = former",
        "pass",
        LOGGED,
    ),
    Mutant("parts_of_an_unsynced_log", AHEAD, "                os.fsync(file.fileno())\n", "", LOGGED),
    Mutant("moved_back_and_deleted", PENDING, "                self.gone.discard(key)\n", "", LOGGED),
    Mutant("origin_of_a_second_move_lost", PENDING, "            old = change[5]\n", "", LOGGED),
    Mutant("origin_of_a_deleted_move_lost", PENDING, "key = changes.pop(key)[5]", "changes.pop(key)", LOGGED),
    Mutant(
        "deleted_in_the_wrong_half",
        PENDING,
        "            if row is None:\n",
        "            if row is None and not before:\n",
        LOGGED,
    ),
    Mutant("references_counted_once", PENDING, "refs + (held[1] if held is not None else 0)", "refs", LOGGED),
    Mutant("releases_counted_once", PENDING, "self.releases.get(body, 0) + refs", "refs", LOGGED),
    Mutant(
        "rows_put_twice_refused",
        "pipeflow/embedded/sqlite/statements.py",
        '"INSERT OR REPLACE INTO messages',
        '"INSERT INTO messages',
        LOGGED,
    ),
)
