"""The page about topics: its examples run, and do what the page says."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.testing import harness

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "topics.md").read_text()


def program_of(heading: str, **known: Any) -> dict[str, Any]:
    """What the example below this heading makes when it is run."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    program: dict[str, Any] = {"__name__": "topics_page", **known}
    exec(compile(block, "docs/topics.md", "exec", dont_inherit=True), program)  # noqa: S102  # the page's own program
    return program


async def test_the_example_of_filters_takes_what_the_page_says() -> None:
    program = program_of("Filters")
    order = program["Order"]
    async with harness(program["app"]) as h:
        await program["orders"].publish(order("1", 50), kind="placed", total=101, source="a.test")
        await program["orders"].publish(order("2", 5000), kind="void", source="a.org")
        await h.settle()
        ids = {name: [each.id for each in h.queued(program[name])] for name in ("billing", "review", "large")}
    assert ids == {"billing": ["1"], "review": ["2"], "large": ["2"]}


def test_every_rule_of_a_field_is_on_the_page() -> None:
    from pipeflow.filters import writing

    for rule in ("prefix", "suffix", "equals_ignore_case", "wildcard", "num", "cidr", "exists", "anything_but"):
        assert hasattr(writing, rule)
        assert rule in PAGE


async def test_the_example_of_many_topics_notes_which_it_was() -> None:
    program = program_of("Many topics by name")
    async with harness(program["app"]) as h:
        await program["europe"].publish(program["Order"]("1"))
        await program["america"].publish(program["Order"]("2"))
        await h.settle()
    assert program["noted"] == ["orders-eu: 1", "orders-us: 2"]


async def test_the_example_of_a_webhook_is_tested_as_the_page_says() -> None:
    program = program_of("Webhooks")
    await program_of("Testing them", **program)["test_a_refused_order_is_a_dead_letter"]()
    retries = program["partner"].retries["orders"]
    assert (retries.retries, retries.min_delay, retries.max_delay, retries.backoff) == (10, 20.0, 120, "exponential")


async def test_T25_the_example_of_one_text_for_each_protocol_keeps_the_card_from_the_partner() -> None:
    program = program_of("One text for each protocol")
    async with harness(program["app"]) as h:
        await program["place"](program["Order"]("1", "4000-1234"))
        await h.settle()
        assert [each.card for each in h.queued(program["billing"])] == ["4000-1234"]
        assert [notice.body for notice in h.endpoint(program["partner"]).posted] == [b'{"id":"1","card":null}']


async def test_the_example_of_a_replay_delivers_again_to_one_subscriber() -> None:
    program = program_of("Archive and replay")
    clock = VirtualClock(1_767_225_600.0)
    async with harness(program["app"], clock=clock) as h:
        await program["orders"].publish(program["Order"]("1", 500), total=500)
        await program["orders"].publish(program["Order"]("2", 5), total=5)
        assert await program["after_the_outage"]() == 1
        ids = {name: [each.id for each in h.queued(program[name])] for name in ("billing", "audit")}
        assert ids == {"billing": ["1", "2"], "audit": ["1", "1"]}


def test_the_example_of_a_receiver_verifies() -> None:
    signing = pytest.importorskip("pipeflow_connectors.signing", reason="pip install 'pipeflow[sign]'")
    private, certificate = signing.make_certificate("shop", datetime(2026, 1, 1, tzinfo=UTC))
    assert private.startswith(b"-----BEGIN PRIVATE KEY-----")
    document = {"Type": "Notification", "Message": "a", "Signature": "bm90IG9uZQ==", "SignatureVersion": "2"}
    assert not program_of("Signatures")["authentic"](json.dumps(document).encode(), certificate)
