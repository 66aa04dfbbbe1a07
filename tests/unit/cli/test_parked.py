"""`pipeflow parked`: what could not be delivered is listed, tried again, and deleted only on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from click.testing import Result

from pipeflow.messages import Outgoing, Trouble
from pipeflow.registry import open_store
from pipeflow.specs import StreamSpec, Topology

Call = Callable[..., Result]


@pytest.fixture
def ids(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of two parked segments of the stream `lake`, with two records each."""
    url = "sqlite:///parked.db"
    monkeypatch.setenv("PIPEFLOW_BROKER", url)
    made: list[int] = []

    async def fill() -> None:
        store = await open_store(url)
        await store.declare(Topology(streams=(StreamSpec("lake", "file://./lake"),)))
        for _ in range(2):
            await store.append("lake", [Outgoing(b"a"), Outgoing(b"b")])
            store.demand("lake")
            segment = await store.seal("lake")
            assert segment is not None
            now = store.clock.now()
            await store.note(segment, Trouble(4, 300, now, "Sink.Unavailable", "disk\nfull", parked_at=now))
            made.append(segment.id)
        await store.close()

    anyio.run(fill)
    return made


def test_what_is_parked_is_listed_with_its_reason(call: Call, ids: list[int]) -> None:
    rows = json.loads(call("parked", "ls", "lake", "--json").stdout)
    assert [(row["id"], row["records"], row["attempts"], row["code"]) for row in rows] == [
        (id, 2, 4, "Sink.Unavailable") for id in ids
    ]
    assert "disk" in call("parked", "ls", "lake").stdout
    (stream,) = json.loads(call("streams", "--json").stdout)
    assert (stream["parked"], stream["parked_segments"]) == (4, 2)
    assert "pipeflow parked ls lake" in call("doctor").stdout


def test_a_retry_names_what_it_means(call: Call, ids: list[int]) -> None:
    assert call("parked", "retry", "lake").exit_code == 2
    assert call("parked", "retry", "lake", str(ids[0]), "--all").exit_code == 2
    assert json.loads(call("parked", "retry", "lake", str(ids[0]), "--json").stdout) == {
        "stream": "lake",
        "segments": 1,
    }
    assert "1 segments" in call("parked", "retry", "lake", "--all").stdout
    assert call("parked", "ls", "lake", "--fail-empty").exit_code == 3


def test_a_discard_asks_for_yes_and_is_counted(call: Call, ids: list[int]) -> None:
    refused = call("parked", "discard", "lake", str(ids[0]))
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert "1 segments with 2 records deleted" in call("parked", "discard", "lake", str(ids[0]), "--yes").stdout
    assert json.loads(call("parked", "discard", "lake", "--all", "--yes", "--json").stdout)["records"] == 2
    (stream,) = json.loads(call("streams", "--json").stdout)
    assert (stream["discarded"], stream["buffered"]) == (4, 0)


def test_an_unknown_stream_or_id_is_told(call: Call, ids: list[int]) -> None:
    assert "did you mean 'lake'" in call("parked", "ls", "lace").stderr or "lake" in call("parked", "ls", "lace").stderr
    assert "77 is not parked" in call("parked", "retry", "lake", "77").stderr
