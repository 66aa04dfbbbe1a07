"""The commands that look at a store and move messages, on a store that nobody owns."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any, cast

import anyio
import pytest
from click.testing import Result

from pipeflow.cli import output
from pipeflow.cli.bodies import Body
from pipeflow.cli.dlq import GROUPED
from pipeflow.cli.nouns import QUEUES
from pipeflow.cli.opening import database_of
from pipeflow.cli.sending import Delivering
from pipeflow.errors import Unavailable
from pipeflow.messages import Outgoing, Sent
from pipeflow.protocols import Features, Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, StreamSpec, Subscription, TopicSpec, Topology

Call = Callable[..., Result]
Python = Callable[..., Popen[str]]


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    decoded: list[dict[str, Any]] = json.loads(result.stdout)
    return decoded


def ready(call: Call, queue: str) -> int:
    number: int = next(row["ready"] for row in rows(call("queues", "--all", "--json")) if row["name"] == queue)
    return number


def test_queues_are_listed_with_their_counts(call: Call, store: str) -> None:
    billing, lenient = rows(call("queues", "--json"))
    assert (billing["name"], billing["ready"], billing["dead"], billing["buried"], billing["sent"]) == (
        "billing", 2, 3, 3, 5,
    )  # fmt: skip
    assert lenient["name"] == "lenient"


def test_in_a_pipe_columns_are_aligned_text(call: Call, store: str) -> None:
    head, first, *_ = call("queues").stdout.splitlines()
    assert head.split()[:3] == ["queue", "order", "ready"]
    assert first.split()[:3] == ["billing", "-", "2"]
    assert head.index("ready") + len("ready") == first.index("2") + 1


def test_on_a_terminal_rows_are_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    row = dict.fromkeys([column.key for column in QUEUES], 0) | {"name": "billing[red]", "ready": 27_004}
    output.show([row], QUEUES, as_json=False)
    shown = capsys.readouterr().out
    assert "billing[red]" in shown
    assert "27,004" in shown
    assert "─" in shown
    assert "\x1b" not in shown


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`terminal(80, rows, columns)` is what a terminal of that width shows."""

    def shown(width: int, rows: list[dict[str, object]], columns: tuple[output.Column, ...]) -> str:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(width))
        output.show(rows, columns, as_json=False)
        return capsys.readouterr().out

    return shown


ROW: dict[str, object] = dict.fromkeys([column.key for column in QUEUES], 0) | {"name": "billing", "ready": 27_004}


def test_columns_that_say_nothing_are_left_out_on_a_terminal(terminal: Callable[..., str]) -> None:
    assert "damaged" not in terminal(160, [ROW], QUEUES)
    assert "damaged" in terminal(160, [ROW | {"quarantined": 1}], QUEUES)


def test_on_a_narrow_terminal_columns_that_can_be_spared_go_first(terminal: Callable[..., str]) -> None:
    shown = terminal(72, [ROW | {"sent": 1_000_000}], QUEUES)
    assert "27,004" in shown
    assert "1,000,000" in shown
    assert "buried" not in shown
    assert max(map(len, shown.splitlines())) <= 72


def test_long_texts_are_cut_to_the_room_there_is(terminal: Callable[..., str]) -> None:
    row = {"error": "KeyError", "reason": "x" * 500, "count": 12_345, "oldest": 5, "newest": 5, "example": "id"}
    shown = terminal(80, [row], GROUPED)
    assert "12,345" in shown
    assert "xxx…" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_where_no_table_fits_nothing_is_cut(terminal: Callable[..., str]) -> None:
    shown = terminal(30, [ROW], QUEUES)
    assert "27004" in shown
    assert "…" not in shown


def test_queues_of_dead_letters_are_shown_when_asked_for(call: Call, store: str) -> None:
    assert [row["name"] for row in rows(call("queues", "--all", "--json"))] == ["billing", "billing-dlq", "lenient"]


def test_who_takes_all_topics_of_a_name_is_listed_below_them(call: Call, here: Path) -> None:
    async def make() -> None:
        store = await open_store("sqlite:///shop.db")
        await store.declare(
            Topology(
                (TopicSpec("orders-eu"), TopicSpec("returns")),
                (QueueSpec("audit"),),
                subscriptions=(Subscription("orders-*", "queue", "audit"),),
            )
        )
        await store.publish("orders-eu", [Outgoing(b"x")])
        await store.close()

    anyio.run(make)
    broker = ("--broker", "sqlite:///shop.db")
    assert rows(call("topics", "--json", *broker))[2] == {
        "name": "orders-*",
        "subscriptions": ["queue:audit"],
        "topics": ["orders-eu"],
    }
    lines = call("topics", *broker).stdout.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["orders-eu", "-", "1", "1", "queue:audit", "-", "0", "-"],
        ["returns", "-", "0", "0", "-", "0", "-"],
        ["orders-*", "queue:audit"],
    ]


def test_topics_and_streams_are_listed(call: Call, store: str) -> None:
    assert [row["name"] for row in rows(call("topics", "--json"))] == ["alerts", "orders"]
    assert [row["name"] for row in rows(call("streams", "--json"))] == ["lake"]


def test_sending_prints_the_id_and_the_message_is_there(call: Call, store: str) -> None:
    sent = call("send", "lenient", '{"n":1}', "--attr", "kind=x", "--attr", "n:=2", "--delay", "5m")
    assert sent.exit_code == 0, sent.stderr
    (message,) = rows(call("peek", "lenient", "--json"))
    assert message["id"] == sent.stdout.strip()
    assert message["body"] == {"n": 1}
    assert message["attributes"] == {"kind": "x", "n": 2}
    assert message["state"] == "delayed"


def test_a_time_to_live_and_a_priority_are_given_and_shown(call: Call, store: str) -> None:
    assert call("send", "lenient", "1", "--ttl", "1h").exit_code == 0
    assert call("publish", "orders", "2", "--ttl", "500d").exit_code == 1
    assert call("send", "lenient", "2", "--priority", "9").exit_code == 0
    assert [(row["body"], row["priority"]) for row in rows(call("peek", "lenient", "--json"))] == [(2, 9), (1, 0)]
    assert call("purge", "lenient", "--yes").exit_code == 0
    assert call("send", "lenient", "1", "--ttl", "1h").exit_code == 0
    (message,) = rows(call("peek", "lenient", "--json"))
    assert 3500 < message["ttl"] <= 3600
    assert call("peek", "lenient").stdout.split()[:7] == ["id", "state", "attempt", "age", "ttl", "priority", "group"]


def test_many_lines_from_stdin_are_sent_in_order(call: Call, store: str) -> None:
    sent = call("send", "lenient", "--json", input="".join(f"{n}\n" for n in range(1201)))
    assert json.loads(sent.stdout)["accepted"] == 1201
    assert ready(call, "lenient") == 1201
    assert [row["body"] for row in rows(call("peek", "lenient", "--limit", "3", "--json"))] == [0, 1, 2]


def test_commands_at_once_take_turns_and_nothing_is_lost(call: Call, store: str, python: Python) -> None:
    senders = [python("-m", "pipeflow", "send", "lenient", str(n)) for n in range(6)]
    ids = {sender.communicate(timeout=60)[0].strip() for sender in senders}
    assert [sender.returncode for sender in senders] == [0] * 6
    assert {row["id"] for row in rows(call("peek", "lenient", "--json"))} == ids
    assert len(ids) == 6


async def test_sending_goes_on_with_the_next_owner_where_the_last_one_left_it() -> None:
    class Leaving:
        features = Features(durable=True)
        url = "sqlite:///shop.db"

        def __init__(self, batches: int) -> None:
            self.batches = batches
            self.sent: list[bytes] = []

        async def describe(self) -> Topology:
            return Topology(queues=(QueueSpec("q"),))

        async def send(self, queue: str, batch: list[Outgoing]) -> list[Sent]:
            if not self.batches:
                raise Unavailable("the owner left")
            self.batches -= 1
            self.sent += [message.body for message in batch]
            return [Sent("id")] * len(batch)

    source = (Body(b"%d" % n, "stdin") for n in range(1200))
    delivering = Delivering("queue", "q", Outgoing(b""), source, lambda number: None)
    first, second = Leaving(1), Leaving(9)
    with pytest.raises(Unavailable):
        await delivering.into(cast(Store, first))
    assert (await delivering.into(cast(Store, second))).accepted == 1200
    assert first.sent + second.sent == [b"%d" % n for n in range(1200)]


def test_publishing_reaches_every_subscriber(call: Call, store: str) -> None:
    assert call("publish", "orders", '{"id":"x","total":1}').exit_code == 0
    assert ready(call, "billing") == 3
    assert rows(call("streams", "--json"))[0]["accepted"] == 1


def test_records_are_put_with_their_positions(call: Call, store: str) -> None:
    shown = call("put", "lake", "1", "2", "--json")
    assert json.loads(shown.stdout) | {"target": "lake"} == {
        "target": "lake", "accepted": 2, "duplicates": 0, "refused": 0, "replaced": 0, "id": None,
        "first": 1, "last": 2,
    }  # fmt: skip


def test_a_dedup_id_belongs_to_one_message(call: Call, store: str) -> None:
    shown = call("send", "lenient", "1", "2", "--dedup-id", "d")
    assert shown.exit_code == 2
    assert "give exactly one body" in shown.stderr


def test_peeking_filters_and_touches_nothing(call: Call, store: str) -> None:
    assert [row["body"] for row in rows(call("peek", "billing", "--where", "body.total>=5", "--json"))] == [
        {"id": "a", "total": 5}
    ]
    assert ready(call, "billing") == 2
    assert [row["attempt"] for row in rows(call("peek", "billing", "--json"))] == [0, 0]


def test_a_body_that_is_no_text_does_not_break_the_listing(call: Call, store: str) -> None:
    shown = call("peek", "billing")
    assert shown.exit_code == 0
    assert "no text" in shown.stdout
    assert "\x00" not in shown.stdout


def test_peek_looks_for_text_and_states_and_says_how_far(call: Call, store: str) -> None:
    call("send", "billing", '{"customer": "ada", "n": 1}', '{"customer": "bo", "n": 2}', "--delay", "1h")
    shown = call("peek", "billing", "--contains", "ada", "--state", "delayed", "--json")
    assert [row["body"] for row in rows(shown)] == [{"customer": "ada", "n": 1}]
    assert "1 found, 4 looked at" in shown.stderr
    both = call("peek", "billing", "--where", "body.n>1", "--where", "state=delayed", "--json")
    assert [row["body"]["n"] for row in rows(both)] == [2]
    assert "--limit shows more" in call("peek", "billing", "--state", "delayed", "--limit", "1").stderr
    assert call("peek", "billing", "--contains", "nobody", "--fail-empty").exit_code == 3


def test_a_delayed_message_is_replaced_and_cancelled_by_its_key(call: Call, store: str) -> None:
    first = call("send", "billing", '{"n": 1}', "--delay", "1h", "--key", "k")
    second = call("send", "billing", '{"n": 2}', "--delay", "366d", "--key", "k")
    assert first.stdout != second.stdout
    assert "1 took the place of a delayed one" in second.stderr
    (row,) = rows(call("peek", "billing", "--where", "state=delayed", "--json"))
    assert (row["body"], row["key"]) == ({"n": 2}, "k")
    assert json.loads(call("cancel", "billing", "k", "--json").stdout)["cancelled"] is True
    again = call("cancel", "billing", "k", "--fail-empty")
    assert (again.exit_code, "no message of key k is delayed" in again.stdout) == (3, True)
    assert call("send", "billing", "1", "2", "--key", "k").exit_code == 2
    late = call("send", "billing", "1", "--delay", "367d")
    assert (late.exit_code, "366 days" in late.stderr) == (1, True)


def test_purging_asks_unless_yes(call: Call, store: str) -> None:
    asked = call("purge", "billing")
    assert asked.exit_code == 2
    assert "--yes" in asked.stderr
    assert ready(call, "billing") == 2
    assert json.loads(call("purge", "billing", "--yes", "--json").stdout) == {"queue": "billing", "purged": 2}
    assert ready(call, "billing") == 0


def test_Q105_deleting_a_queue_asks_unless_yes(call: Call, store: str) -> None:
    asked = call("queues", "delete", "billing")
    assert asked.exit_code == 2
    assert "the 2 messages in it; say so with --yes" in asked.stderr
    deleted = json.loads(call("queues", "delete", "billing", "--yes", "--json").stdout)
    assert deleted == {"queue": "billing", "dropped": 2}
    assert "billing" not in [row["name"] for row in rows(call("queues", "--json"))]


def test_nothing_found_ends_with_three_where_that_was_asked_for(call: Call, store: str) -> None:
    assert call("peek", "lenient").exit_code == 0
    assert call("peek", "lenient", "--fail-empty").exit_code == 3
    assert call("dlq", "ls", "billing", "--where", "attempt>7", "--fail-empty").exit_code == 3
    assert call("dlq", "redrive", "billing", "--where", "attempt>7", "--fail-empty").exit_code == 3


def test_dead_letters_are_listed_with_their_errors(call: Call, store: str) -> None:
    assert sorted(row["error"] for row in rows(call("dlq", "ls", "billing", "--json"))) == [
        "KeyError", "ValueError", "ValueError",
    ]  # fmt: skip


def test_dead_letters_are_counted_by_error(call: Call, store: str) -> None:
    groups = rows(call("dlq", "ls", "billing", "--group-by", "error", "--json"))
    assert [(group["error"], group["reason"], group["count"]) for group in groups] == [
        ("ValueError", "bad ValueError", 2),
        ("KeyError", "bad KeyError", 1),
    ]
    (place,) = rows(call("dlq", "ls", "billing", "--group-by", "place", "--json"))
    assert (place["count"], place["reason"]) == (3, "(several)")


def test_one_dead_letter_is_shown_whole_by_the_beginning_of_its_id(call: Call, store: str) -> None:
    letter = rows(call("dlq", "ls", "billing", "--where", "error=KeyError", "--json"))[0]
    shown = call("dlq", "show", "billing", letter["id"])
    assert "attempt 1  KeyError: bad KeyError  [0badc0de]" in shown.stdout
    assert '"total": 2' in shown.stdout
    assert 'attribute:          kind = "placed"' in shown.stdout
    several = call("dlq", "show", "billing", letter["id"][:8])
    assert several.exit_code == 1
    assert "write more of the id" in several.stderr
    missing = call("dlq", "show", "billing", "nope")
    assert missing.exit_code == 1
    assert "pipeflow dlq ls billing" in missing.stderr


def test_a_dry_run_moves_nothing_and_a_redrive_moves_what_matches(call: Call, store: str) -> None:
    dry = json.loads(call("dlq", "redrive", "billing", "--where", "error=ValueError", "--dry-run", "--json").stdout)
    assert (dry["matched"], dry["moved"], dry["examined"]) == (2, 0, 3)
    assert ready(call, "billing-dlq") == 3
    moved = call("dlq", "redrive", "billing", "--where", "error=ValueError")
    assert moved.stdout == "2 of 3 dead letters match; 2 moved to billing\n"
    assert (ready(call, "billing-dlq"), ready(call, "billing")) == (1, 4)


def test_Q100_a_redrive_with_a_rate_is_a_move_that_can_be_listed(call: Call, store: str) -> None:
    moved = call("dlq", "redrive", "billing", "--rate", "100/s")
    assert "completed, 3 of 3 moved" in moved.stdout
    (move,) = rows(call("dlq", "moves", "billing", "--json"))
    assert (move["state"], move["moved"], move["rate"], move["queue"]) == ("completed", 3, 100.0, "billing")
    assert (ready(call, "billing-dlq"), ready(call, "billing")) == (0, 5)
    assert call("dlq", "redrive", "billing", "--rate", "fast").exit_code == 2


def test_Q101_a_move_that_was_left_alone_can_be_cancelled(call: Call, store: str) -> None:
    left = json.loads(call("dlq", "redrive", "billing", "--rate", "0.001/s", "--detach", "--json").stdout)
    assert left["state"] == "running"
    again = call("dlq", "redrive", "billing")
    assert again.exit_code == 1
    assert f"pipeflow dlq moves billing --cancel {left['id']}" in again.stderr
    call("dlq", "moves", "--cancel", left["id"])
    (move,) = rows(call("dlq", "moves", "--json"))
    assert move["state"] == "cancelled"


def test_a_redrive_may_go_elsewhere_and_be_limited(call: Call, store: str) -> None:
    moved = json.loads(call("dlq", "redrive", "billing", "--to", "lenient", "--limit", "2", "--json").stdout)
    assert moved["moved"] == 2
    assert (ready(call, "billing-dlq"), ready(call, "lenient")) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["peek", "biling"], "no queue 'biling' in sqlite:///shop.db; did you mean 'billing'?"),
        (["send", "x", "1"], "no queue 'x' in sqlite:///shop.db; it has billing, billing-dlq, lenient"),
        (["publish", "order", "1"], "no topic 'order' in sqlite:///shop.db; did you mean 'orders'?"),
        (["put", "lakes", "1"], "no stream 'lakes' in sqlite:///shop.db; did you mean 'lake'?"),
        (["dlq", "redrive", "billing", "--to", "lenien"], "did you mean 'lenient'?"),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(call: Call, store: str, arguments: list[str], told: str) -> None:
    shown = call(*arguments)
    assert shown.exit_code == 1
    assert told in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_dead_letters_are_named_by_the_queue_they_come_from(call: Call, store: str) -> None:
    shown = call("dlq", "ls", "billing-dlq")
    assert shown.exit_code == 4
    assert "it holds those of billing: name that queue" in shown.stderr


def test_the_store_is_the_flags_then_the_environments_then_the_apps(
    call: Call, store: str, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    assert "other.db" in call("queues", "--broker", "sqlite:///other.db").stderr
    monkeypatch.delenv("PIPEFLOW_BROKER")
    assert "no store is named here" in call("queues").stderr
    (here / "app.py").write_text("from pipeflow import App\napp = App('x', broker='sqlite:///shop.db')\n")
    assert len(rows(call("queues", "--json"))) == 2
    (here / "app.py").rename(here / "elsewhere.py")
    assert len(rows(call("queues", "--app", "elsewhere:app", "--json"))) == 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///shop.db", Path("shop.db")),
        ("sqlite:////var/shop.db?durability=normal", Path("/var/shop.db")),
        ("sqlite:///my%20shop.db", Path("my shop.db")),
        ("memory://", None),
        ("nats://localhost", None),
    ],
)
def test_the_file_of_a_url_is_known(url: str, expected: Path | None) -> None:
    assert database_of(url) == expected


def test_failures_of_dead_letters_have_names_in_json(call: Call, store: str) -> None:
    letter = rows(call("dlq", "ls", "billing", "--json"))[0]
    (failure,) = letter["failures"]
    assert set(failure) == {"at", "attempt", "type", "message", "digest"}
    assert failure["type"] == letter["error"]


@pytest.mark.parametrize("command", [["peek", "billing"], ["dlq", "ls", "billing"], ["dlq", "redrive", "billing"]])
def test_a_condition_on_a_field_that_no_message_has_is_refused(call: Call, store: str, command: list[str]) -> None:
    refused = call(*command, "--where", "eror=ValueError")
    assert refused.exit_code == 4
    assert "'eror'" in refused.stderr
    assert "did you mean 'error'" in refused.stderr
    assert rows(call("dlq", "ls", "billing", "--json")) != []


def test_while_sending_waits_for_stdin_others_reach_the_store_and_ctrl_c_ends_it(
    call: Call, store: str, python: Python
) -> None:
    sender = python("-m", "pipeflow", "send", "lenient", stdin=subprocess.PIPE)
    looking = python("-m", "pipeflow", "doctor", store, "--json")
    while "reached through its socket" not in looking.communicate(timeout=60)[0]:
        assert sender.poll() is None
        looking = python("-m", "pipeflow", "doctor", store, "--json")
    assert looking.returncode == 0
    sender.send_signal(signal.SIGINT)
    # Its stdin stays open: nothing but the signal ends it.
    assert sender.wait(timeout=90) == 130
    assert sender.stderr is not None
    assert sender.stderr.read() == "lenient: 0 accepted before the interruption\n"


def test_S9_a_stream_is_deleted_once_nothing_feeds_it_and_nothing_waits_in_it(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEFLOW_BROKER", "sqlite:///other.db")
    anyio.run(declare_streams, "sqlite:///other.db")
    assert call("put", "old", "1", "2").exit_code == 0
    shown = call("streams", "delete", "old")
    assert shown.exit_code == 1
    assert "2 records wait in it" in shown.stderr
    assert call("streams", "delete", "old", "--drop").stdout == "old: deleted, 2 records dropped\n"
    assert rows(call("streams", "--json")) == []
    shown = call("streams", "delete", "old")
    assert "no stream 'old'" in shown.stderr


async def declare_streams(url: str) -> None:
    opened = await open_store(url)
    await opened.declare(Topology(streams=(StreamSpec("old", "file://./old"),)))
    await opened.close()
