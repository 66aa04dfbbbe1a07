"""Lines of the queues' state machines, each broken in one way: at deadlines, in counts, in order, in what is told.

The tests that are to notice are quick ones: the state machines beside naive models, and their units.
"""

# ruff: noqa: E501  # what is broken is quoted as it stands

from __future__ import annotations

from mutant import Mutant

QUEUE, GROUPS, LINE = "pipeflow/state/queue.py", "pipeflow/state/groups.py", "pipeflow/state/order.py"
DEDUP, ATTEMPTS, FAIR = "pipeflow/state/dedup.py", "pipeflow/state/attempts.py", "pipeflow/state/fair.py"

BESIDE = ("tests/properties/test_state_machines_against_a_naive_model.py", "tests/unit/state")
TENANTS = ("tests/properties/test_fair_queues_against_a_naive_model.py", "tests/unit/state/test_fair.py")
REPEATED = ("tests/properties/test_state_machines_against_a_naive_model.py", "tests/conformance/test_queue_options.py")

DEADLINES = (
    Mutant("delay_ends_late", QUEUE, "waiting[0][0] <= now", "waiting[0][0] < now", BESIDE),
    Mutant("hold_ends_late", QUEUE, "held[0][0] <= now", "held[0][0] < now", BESIDE),
    Mutant("extended_hold_ends_at_the_old_time", QUEUE, "if message.until > now:", "if False:", BESIDE),
    Mutant("retention_ends_late", QUEUE, "kept_from + retention <= now", "kept_from + retention < now", BESIDE),
    Mutant("retention_is_never_looked_at", QUEUE, "if expires < self._sweep_at:", "if False:", BESIDE),
    Mutant("new_retention_is_for_later", QUEUE, "self._sweep_at = oldest + spec.retention", "pass", BESIDE),
    Mutant("new_delay_is_for_later", QUEUE, "redelayed = spec.fifo and", "redelayed = False and", BESIDE),
    Mutant("new_delay_is_for_retries_too", QUEUE, "== DELAYED and not message.receives:", "== DELAYED:", BESIDE),
    Mutant("deadline_of_a_hold_not_kept", QUEUE, "if held and held[0][0] < due:", "if False:", BESIDE),
    Mutant("deadline_of_a_delay_not_kept", QUEUE, "if waiting and waiting[0][0] < due:", "if False:", BESIDE),
    Mutant("shorter_hold_ends_at_the_old_time", QUEUE, "if shorter:", "if False:", BESIDE),
    Mutant("extension_adds_to_the_rest", QUEUE, "shorter = now", "message.until += timeout - now\n            shorter = now",
           BESIDE),
    Mutant("hold_of_twelve_hours_refused", QUEUE, "received_at <= LONGEST_HOLD", "received_at < LONGEST_HOLD", BESIDE),
    Mutant("hold_beyond_twelve_hours", QUEUE, "now + timeout - message.received_at <=", "timeout <=", BESIDE),
    Mutant("hold_of_nothing_holds", QUEUE, "        if timeout <= 0:\n            for", "        if False:\n            for",
           BESIDE),
)  # fmt: skip

COUNTS = (
    Mutant("release_counts_towards_the_dead_letters", QUEUE, "if limit_of_receives is not None and message.attempt >=",
           "if limit_of_receives is not None and message.receives - message.tried >=", BESIDE),
    Mutant("dead_without_dead_letters", QUEUE, "spec.max_receives if spec.dead_letters is not None else None",
           "spec.max_receives", BESIDE),
    Mutant("one_more_in_flight", QUEUE, "spec.max_in_flight - self.in_flight", "spec.max_in_flight - self.in_flight + 1",
           BESIDE),
    Mutant("receive_number_stays", QUEUE, "message.receives += 1", "message.receives = 1", BESIDE),
    Mutant("first_receive_is_the_last", QUEUE, "            message.first_received_at = now", "            pass", BESIDE),
    Mutant("a_byte_too_few", QUEUE, "size + message.size > max_bytes", "size + message.size >= max_bytes", BESIDE),
    Mutant("a_message_too_many", QUEUE, "if len(taken) == limit:", "if len(taken) > limit:", BESIDE),
    Mutant("retry_not_counted", QUEUE, "self.retrying += 1", "pass", BESIDE),
    Mutant("retry_counted_for_ever", QUEUE, "                self.delayed -= 1\n                self.retrying -= message.receives > 0\n",
           "                self.delayed -= 1\n", BESIDE),
    Mutant("expiry_not_counted", QUEUE, "self.expired += 1", "pass", BESIDE),
    Mutant("purge_leaves_what_is_delayed", QUEUE, "victims = list(self.all())",
           "victims = [m for m in self.all() if m.state != DELAYED]", BESIDE),
    Mutant("purge_leaves_what_is_held", QUEUE, "victims = list(self.all())",
           "victims = [m for m in self.all() if m.state != IN_FLIGHT]", BESIDE),
)  # fmt: skip

RECEIPTS = (
    Mutant("deferred_receipt_still_good", QUEUE, "        message.boot = 0\n        message.state = DELAYED",
           "        message.state = DELAYED", BESIDE),
    Mutant("released_receipt_still_good", QUEUE, "        message.boot = 0\n        self._make_ready",
           "        self._make_ready", BESIDE),
    Mutant("late_ack_of_a_group", QUEUE, "            if not held and self.spec.fifo:\n                return _EXPIRED\n            self._r",
           "            self._r", BESIDE),
    Mutant("late_ack_refused", QUEUE, "            if not held and self.spec.fifo:\n                return _EXPIRED\n            self._r",
           "            if not held:\n                return _EXPIRED\n            self._r", BESIDE),
    Mutant("late_burial_of_a_group", QUEUE, "            if not held and self.spec.fifo:\n                return _EXPIRED\n            self._note", "            self._note", BESIDE),
    Mutant("older_ack_of_a_group", QUEUE, "superseded_ok and not self.spec.fifo", "superseded_ok", BESIDE),
    Mutant("older_ack_refused", QUEUE, "if superseded_ok and", "if False and", BESIDE),
    Mutant("gone_message_is_known", QUEUE, "        self.known.pop(message.place, None)\n        self.order.released_from(message)\n        self.changes.gone",
           "        self.order.released_from(message)\n        self.changes.gone", BESIDE),
    Mutant("repeat_after_five_minutes", ATTEMPTS, "now - made[0] >= REPEATABLE", "False", REPEATED),
    Mutant("repeat_of_what_was_extended", QUEUE, "            self.attempts.changed(message.place)\n", "            pass\n",
           REPEATED),
    Mutant("repeat_hides_for_longer_than_may_be", QUEUE, "min(now + timeout, message.received_at + LONGEST_HOLD)",
           "now + timeout", REPEATED),
    Mutant("repeat_gives_no_new_time", QUEUE, "            message.until = until\n            if message.durable:",
           "            if message.durable:", REPEATED),
)  # fmt: skip

ORDER = (
    Mutant("released_to_the_back", QUEUE, "self._give_back(message, front=True)", "self._give_back(message, front=False)",
           BESIDE),
    Mutant("newest_first", LINE, "            self._line.append(message)\n\n    def ready", "            self._line.appendleft(message)\n\n    def ready",
           BESIDE),
    Mutant("expired_hold_to_the_front", LINE, "        else:\n            self._line.append(message)",
           "        else:\n            self._line.appendleft(message)", BESIDE),
    Mutant("group_does_not_come_back", GROUPS, "if head is not None and head.state == READY:", "if False:", BESIDE),
    Mutant("group_waits_for_its_acknowledged_head", GROUPS, "elif head.state == READY and head.place > message.place:",
           "elif False:", BESIDE),
    Mutant("group_keeps_the_turn_of_its_old_head", GROUPS, " and head.place == place", "", BESIDE),
    Mutant("groups_by_name", GROUPS, "heappush(self._heads, (message.place, name))", "heappush(self._heads, (0, name))",
           BESIDE),
    Mutant("one_group_at_a_time", GROUPS, "while self.available():", "if self.available():", BESIDE),
    Mutant("group_is_never_empty", GROUPS, "            del self._groups[name]", "            pass", BESIDE),
    Mutant("duplicate_a_moment_too_long", DEDUP, "now - known[0] < WINDOW", "now - known[0] <= WINDOW", BESIDE),
    Mutant("duplicate_forgotten_early", DEDUP, ">= WINDOW + BUCKET", ">= WINDOW", BESIDE),
    Mutant("duplicates_of_all_groups", DEDUP, 'dedup_id.encode() + b"\\0" + group.encode()', "dedup_id.encode()", BESIDE),
)  # fmt: skip

TOLD = (
    Mutant("new_message_not_told", QUEUE, "        self.restore(message)\n        self.changes.changed(message)",
           "        self.restore(message)", BESIDE),
    Mutant("receive_not_told", QUEUE, "heappush(self._held, (message.until, self._count, message.receives, message))\n        self.changes.changed(message)",
           "heappush(self._held, (message.until, self._count, message.receives, message))", BESIDE),
    Mutant("extension_not_told", QUEUE, "        if durable:\n", "        if False:\n", BESIDE),
    Mutant("release_not_told", QUEUE, "        self._make_ready(message, front)\n        self.changes.changed(message)",
           "        self._make_ready(message, front)", BESIDE),
    Mutant("deletion_not_told", QUEUE, "self.changes.gone(message)", "pass", BESIDE),
    Mutant("move_not_told", QUEUE, "self.changes.moved(message)", "pass", BESIDE),
    Mutant("new_delay_not_told", QUEUE, "                self.changes.changed(message)\n            oldest", "            oldest", BESIDE),
)  # fmt: skip

NOISE = (
    Mutant("noisy_from_the_next_message", FAIR, "if tenant.taken < MANY", "if tenant.taken <= MANY", TENANTS),
    Mutant("noisy_with_a_tenth", FAIR, "tenant.in_flight * SHARES > self.in_flight", "tenant.in_flight * SHARES >= self.in_flight",
           TENANTS),
    Mutant("noisy_by_slots_alone", FAIR, "return has_slots or tenant.busy * SHARES > self._busy", "return has_slots", TENANTS),
    Mutant("noisy_by_time_alone", FAIR, "return has_slots or ", "return ", TENANTS),
    Mutant("noisy_for_ever", FAIR, "if now - tenant.since >= SILENCE:", "if False:", TENANTS),
    Mutant("quiet_a_moment_late", FAIR, "if now - tenant.since >= SILENCE:", "if now - tenant.since > SILENCE:", TENANTS),
    Mutant("noisiest_first", FAIR, "return min(waiting,", "return max(waiting,", TENANTS),
    Mutant("noisy_ones_by_age_alone", FAIR, "(each.in_flight, each.line[0][0])", "each.line[0][0]", TENANTS),
    Mutant("noise_is_not_forgiven", FAIR, "        tenant.busy = 0.0\n        self.elsewhere", "        self.elsewhere", TENANTS),
    Mutant("no_tenant_is_noisy_too", FAIR, " or tenant is self._plain", "", TENANTS),
    Mutant("time_does_not_fade", FAIR, "return float(2.0**age)", "return 1.0", TENANTS),
    Mutant("given_back_behind_the_tenant", FAIR, "line.appendleft((self._first, message))", "line.append((self._first, message))",
           TENANTS),
    Mutant("landing_is_free", FAIR, "tenant.in_flight -= 1", "pass", TENANTS),
)  # fmt: skip

TAKING, ENDING = "pipeflow/embedded/taking.py", "pipeflow/embedded/ending.py"
RANKED = ("tests/conformance/test_priorities.py", "tests/unit/embedded/test_priorities_on_disk.py")
LIVED = ("tests/conformance/test_time_to_live.py", "tests/unit/embedded/test_expiry.py")

WISHES = (
    Mutant("low_one_before_what_is_on_disk", TAKING, " or lane.tail.delayed_due(now)", "", RANKED),
    Mutant("receipt_of_another_priority", "pipeflow/embedded/settling.py", "lane = head.lane_with(settlement.receipt.place)",
           "lane = head", RANKED),
    Mutant("places_start_anew_behind_a_priority", "pipeflow/embedded/nouns.py",
           "head.counters.last_place = max(head.counters.last_place, counters.last_place)", "pass", RANKED),
    Mutant("dead_letter_loses_its_priority", "pipeflow/embedded/intake.py", "self._nouns.lane(dead, head.priority)", "dead",
           RANKED),
    Mutant("priorities_have_as_much_memory_each", "pipeflow/embedded/nouns.py", "self._hot_messages // LANES",
           "self._hot_messages", RANKED),
    Mutant("time_to_live_never_ends", QUEUE, "            if message.state != GONE:\n                self._expire(message)",
           "            pass", LIVED),
    Mutant("time_to_live_forgotten_on_disk", "pipeflow/embedded/intake.py", "head.counters.expiring = True", "pass", LIVED),
    Mutant("time_to_live_forgotten_at_restart", ENDING, "now_or_never if head.counters.expiring else inf", "inf", LIVED),
    Mutant("dead_letter_keeps_its_time_to_live", "pipeflow/embedded/intake.py",
           "        message.expires_at = inf\n        self._move_in", "        self._move_in", LIVED),
)  # fmt: skip

KEPT = ("tests/unit/embedded/test_retention_on_disk.py",)

COLD = (
    Mutant("retention_on_disk_never_ends", ENDING, "            placed.at = ends\n", "            pass\n", KEPT),
    Mutant("retention_out_of_line_never_ends", ENDING, "            marked.at = ends\n", "            pass\n", KEPT),
    Mutant("retention_on_disk_forgotten_at_restart", ENDING, '_Course("place", now_or_never)', '_Course("place", inf)', KEPT),
    Mutant("retention_on_disk_ends_late", ENDING, "if ends > now:", "if ends >= now:", KEPT),
    Mutant("new_retention_is_not_for_what_is_on_disk", ENDING,
           "            self._marked.at = self._placed.at = 0.0\n", "            pass\n", KEPT),
    Mutant("first_look_is_the_last", ENDING, "                course.at = now\n", "                pass\n", KEPT),
    Mutant("look_goes_on_where_the_last_one_ended", ENDING, "            course.after = BEGIN\n", "            pass\n", KEPT),
    Mutant("look_does_not_begin_again", ENDING, "            course.at = min(course.at, now + PAUSE)\n", "            pass\n", KEPT),
    Mutant("what_comes_during_a_look_is_forgotten", ENDING, "course.due, course.at = True, inf", "course.due = True",
           ("tests/unit/embedded/test_retention_on_disk.py", "tests/unit/embedded/test_expiry.py")),
    Mutant("look_brings_all_into_memory", "pipeflow/embedded/tending.py", " and (fed or head.tail.hungry)", "", KEPT),
    Mutant("row_out_of_line_not_marked", "pipeflow/embedded/group.py", "line <= kept <= now", "kept <= now", KEPT),
    Mutant("row_of_a_long_delay_not_marked", "pipeflow/embedded/group.py", "line <= kept <= now", "line <= kept", KEPT),
    Mutant("moved_row_not_marked", "pipeflow/embedded/group.py", "moved = key != message.row or (", "moved = (", KEPT),
    Mutant("marked_row_met_in_line_too", "pipeflow/embedded/sqlite/recovery.py", "if by_place and kept is not None:", "if False:", KEPT),
    Mutant("older_rows_not_marked", "pipeflow/embedded/sqlite/recovery.py", "marks.append((kept, after))", "pass", KEPT),
    Mutant("age_of_what_has_ended", "pipeflow/embedded/inspection.py", "ended < message.kept_from", "message.kept_from", KEPT),
)  # fmt: skip

DELAYS = "pipeflow/embedded/delays.py"
WAITING = ("tests/unit/embedded/test_delays_on_disk.py",)
TOLD_APART = ("tests/unit/embedded/test_tail.py",)

DELAYED = (
    Mutant("delayed_on_disk_counted_as_ready", DELAYS, "        self.count += 1\n", "", WAITING),
    Mutant("delayed_on_disk_for_ever", DELAYS, "        if message.until < self.at:\n            self.at = message.until\n", "", WAITING),
    Mutant("delayed_on_disk_forgotten_at_restart", DELAYS, "        self.count = count\n", "", WAITING),
    Mutant("retries_on_disk_not_examined", DELAYS, "self._examined = self._passed if count else ALL", "pass", WAITING),
    Mutant("retries_examined_on_one_page", DELAYS, "found.last if found.rows == PAGE else ALL", "ALL", WAITING),
    Mutant("retries_that_came_due_are_still_counted", DELAYS, "            self._retries -= 1\n", "            pass\n", WAITING),
    Mutant("retries_of_a_restart_forgotten", "pipeflow/embedded/tail.py", "self.retrying = waiting.retries", "pass", TOLD_APART),
    Mutant("retry_not_marked_in_place", "pipeflow/embedded/group.py", " or (delayed and fifo is not (message.receives > 0))", " or (delayed and fifo and not message.receives)", TOLD_APART),
    Mutant("delays_pass_a_moment_late", DELAYS, "if message.until > begun:", "if message.until >= begun:", WAITING),
    Mutant("one_look_at_delays_is_enough", DELAYS, "            self.at = begun\n", "", WAITING),
    Mutant("next_delay_not_looked_at", DELAYS, "self.at = min(self.at, max(message.until, begun + PAUSE))", "pass", WAITING),
    Mutant("passed_delay_counted_again", DELAYS, "            self._passed = (message.until, message.row)\n", "", WAITING),
    Mutant("what_left_comes_due", DELAYS, "return tail.has(message) and not tail.has_left(message.place)", "return True", WAITING),
    Mutant("damaged_row_waits_for_ever", DELAYS, "        if due is not None and (due, row) > self._passed:", "        if False:", WAITING),
    Mutant("damaged_row_in_the_way_of_delays", DELAYS, "        if found.damaged:", "        if False:", WAITING),
    Mutant("new_delay_is_not_for_what_is_on_disk", DELAYS, "            if self.redelay(message):", "            if False:", WAITING),
    Mutant("new_delay_is_for_what_came_due", DELAYS, "if not counters.redelayed_at < message.until or", "if", WAITING),
    Mutant("new_delay_is_for_what_comes_later", DELAYS, "message.place > counters.redelayed_upto", "False", WAITING),
    Mutant("new_delay_is_for_retries", DELAYS, "if message.state != DELAYED or message.receives:", "if message.state != DELAYED:", WAITING),
    Mutant("new_delay_is_not_written", DELAYS, "                head.changed(message)\n", "", WAITING),
    Mutant("new_delay_forgotten_at_a_kill", DELAYS, "        if count or self._head.counters.redelayed_at:", "        if count:", WAITING),
    Mutant("new_delay_of_one_page", DELAYS, "        if found.rows == PAGE:\n            self._after", "        if False:\n            self._after", WAITING),
    Mutant("second_delay_at_once", "pipeflow/embedded/nouns.py", "and not head.tail.settled", "and False", WAITING),
    Mutant("read_as_it_was_before_the_new_delay", DELAYS, "            message.until, message.kept_from = written\n", "            pass\n", WAITING),
    Mutant("delay_on_disk_is_as_it_was", ENDING, "tail.kept_from(message) + head", "message.kept_from + head", WAITING),
    Mutant("loaded_as_it_was_before_the_new_delay", "pipeflow/embedded/tail.py", "and self.delays.redelay(message):", "and False:", WAITING),
    Mutant("loaded_ones_are_still_counted_as_delayed", "pipeflow/embedded/tail.py", "            if self.delays is not None:\n                self.delays.leaves(message)\n            self._settle_in", "            self._settle_in", WAITING),
    Mutant("taken_ones_are_still_counted_as_delayed", "pipeflow/embedded/tail.py", "        if self.delays is not None:\n            self.delays.leaves(message)\n        if message.body", "        if message.body", WAITING),
    Mutant("purged_ones_are_still_counted_as_delayed", "pipeflow/embedded/tail.py", "            self.delays.clear()\n", "            pass\n", WAITING),
)  # fmt: skip

MUTANTS = (*COLD, *DELAYED, *DEADLINES, *COUNTS, *RECEIPTS, *ORDER, *TOLD, *NOISE, *WISHES)
