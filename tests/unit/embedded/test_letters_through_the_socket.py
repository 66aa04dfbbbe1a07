"""The owner's socket does to dead letters all that the owner can, and tells the audit who asked."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import force_setattr

from pipeflow.audit import Caller, caller
from pipeflow.clock import SystemClock
from pipeflow.edits import fingerprint, parse_edit
from pipeflow.embedded.frames import Frames, socket_path
from pipeflow.embedded.remote import connect
from pipeflow.errors import ConfigurationError, NotFound, RefusedError
from pipeflow.letters import Discard, Redrive, Rewrite
from pipeflow.messages import Bury, Failure, Outgoing, Want
from pipeflow.protocols import Store
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology

ZERO = parse_edit(["body.total=0", "attributes.kind=y"])


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with four dead letters in `work`."""
    store = await open_store(f"sqlite:///{tmp_path}/s.db")
    await store.declare(Topology(queues=(QueueSpec("work", dead_letters="dead"),)))
    sent = [Outgoing(b'{"n":%d,"total":5}' % n, {"kind": "x", "raw": b"\xff"}, {"traceparent": "00"}) for n in range(4)]
    await store.send("work", sent)
    while deliveries := await store.receive("work", Want(10)):
        failure = Failure(1.0, 1, "ValueError", "bad", "0badc0de")
        await store.settle("work", [Bury(delivery.receipt, failure) for delivery in deliveries])
    yield store
    await store.close()


@pytest.fixture
async def client(owner: Store, tmp_path: Path) -> AsyncIterator[Store]:
    """The same store, reached through its socket."""
    remote = await connect(socket_path(tmp_path / "s.db"), owner.url, SystemClock())
    yield remote
    await remote.close()


async def test_a_letter_is_told_whole_and_edited(owner: Store, client: Store) -> None:
    first, *_ = await client.peek("work", 10, True)
    assert (await owner.peek("work", 10, True))[0] == first
    assert first.headers == {"traceparent": "00"}
    request = Rewrite("work", first.id, ZERO, fingerprint(first.body))
    assert await client.edit(Rewrite("work", first.id, ZERO, dry_run=True)) == (change := await client.edit(request))
    assert (change.before.body, change.after.body) == (first.body, b'{"n":0,"total":0}')
    assert change.after.attributes == {"kind": "y", "raw": b"\xff"}
    with pytest.raises(RefusedError, match="was changed meanwhile") as refused:
        await client.edit(request)
    assert refused.value.code == "Changed"
    with pytest.raises(NotFound, match="no dead letter nope"):
        await client.edit(Rewrite("work", "nope", ZERO))


async def test_letters_are_sent_back_edited_and_discarded(owner: Store, client: Store) -> None:
    ids = [letter.id for letter in await client.peek("work", 10, True)]
    done = await client.redrive(Redrive("work", ids=(ids[0],), edit=ZERO))
    assert (done.moved, done.changes[0].id) == (1, ids[0])
    move = await client.start_move(Redrive("work", ids=(ids[1],), edit=ZERO, rate=1000.0))
    assert (move.ids, move.edit) == ((ids[1],), ZERO)
    while (await client.moves("work"))[0].under_way:
        pass
    assert (await client.discard(Discard("work", every=True))).discarded == 2
    back = await client.peek("work", 10)
    assert [message.body for message in back] == [b'{"n":0,"total":0}', b'{"n":1,"total":0}']
    assert [message.provenance.id for message in back if message.provenance] == ids[:2]
    assert await owner.peek("work", 10, True) == []


async def test_a_discard_that_selects_nothing_is_refused_by_the_owner_too(client: Store) -> None:
    said = Discard("work", every=True)
    force_setattr(said, "every", False)
    with pytest.raises(ConfigurationError, match="which dead letters are to be deleted"):
        await client.discard(said)
    assert len(await client.peek("work", 10, True)) == 4


async def test_the_audit_names_who_asked_and_not_the_owner(
    owner: Store, client: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [letter.id for letter in await client.peek("work", 10, True)]
    monkeypatch.setattr(Frames, "peer", lambda self: (4711, os.geteuid()))
    other = await connect(socket_path(tmp_path / "s.db"), owner.url, SystemClock())
    await other.edit(Rewrite("work", ids[0], ZERO))
    await other.discard(Discard("work", ids=(ids[1],), user="ada"))
    await other.close()
    await client.edit(Rewrite("work", ids[2], ZERO))
    await owner.edit(Rewrite("work", ids[3], ZERO))
    entries = await client.audit("work")
    assert entries == await owner.audit("work")
    assert [(entry.pid, entry.uid) for entry in entries[::-1]] == [
        (4711, os.geteuid()), (4711, os.geteuid()), (os.getpid(), os.geteuid()), (os.getpid(), os.geteuid()),
    ]  # fmt: skip
    assert [entry.user for entry in entries[::-1]].count("ada") == 1
    assert [entry.number for entry in await client.audit("work", 1, 3)] == [2]


async def test_who_asks_is_known_for_that_call_only(owner: Store, client: Store) -> None:
    ids = [letter.id for letter in await client.peek("work", 10, True)]
    token = caller.set(Caller("grace", 7, 8))
    await owner.edit(Rewrite("work", ids[0], ZERO))
    caller.reset(token)
    await client.edit(Rewrite("work", ids[1], ZERO))
    assert [(entry.user, entry.pid) for entry in await owner.audit()][1] == ("grace", 8)
    assert (await owner.audit())[0].pid == os.getpid()
