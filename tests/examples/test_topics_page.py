"""The page about topics: its examples run, and do what the page says."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeflow.clock import VirtualClock
from pipeflow.filters import compile_filter, where_body, writing
from pipeflow.testing import harness

RULES = {"prefix", "suffix", "equals_ignore_case", "wildcard", "num", "cidr", "exists", "anything_but"}
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


def rows() -> list[list[str]]:
    """The rows of the table of filter rules: the rule, its JSON, what it takes, and what not."""
    (table,) = re.findall(r"^\| rule \| as JSON .*\n\|.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in table.splitlines()]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_T32_every_row_of_the_table_of_rules_is_written_takes_and_does_not_take_as_it_says(row: list[str]) -> None:
    python, text, taken, not_taken = row
    absent = object()
    words = {name: getattr(writing, name) for name in RULES} | {"absent": absent}
    policy = where_body({"field": eval(python, words)})  # noqa: S307  # the page's own
    assert json.loads(policy.policy) == {"field": [json.loads(text)]}
    takes = compile_filter(policy)
    for values, expected in ((taken, True), (not_taken, False)):
        for value in eval(f"[{values}]", words):  # noqa: S307  # the page's own
            body = {"other": 1} if value is absent else {"field": value}
            assert takes(json.dumps(body).encode(), {}) is expected, (python, value)


def test_every_rule_of_a_field_is_in_the_table() -> None:
    assert set(re.findall(r"\w+", " ".join(python for python, *_ in rows()))) >= RULES


async def test_a_publish_reaches_all_and_a_handler_publishes_with_its_acknowledgement() -> None:
    program = program_of("Publishing")
    async with harness(program["app"]) as h:
        await program["place"]([program["Order"](str(n), "ada") for n in range(3)])
        await h.settle()
        assert [each.id for each in h.queued(program["post"])] == ["0", "1", "2"]
        await h.advance(60)
        assert [each.id for each in h.queued(program["billing"])] == ["0", "1", "2", "last"]
        assert [each.id for each in h.queued(program["post"])] == ["0", "1", "2", "last"]


async def test_T71_the_example_of_a_fifo_topic_books_once_and_in_order() -> None:
    program = program_of("FIFO topics")
    async with harness(program["app"]) as h:
        assert await program["book"]()
        for queue in ("ledger", "report"):
            assert [each.amount for each in h.queued(program[queue])] == [5, -5]


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
