"""An owner of an older version passes over fields that it does not know: who would use one is told before."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import Struct, inspect
from recalling_store import Recalling, served

from pipeflow.embedded import newer
from pipeflow.embedded import socket as door
from pipeflow.embedded.newer import LEARNED
from pipeflow.embedded.socket import socket_path
from pipeflow.embedded.verbs import VERBS
from pipeflow.errors import FeatureMissing
from pipeflow.messages import Ack, Emit, Outgoing, Receipt, Refused, Release

FIRST = {
    "Ack": "receipt emits superseded_ok",
    "ArchiveRequest": "topic to since until policy name again dry_run after limit",
    "Bury": "receipt failure headers",
    "Claim": "number place name size crc digest",
    "ClaimSpec": "url inline_bytes",
    "Column": "name type required default fields",
    "CompactRequest": "target older_than keep dry_run",
    "Defer": "receipt delay failure",
    "Discard": "queue ids where every limit dry_run user",
    "Edit": "parts body raw",
    "Emit": "kind target message",
    "Endpoint": "access_key gzip attributes timeout networks ports",
    "Extend": "receipt visibility_timeout",
    "Failure": "at attempt type message digest",
    "FileQuery": "first last since until partition retired after limit",
    "FilterPolicy": "policy scope",
    "KeyQuery": "key query",
    "Outgoing": "body attributes headers group dedup_id delay partition checkpoint id claim ttl key priority",
    "Part": "path value",
    "QueueSpec": "name fifo visibility_timeout max_receives dead_letters dead_letter_age delay retention max_in_flight"
    " max_body content_dedup dedup_scope holds_dead_letters archives dead_letters_from tags max_per_second",
    "Receipt": "place boot receive",
    "Redrive": "queue to where limit dry_run rate ids edit user",
    "Release": "receipt",
    "Rewrite": "queue id edit expects dry_run user",
    "Search": "queue limit dead where contains state",
    "StreamSpec": "name sink buffer_bytes buffer_seconds format compression compression_level delimiter durability"
    " partitioned partition_keys transformed max_partitions max_record max_buffered prefix error_prefix timezone"
    " extension columns backup retry_seconds failures max_age manifest target_bytes decompress log_messages split"
    " split_delimiter endpoint",
    "Subscription": "topic kind target filter raw endpoint handshake named",
    "TopicSpec": "name fifo content_dedup archive tags dedup_scope",
    "Topology": "topics queues streams subscriptions claims",
    "Want": "limit max_bytes wait visibility_timeout durable attempt_id",
}
"""What calls said when the first owners of this protocol went out. What comes later belongs into `newer.LEARNED`."""


@pytest.fixture
def store() -> Recalling:
    return Recalling()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return socket_path(tmp_path / "shop.db")


def said(kind: inspect.Type, found: dict[str, list[str]]) -> None:
    """The fields of every struct that this type is made of."""
    if isinstance(kind, inspect.StructType):
        if kind.cls.__name__ in found:
            return
        found[kind.cls.__name__] = [field.name for field in kind.fields]
        for field in kind.fields:
            said(field.type, found)
        return
    for name in kind.__struct_fields__:
        value = getattr(kind, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, inspect.Type):
                said(each, found)


def test_every_field_that_calls_got_is_one_that_owners_are_asked_about() -> None:
    found: dict[str, list[str]] = {}
    for kind in inspect.multi_type_info([verb.arguments.type for verb in VERBS.values()]):
        said(kind, found)
    assert found == {name: [*fields.split(), *LEARNED.get(name, ())] for name, fields in FIRST.items()}


async def test_a_release_with_a_delay_is_refused_alone_with_the_remedy(
    store: Recalling, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would come back at once, and at once again."""
    monkeypatch.setattr(door, "LEARNED", {})
    first, second, third = (Receipt(n, 1, 1) for n in range(3))
    async with served(store, path) as client:
        answers = await client.settle("q", [Ack(first), Release(second, 2.5), Release(third)])
    assert store.settled == [Ack(first), Release(third)]
    before, refused, after = answers
    assert not isinstance(before, Refused)
    assert not isinstance(after, Refused)
    assert isinstance(refused, Refused)
    assert refused.code == "FeatureMissing"
    for part in ("does not know Release(delay=2.5)", "process ", "start it again with this pipeflow"):
        assert part in refused.reason


async def test_an_owner_of_this_version_is_asked_for_everything(store: Recalling, path: Path) -> None:
    async with served(store, path) as client:
        await client.settle("q", [Release(Receipt(1, 1, 1), 2.5)])
    assert store.settled == [Release(Receipt(1, 1, 1), 2.5)]


async def test_a_call_that_an_older_owner_would_do_by_halves_is_not_made(
    store: Recalling, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newer, "LEARNED", {"Outgoing": ("priority",)})
    async with served(store, path) as client:
        with pytest.raises(FeatureMissing, match=r"does not know Outgoing\(priority=3\)"):
            await client.send("q", [Outgoing(b"1"), Outgoing(b"2", priority=3)])
        (answer,) = await client.settle("q", [Ack(Receipt(1, 1, 1), [Emit("queue", "q", Outgoing(b"", priority=1))])])
        assert isinstance(answer, Refused)
        await client.send("q", [Outgoing(b"3")])
    assert [message.body for message in store.sent] == [b"3"]
    assert store.settled == []


def test_what_a_newer_owner_knows_beyond_this_version_is_nobodys_business() -> None:
    assert newer.missing({**LEARNED, "Want": ("colour",)}) == {}


class Strange(Struct):
    """Not of a call."""

    delay: float = 0.0


def test_only_the_struct_that_is_meant_is_looked_at() -> None:
    assert newer.unknown([Strange(5.0), "delay", {"delay": 1}], {"Release": ("delay",)}) is None
