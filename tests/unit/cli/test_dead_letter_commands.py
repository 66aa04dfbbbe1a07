"""`pipeflow dlq show`, `edit`, `redrive`, `discard` and `log`: on a store that nobody owns, and on one that is open."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import Result

from pipeflow.edits import fingerprint
from pipeflow.letters import Discard, Redrive
from pipeflow.messages import Bury, Failure, Outgoing, Want
from pipeflow.registry import open_store

Call = Callable[..., Result]


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def letters(call: Call) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer(call("dlq", "ls", "billing", "--json"))
    return found


def bodies(call: Call) -> list[object]:
    return [letter["body"] for letter in letters(call)]


@pytest.mark.parametrize("grouped", [(), ("--group-by", "error")])
def test_a_list_that_an_answer_has_no_room_for_says_so(
    call: Call, store: str, grouped: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts by error were those of the first 32 MiB, and nothing said so."""
    assert call("dlq", "ls", "billing", *grouped).stderr == ""
    monkeypatch.setattr("pipeflow.embedded.searching.FOUND_BYTES", 1)
    told = call("dlq", "ls", "billing", *grouped).stderr
    assert told == "the first 1; an answer holds 32 MiB, narrow it down with --where\n"
    assert "--limit shows more" in call("dlq", "ls", "billing", *grouped, "--limit", "1").stderr


# -- show ----------------------------------------------------------------------------------------------------------


async def die_again(url: str) -> None:
    """Send the first dead letter back and let it die once more."""
    store = await open_store(url)
    await store.redrive(Redrive("billing", limit=1))
    while deliveries := await store.receive("billing", Want(1)):
        (delivery,) = deliveries
        failure = Failure(store.clock.now(), 1, "KeyError", "again", "feedface")
        if delivery.body.startswith(b'{"id":"0"'):
            await store.settle("billing", [Bury(delivery.receipt, failure, {"traceparent": "00-abc-01"})])
            break
    await store.close()


def test_a_letter_is_shown_with_all_its_failures_and_where_it_has_been(call: Call, store: str) -> None:
    first = letters(call)[0]["id"]
    anyio.run(die_again, store)
    letter = next(each for each in letters(call) if each["body"]["id"] == "0")
    shown = call("dlq", "show", "billing", letter["id"]).stdout
    assert "redriven:           1 times; first sent 20" in shown
    assert f"as {first}" in shown
    assert "back from billing-dlq, dead of billing" in shown
    assert "attempt 1  ValueError: bad ValueError  [0badc0de]" in shown
    assert "attempt 1  KeyError: again  [feedface]" in shown
    assert "header:             traceparent = 00-abc-01" in shown
    for key in ("sent_at", "first_received_at", "received_at", "kept_until", "dead_letter_source"):
        assert f"{key}: " in shown
    assert '{\n  "id": "0",\n  "total": 0\n}\n' in shown
    row = answer(call("dlq", "show", "billing", letter["id"], "--json"))
    assert (row["provenance"]["id"], row["provenance"]["redrives"]) == (first, 1)
    assert row["digest"] == fingerprint(b'{"id":"0","total":0}')


async def bury_bytes(url: str) -> None:
    store = await open_store(url)
    await store.send("billing", [Outgoing(bytes(range(256)) * 40)])
    while deliveries := await store.receive("billing", Want(10)):
        await store.settle("billing", [Bury(delivery.receipt) for delivery in deliveries])
    await store.close()


def test_a_body_that_is_no_text_is_shown_in_hex_up_to_a_bound(call: Call, store: str) -> None:
    anyio.run(bury_bytes, store)
    shown = call("dlq", "show", "billing", letters(call)[-1]["id"]).stdout
    assert "00000040  40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f  @ABCDEFGHIJKLMNO" in shown
    assert "... 6,144 more bytes" in shown
    assert len(shown.splitlines()) < 300
    assert "\x00" not in shown


# -- edit ----------------------------------------------------------------------------------------------------------


def test_an_edit_shows_what_it_changes_and_changes_it(call: Call, store: str) -> None:
    id = letters(call)[1]["id"]
    arguments = ("dlq", "edit", "billing", id, "--set", "body.total=70", "--set", "attributes.kind=paid")
    tried = call(*arguments, "--dry-run")
    assert tried.stdout.splitlines() == [
        id, '-attributes.kind = "placed"', '+attributes.kind = "paid"', " {", '   "id": "1",', '-  "total": 1',
        '+  "total": 70', " }",
    ]  # fmt: skip
    assert tried.stderr == "nothing was changed\n"
    assert bodies(call)[1] == {"id": "1", "total": 1}
    change = answer(call(*arguments, "--json"))
    assert (change["before"]["body"], change["after"]["body"]) == ({"id": "1", "total": 1}, {"id": "1", "total": 70})
    assert change["after"]["digest"] == fingerprint(b'{"id":"1","total":70}')
    assert bodies(call) == [{"id": "0", "total": 0}, {"id": "1", "total": 70}, {"id": "2", "total": 2}]
    assert letters(call)[1]["attributes"] == {"kind": "paid"}
    assert [letter["id"] for letter in letters(call)][1] == id


def test_a_new_body_comes_from_a_file_or_stdin_and_is_json_or_said_to_be_raw(
    call: Call, store: str, here: Path
) -> None:
    id = letters(call)[0]["id"]
    (here / "mended.json").write_text('{"id": "x", "total": 1.10}')
    assert call("dlq", "edit", "billing", id, "--body", "mended.json").exit_code == 0
    assert bodies(call)[0] == {"id": "x", "total": 1.1}
    refused = call("dlq", "edit", "billing", id, "--body", "-", input="{")
    assert refused.exit_code == 4
    assert "the new body is no JSON" in refused.stderr
    assert call("dlq", "edit", "billing", id, "--body", "-", "--raw", input="{").exit_code == 0
    assert bodies(call)[0] == "{"


def test_without_a_terminal_an_edit_says_what(call: Call, store: str) -> None:
    refused = call("dlq", "edit", "billing", letters(call)[0]["id"])
    assert refused.exit_code == 2
    assert "give --set PATH=VALUE or --body FILE" in refused.stderr
    unfit = call("dlq", "edit", "billing", letters(call)[0]["id"], "--set", "body.customer.name=x")
    assert unfit.exit_code == 1
    assert "its body has no 'customer'" in unfit.stderr


def edited_to(text: str) -> Callable[..., str]:
    return lambda before, **options: text


def test_on_a_terminal_an_editor_opens_and_what_it_saves_counts(
    call: Call, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = letters(call)[0]["id"]
    monkeypatch.setattr("pipeflow.cli.letters._on_terminal", lambda: True)
    monkeypatch.setattr("click.edit", edited_to('{"id": "0", "total": 9}\n'))
    assert call("dlq", "edit", "billing", id).exit_code == 0
    assert bodies(call)[0] == {"id": "0", "total": 9}
    monkeypatch.setattr("click.edit", lambda before, **options: None)
    assert call("dlq", "edit", "billing", id).stderr == f"{id}: nothing changed\n"
    monkeypatch.setattr("click.edit", edited_to("{"))
    assert "the new body is no JSON" in call("dlq", "edit", "billing", id).stderr
    assert bodies(call)[0] == {"id": "0", "total": 9}


async def add_a_large_one(url: str) -> str:
    """A letter whose body is kept aside; its id."""
    store = await open_store(url)
    await store.send("billing", [Outgoing(b'{"id":"large","total":1,"text":"%s"}' % (b"x" * (2 << 20)))])
    large = next(each for each in await store.receive("billing", Want(10)) if len(each.body) > 2 << 20)
    await store.settle("billing", [Bury(large.receipt)])
    await store.close()
    return large.id


def test_a_body_that_is_kept_aside_is_edited_by_its_parts_and_never_by_its_beginning(
    call: Call, store: str, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = anyio.run(add_a_large_one, store)
    monkeypatch.setattr("pipeflow.cli.letters._on_terminal", lambda: True)
    monkeypatch.setattr("click.edit", edited_to('{"id": "large", "total": 9}\n'))
    refused = call("dlq", "edit", "billing", id)
    assert refused.exit_code == 2
    assert "its body is too large for an editor" in refused.stderr
    changed = answer(call("dlq", "edit", "billing", id, "--set", "body.total=2", "--app", "app:app", "--json"))
    assert changed["before"]["size"] == changed["after"]["size"] > 2 << 20
    assert changed["before"]["digest"] != changed["after"]["digest"]
    call("dlq", "edit", "billing", id, "--set", 'body.text="short"')
    assert {"id": "large", "total": 2, "text": "short"} in bodies(call)


def test_what_somebody_changed_while_the_editor_was_open_is_not_overwritten(
    call: Call, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = letters(call)[0]["id"]

    def meanwhile(before: str, **options: object) -> str:
        assert call("dlq", "edit", "billing", id, "--set", "body.total=1").exit_code == 0
        return '{"id": "0", "total": 9}'

    monkeypatch.setattr("pipeflow.cli.letters._on_terminal", lambda: True)
    monkeypatch.setattr("click.edit", meanwhile)
    refused = call("dlq", "edit", "billing", id)
    assert refused.exit_code == 1
    assert "was changed meanwhile" in refused.stderr
    assert bodies(call)[0] == {"id": "0", "total": 1}


def test_where_the_app_is_known_its_type_must_take_the_outcome(
    call: Call, store: str, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = letters(call)[0]["id"]
    for arguments in (
        ("dlq", "edit", "billing", id, "--set", "body.total=much"),
        ("dlq", "redrive", "billing", "--edit", "body.total=much"),
    ):
        assert call(*arguments, "--dry-run").exit_code == 0, "the store alone knows no type"
        refused = call(*arguments, "--app", "app:app")
        assert refused.exit_code == 1
        assert "its handler could not read it" in refused.stderr
    assert bodies(call)[0] == {"id": "0", "total": 0}
    monkeypatch.delenv("PIPEFLOW_BROKER")
    assert call("dlq", "edit", "billing", id, "--set", "body.total=much").exit_code == 1, "app.py is here"


# -- redrive -------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_an_edit_makes_of_the_first_letters(call: Call, store: str) -> None:
    tried = call("dlq", "redrive", "billing", "--edit", "body.total=7", "--where", "error=ValueError", "--dry-run")
    assert tried.stdout.count('+  "total": 7') == 2
    assert tried.stdout.endswith("2 of 3 dead letters match; nothing was moved\n")
    moved = answer(call("dlq", "redrive", "billing", "--edit", "body.total=7", "--where", "error=ValueError", "--json"))
    assert (moved["moved"], moved["unfit"]) == (2, 0)
    totals = [
        row["body"]["total"] for row in answer(call("peek", "billing", "--json")) if isinstance(row["body"], dict)
    ]
    assert totals.count(7) == 2


def test_letters_that_an_edit_does_not_fit_stay_and_are_told(call: Call, store: str) -> None:
    told = call("dlq", "redrive", "billing", "--edit", "body.customer.name=x").stdout
    assert "3 of 3 dead letters match; 0 moved to billing" in told
    assert "the edit does not fit 3, which stay" in told
    assert "its body has no 'customer'" in told


def test_letters_are_named_by_the_beginnings_of_their_ids(call: Call, store: str) -> None:
    ids = [letter["id"] for letter in letters(call)]
    moved = answer(call("dlq", "redrive", "billing", "--id", ids[0], "--id", ids[2], "--rate", "100/s", "--json"))
    assert (moved["state"], moved["moved"], moved["ids"]) == ("completed", 2, [ids[0], ids[2]])
    assert [letter["id"] for letter in letters(call)] == [ids[1]]
    assert call("dlq", "redrive", "billing", "--id", "nope").exit_code == 1


async def bury_named(url: str) -> None:
    store = await open_store(url)
    await store.discard(Discard("billing", every=True))
    await store.send("billing", [Outgoing(b"{}", id=id) for id in ("order-10", "order-1", "o,attempt>0", "*'")])
    while deliveries := await store.receive("billing", Want(10)):
        await store.settle("billing", [Bury(delivery.receipt) for delivery in deliveries])
    await store.close()


def test_an_id_is_taken_as_it_is_also_where_others_begin_with_it(call: Call, store: str) -> None:
    """`order-1` could not be named beside `order-10`, and a comma in an id was a condition more."""
    anyio.run(bury_named, store)
    for id in ("order-1", "order-10", "o,attempt>0", "*'"):
        assert answer(call("dlq", "show", "billing", id, "--json"))["id"] == id
    assert "several dead letters begin with 'order'" in call("dlq", "show", "billing", "order").stderr
    for id in ("*", "o,attempt>9", "rder-1"):
        told = call("dlq", "discard", "billing", "--id", id, "--yes")
        assert (id == "*") is (told.exit_code == 0), "it is the beginning of one id, and no pattern"
    assert [letter["id"] for letter in letters(call)][-3:] == ["order-10", "order-1", "o,attempt>0"]


def test_an_empty_id_is_no_beginning_of_the_only_letter_there_is(call: Call, store: str) -> None:
    """A variable of a shell that is not set: `--id "$ID"`."""
    for id in [letter["id"] for letter in letters(call)][1:]:
        assert call("dlq", "discard", "billing", "--id", id, "--yes").exit_code == 0
    for verb in (
        ("discard", "billing", "--yes", "--id", ""),
        ("redrive", "billing", "--id", ""),
        ("show", "billing", ""),
    ):
        refused = call("dlq", *verb)
        assert refused.exit_code == 2
        assert "an empty id" in refused.stderr
    assert len(letters(call)) == 1


def test_a_letter_that_is_named_is_tried_on_the_type_however_many_lie_before_it(
    call: Call, store: str, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeflow.cli.dlq.LOOKED_AT", 1)
    id = letters(call)[1]["id"]
    refused = call("dlq", "redrive", "billing", "--id", id, "--edit", "body.total=much", "--app", "app:app")
    assert refused.exit_code == 1
    assert "its handler could not read it" in refused.stderr
    assert len(letters(call)) == 3


# -- discard -------------------------------------------------------------------------------------------------------


def test_discarding_wants_a_selection_and_a_yes(call: Call, store: str) -> None:
    for arguments in ((), ("--all", "--where", "attempt>0")):
        refused = call("dlq", "discard", "billing", *arguments, "--yes")
        assert refused.exit_code == 2
        assert "name them by --id, by --where, or all of them by --all" in refused.stderr
    refused = call("dlq", "discard", "billing", "--all")
    assert refused.exit_code == 2
    assert "add --yes" in refused.stderr
    assert len(letters(call)) == 3


def test_discarded_letters_are_gone_and_counted(call: Call, store: str) -> None:
    tried = call("dlq", "discard", "billing", "--where", "error=ValueError", "--dry-run")
    assert tried.stdout == "2 of 3 dead letters match; nothing was deleted\n"
    done = call("dlq", "discard", "billing", "--where", "error=ValueError", "--yes")
    assert done.stdout == "2 of 3 dead letters match; 2 deleted\n"
    (left,) = letters(call)
    assert left["error"] == "KeyError"
    assert answer(call("dlq", "discard", "billing", "--id", left["id"], "--yes", "--json"))["discarded"] == 1
    (billing, *_) = answer(call("queues", "--json"))
    assert (billing["dead"], billing["discarded"]) == (0, 3)
    assert call("dlq", "discard", "billing", "--all", "--yes", "--fail-empty").exit_code == 3


# -- log -----------------------------------------------------------------------------------------------------------


def test_the_log_tells_who_did_what(call: Call, store: str) -> None:
    assert call("dlq", "log").stderr == "nothing was done\n"
    id = letters(call)[0]["id"]
    call("dlq", "edit", "billing", id, "--set", "body.total=1", "--user", "ada")
    call("dlq", "discard", "billing", "--id", id, "--yes")
    call("dlq", "redrive", "billing", "--limit", "1")
    call("purge", "billing-dlq", "--yes")
    entries = answer(call("dlq", "log", "billing", "--json"))
    assert [(each["action"], each["count"], each["ids"][:1]) for each in entries[1:]] == [
        ("redrive", 1, entries[1]["ids"]), ("discard", 1, [id]), ("edit", 1, [id]),
    ]  # fmt: skip
    assert (entries[0]["action"], entries[0]["count"]) == ("purge", 1)
    assert [each["user"] for each in entries] == [getpass.getuser()] * 3 + ["ada"]
    assert {each["pid"] for each in entries} == {os.getpid()}
    shown = call("dlq", "log", "billing", "--limit", "2", "--before", "3").stdout
    assert [line.split()[2] for line in shown.splitlines()[1:]] == ["discard", "edit"]
    assert "body.total=1" in shown
    assert call("dlq", "log", "biling").exit_code == 1


async def held_open(url: str, work: Callable[[], None]) -> None:
    store = await open_store(url)
    await anyio.to_thread.run_sync(work)
    await store.close()


def test_through_the_owners_socket_the_caller_is_told_and_not_the_owner(call: Call, store: str, python: Any) -> None:
    id = letters(call)[0]["id"]
    pids: list[int] = []

    def edit() -> None:
        for arguments in (
            ("edit", "billing", id, "--set", "body.total=5"),
            ("discard", "billing", "--id", id, "--yes"),
        ):
            process = python("-m", "pipeflow", "dlq", *arguments)
            pids.append(process.pid)
            assert process.wait(60) == 0, process.stderr.read()

    anyio.run(held_open, store, edit)
    discarded, edited = answer(call("dlq", "log", "--json"))
    assert [edited["pid"], discarded["pid"]] == pids
    assert (edited["user"], edited["uid"]) == (getpass.getuser(), os.getuid())
    assert len(letters(call)) == 2
