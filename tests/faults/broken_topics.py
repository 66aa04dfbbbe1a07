"""Lines of topics, archives, moves and the memory of queues, each broken in one way."""

# ruff: noqa: E501  # what is broken is quoted as it stands

from __future__ import annotations

from mutant import Mutant

TOPIC, INTAKE, FAN_OUT = "pipeflow/state/topic.py", "pipeflow/embedded/intake.py", "pipeflow/embedded/fanout.py"
ARCHIVE, TAIL = "pipeflow/embedded/archive.py", "pipeflow/embedded/tail.py"
MOVING, CHOOSING = "pipeflow/embedded/moving.py", "pipeflow/embedded/choosing.py"
NEEDS, SIEVE, WAYS = "pipeflow/filters/needs.py", "pipeflow/state/sieve.py", "pipeflow/embedded/subscriptions.py"
MATCHING = "pipeflow/filters/matching.py"
CONFIRMING, PACE = "pipeflow/embedded/confirmations.py", "pipeflow/state/pace.py"
HEAD, HANDOUT, BROKER = "pipeflow/embedded/head.py", "pipeflow/embedded/handout.py", "pipeflow/embedded/broker.py"

WALKED = ("tests/properties/test_topics_against_a_naive_model.py", "tests/conformance/test_topics.py")
ARCHIVED = ("tests/properties/test_topics_against_a_naive_model.py", "tests/unit/archives")
MOVED = (
    "tests/conformance/test_redrive_moves.py",
    "tests/conformance/test_dead_letters.py",
    "tests/unit/embedded/test_dead_letter_moves.py",
    "tests/properties/test_queues_against_a_naive_model.py",
)
TAILS = (
    "tests/unit/embedded/test_tail.py",
    "tests/unit/embedded/test_races.py",
    "tests/properties/test_queues_against_a_naive_model.py",
    "tests/properties/test_crash_walks.py",
)
FILTERED = ("tests/properties/test_sieves_against_asking_every_policy.py", "tests/unit/state/test_sieve.py")
LAID = ("tests/unit/embedded/test_many_tenants.py", "tests/conformance/test_topic_patterns.py")
NAMED = ("tests/conformance/test_topic_patterns.py", "tests/unit/test_topics_named.py")
LEAVING = ("tests/unit/webhooks",)
RATED = (
    "tests/unit/state/test_pace.py",
    "tests/conformance/test_rates.py",
    "tests/unit/embedded/test_rates_of_processes.py",
)
WAITING = ("tests/properties/test_receivers_that_wait.py", "tests/unit/embedded/test_races.py")

PUBLISHES = (
    Mutant("publish_never_a_duplicate", FAN_OUT, "original = topic.dedup.find(key, now)", "original = None", WALKED),
    Mutant("publish_renews_the_window", FAN_OUT, "            original = topic.dedup.find(key, now)\n            if original is not None:",
           "            original = topic.dedup.find(key, now)\n            if original is not None:\n                self._remember(topic, key, now, *original)", WALKED),
    Mutant("duplicates_of_all_groups_of_a_topic", FAN_OUT, 'outgoing.group if spec.dedup_scope == "group" else None', "None", WALKED),
    Mutant("copy_in_spite_of_the_queue_window", FAN_OUT, "if key is not None and head.dedup.find(key, now) is not None:\n            return", "if False:\n            return", WALKED),
    Mutant("copy_unknown_to_the_queue_window", FAN_OUT, "mine.claim)\n        if key is not None:", "mine.claim)\n        if False:", WALKED),
    Mutant("others_get_what_one_cannot_take", FAN_OUT, "            if refused is not None:\n                return refused\n        counters", "            if refused is not None:\n                continue\n        counters", WALKED),
    Mutant("group_of_a_fifo_topic_to_everybody", TOPIC, "            group, dedup_id = None, None\n", "            dedup_id = None\n", WALKED),
    Mutant("dedup_id_for_standard_queues", TOPIC, "            group, dedup_id = None, None\n", "            group = None\n", WALKED),
    Mutant("hash_is_not_passed_on", FAN_OUT, "mine = state.addressed(outgoing, target, dedup_id)", "mine = state.addressed(outgoing, target, outgoing.dedup_id)", WALKED),
    Mutant("envelope_of_the_next_publish", FAN_OUT, "SEQUENCE: str(topic.counters.last_sequence)}", "SEQUENCE: str(topic.counters.last_sequence + 1)}", WALKED),
    Mutant("publish_waits_where_its_queue_does_not", FAN_OUT, "None if head.spec.fifo else mine.delay", "None", WALKED),
    Mutant("filters_let_everything_through", TOPIC, "            passing = self._sieve.passing(Subject(message.body, message.attributes))", "            return everybody", WALKED),
)  # fmt: skip

FILTERS = (
    Mutant("filed_by_what_may_be_absent", NEEDS, "for path, leaf in alternative if not leaf.missing]", "for path, leaf in alternative]", FILTERED),
    Mutant("cell_smaller_than_its_range", NEEDS, "        level += 1\n", "        break\n", ("tests/unit/filters/test_filter_needs.py",)),
    Mutant("bound_looked_up_too_low", SIEVE, "bisect_right(above, value)", "max(0, bisect_left(above, value) - 1)", FILTERED),
    Mutant("key_with_dots_not_looked_up", SIEVE, 'if place is None and "." in name:', "if False:", FILTERED),
    Mutant("path_spelled_with_dots_taken_for_absent", MATCHING, "(subject.dotted(shape) or _is_there(tree, path))", "_is_there(tree, path)", FILTERED),
    Mutant("address_looked_up_in_another_network", NEEDS, "int(address) >> address.max_prefixlen - length)", "int(address) >> address.max_prefixlen - length + 1)", (*FILTERED, "tests/unit/filters/test_filter_needs.py")),
    Mutant("policy_that_nobody_has_is_asked", SIEVE, "self._always.pop(entry, None)", "pass", FILTERED),
    Mutant("unfiltered_queues_forgotten_beside_filters", TOPIC, "            passing += self._open\n", "            pass\n", ("tests/unit/state/test_topic_state.py",)),
    Mutant("way_not_laid_anew", WAYS, "0, None)\n        self._connect(subscription)\n", "0, None)\n", LAID),
)  # fmt: skip

ARCHIVES = (
    Mutant("replay_is_not_marked", FAN_OUT, 'REPLAYED: "1"}', "}", ARCHIVED),
    Mutant("replay_of_what_came_meanwhile", ARCHIVE, "if each.place <= position.upto and ", "if ", ARCHIVED),
    Mutant("replay_forgets_where_it_was", ARCHIVE, "broker.inlet.note_position(", "(", ARCHIVED),
    Mutant("replay_to_the_last_moment_too", ARCHIVE, "message.sent_at < until", "message.sent_at <= until", ARCHIVED),
    Mutant("replay_from_the_next_moment", ARCHIVE, "found[0].sent_at < since", "found[0].sent_at <= since", ARCHIVED),
    Mutant("replay_through_no_filter", ARCHIVE, "(policy, target.filter if target is not None else None)", "(policy,)", ARCHIVED),
    Mutant("replay_by_a_policy_alone", ARCHIVE, "(policy, target.filter if target is not None else None)", "((policy or target.filter) if target else policy,)", ARCHIVED),
    Mutant("replay_reads_the_body_of_others", ARCHIVE, "if own is not None:\n                return own", "if False:\n                return own", ARCHIVED),
    Mutant("replay_goes_on_with_other_times", ARCHIVE, "sent, done, position.since, position.until)", "sent, done, request.since, request.until)", ARCHIVED),
    Mutant("replay_says_now", FAN_OUT, "weigh(mine), archived.sent_at, now", "weigh(mine), now, now", ARCHIVED),
    Mutant("archive_waits_with_the_publish", FAN_OUT, "0.0 if head.spec.archives else", "", ARCHIVED),
    Mutant("replay_stops_halfway", ARCHIVE, "            made.append((message, mine))\n", "            made.append((message, mine))\n            broker.fan_out.redeliver(topic, target, message, mine, now)\n            made.clear()\n", ARCHIVED),
)  # fmt: skip

NAMES = (
    Mutant("name_before_the_topic_itself", WAYS, "        if named is not None:\n", "        if named is not None and not self.patterns():\n", NAMED),
    Mutant("standard_topic_into_a_fifo_queue", WAYS, 'if kind == "queue" and self._heads[target].spec.fifo and not topic.spec.fifo:', "if False:", NAMED),
    Mutant("name_of_topics_not_told", FAN_OUT, "if target.endpoint or target.named:", "if target.endpoint:", NAMED),
    Mutant("names_meet_by_their_ends_only", "pipeflow/names.py", "steps = [(i + 1, j)] * bool(a) + [(i, j + 1)] * bool(b)", "steps = [(i + 1, j)] * bool(a)", NAMED),
)  # fmt: skip

FAREWELLS = (
    Mutant("unsubscribed_and_asked_again", CONFIRMING, "elif known.left_at is None and idle", "elif idle", LEAVING),
    Mutant("old_token_after_the_farewell", CONFIRMING, "new_secret(32).hex(), now, now + TOKEN_LIFE, None, now)", "known.token if known else '', now, now + TOKEN_LIFE, None, now)", LEAVING),
    Mutant("farewell_to_who_never_came", CONFIRMING, "        told = not self.pending(subscription)\n", "        told = True\n", LEAVING),
    Mutant("topic_named_itself_listed_twice", WAYS, " and (name, each.kind, each.target) not in self._known:", ":", LEAVING),
    Mutant("fifo_topic_posted", WAYS, "                if pattern.endpoint and topic.spec.fifo:\n", "                if False:\n", LEAVING),
    Mutant("name_of_many_asked_as_a_topic", WAYS, "            if not is_pattern(each.topic):\n                yield each\n", "            if True:\n                yield each\n", LEAVING),
    Mutant("unsubscribed_and_served", CONFIRMING, "return known is not None and known.left_at is not None", "return False", LEAVING),
)  # fmt: skip

RATES = (
    Mutant("rate_over_what_is_asked", HANDOUT, "min(want.limit, pace.room)", "want.limit", RATED),
    Mutant("rate_forgets_at_once", PACE, "given[0][0] + self.seconds <= now", "given[0][0] < now", RATED),
    Mutant("nobody_is_woken_when_there_is_room", HEAD, "due = min(due, self.pace.again)", "pass", RATED),
    Mutant("rate_of_one_life", BROKER, "head.pace.took(head.pace.count, self.clock.now())", "pass", RATED),
)  # fmt: skip

MOVES = (
    Mutant("letter_moved_out_of_hands", CHOOSING, "if message.state == IN_FLIGHT or not (", "if not (", MOVED),
    Mutant("letter_that_came_meanwhile_moves_too", CHOOSING, "if message.place > choice.upto or ", "if ", MOVED),
    Mutant("redriven_under_its_old_id", INTAKE, "message.id = self._ids.new(now)\n        message.sent_at", "message.sent_at", MOVED),
    Mutant("redriven_with_its_attempts", INTAKE, "        message.receives = message.releases = message.tried = 0\n", "", MOVED),
    Mutant("redriven_with_its_age", INTAKE, "message.sent_at = message.kept_from = now", "message.sent_at = now", MOVED),
    Mutant("redriven_not_counted", INTAKE, "dead.counters.redriven += 1", "pass", MOVED),
    Mutant("letter_with_the_age_of_its_message", INTAKE, "            message.kept_from = now\n        message.source", "            pass\n        message.source", MOVED),
    Mutant("letter_forgets_where_it_is_from", INTAKE, "message.source = head.spec.name", "pass", MOVED),
    Mutant("letter_is_a_duplicate_of_another", INTAKE, "            message.dedup_id = message.id", "            pass", MOVED),
    Mutant("burial_not_counted", INTAKE, "head.counters.buried += 1", "pass", MOVED),
    Mutant("cancelled_move_goes_on", MOVING,
           '                if self._moves[id].state == "cancelling":\n                    break\n                left = letters\n'
           '                while left and self._moves[id].state == "running":\n',
           "                left = letters\n                while left:\n", MOVED),
    Mutant("two_moves_at_once", MOVING, "if other is not None:", "if False:", MOVED),
    Mutant("move_beyond_its_limit", CHOOSING, "                    if tally.matched == choice.limit or missing == set():\n                        return", "                    pass", MOVED),
)  # fmt: skip

KEPT = ("tests/unit/embedded/test_retention_on_disk.py",)
ROLL, GROUPED = "pipeflow/embedded/roll.py", ("tests/unit/embedded/test_groups_on_disk.py",)

MEMORY = (
    Mutant("cold_message_hides_behind_new_ones", HEAD, "elif tail.ready or", "elif", TAILS),
    Mutant("expired_on_disk_not_counted", TAIL, "            self._counters.expired += 1\n            self._head.gone", "            self._head.gone", KEPT),
    Mutant("hold_of_an_outside_consumer_ends_at_a_load", TAIL, "message.state == IN_FLIGHT and message.durable and", "False and", TAILS),
    Mutant("read_twice", TAIL, "return message.place in self._state.known or self.has_left(message.place)", "return False", TAILS),
    Mutant("late_delayed_message_not_seen", TAIL, "        if self.late is not None:\n            self.late.append(message)", "        pass", TAILS),
    Mutant("horizon_too_far", TAIL, "(loaded.due, loaded.last + 1) if full", "(loaded.due + 1, loaded.last + 1) if full", TAILS),
    Mutant("due_message_before_the_cold_ones", HEAD, "if self.tail.ready and not self.spec.fifo:", "if False:", TAILS),
    Mutant("purge_leaves_the_counts", TAIL, "        self.ready = self.delayed = self.retrying = 0\n", "        pass\n", TAILS),
    Mutant("group_loaded_behind_a_hole", ROLL, "self._groups.last_place(name) or place - 1", "self._groups.last_place(name) + 1 or place - 1", TAILS),
    Mutant("youngest_group_first", ROLL, "wanted.sort()", "wanted.sort(reverse=True)", GROUPED),
    Mutant("rows_passed_again_and_again", ROLL, "self.upto = max(behind, met.last)", "self.upto = behind", GROUPED),
    Mutant("group_hidden_by_very_much_of_another", ROLL, "return await self._find_by_name(groups, limit, take_in)", "return found", GROUPED),
    Mutant("group_that_has_more_forgotten", ROLL, "self._more[name] = loaded.last + 1", "self._more.pop(name, None)", GROUPED),
    Mutant("passed_group_forgotten", ROLL, "self._more.setdefault(name, place)", "self._groups.length(name) or self._more.setdefault(name, place)", GROUPED),
    Mutant("younger_part_of_a_group_first", ROLL, "if place > self.upto:", "if False:", GROUPED),
)  # fmt: skip

WAKING = (
    Mutant("cancelled_receiver_keeps_its_wake_up", "pipeflow/embedded/waiting.py", "            if head.looks(signal):\n                head.wake()\n", "            head.looks(signal)\n", WAITING),
    Mutant("cancelled_receiver_stays_in_the_queue", "pipeflow/embedded/waiting.py", "            if head.looks(signal):\n                head.wake()\n            raise", "            raise", WAITING),
    Mutant("cancelled_hand_out_keeps_its_messages", HANDOUT, "head.state.settle(Release(receipt), broker.clock.now(), broker.boot)", "pass", WAITING),
    Mutant("cancelled_hand_out_wakes_nobody", HANDOUT, "    head.wake()\n    broker.written_behind()", "    broker.written_behind()", ("tests/unit/embedded/test_races.py",)),
    Mutant("woken_receivers_count_for_ever", HEAD, "        self._woken -= 1\n", "        pass\n", WAITING),
    Mutant("settling_wakes_nobody", "pipeflow/embedded/settling.py", "        broker.after_intake(dict.fromkeys(touched))\n    else:\n        for lane in head.lanes:\n            broker.wake(lane)", "        pass", WAITING),
)  # fmt: skip

MUTANTS = (*PUBLISHES, *FILTERS, *ARCHIVES, *NAMES, *FAREWELLS, *RATES, *MOVES, *MEMORY, *WAKING)
