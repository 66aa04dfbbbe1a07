"""The page about queues: its examples run, and do what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeflow import RefusedError
from pipeflow.clock import VirtualClock
from pipeflow.errors import InvalidFilter
from pipeflow.testing import harness

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "queues.md").read_text()


def program_of(heading: str = "") -> dict[str, Any]:
    """What the example below this heading makes when it is run after the first one of the page."""
    program: dict[str, Any] = {"__name__": "queues_page"}
    first = PAGE.partition("\n## ")[0]
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE) if heading else ("",)
    for text in (first, section):
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            # Its annotations are types, as in a file of its own, and not the texts that they are in this one.
            exec(compile(block, "docs/queues.md", "exec", dont_inherit=True), program)  # noqa: S102  # the page's own
    return program


def test_every_example_of_the_page_can_follow_the_first() -> None:
    headings = re.findall(r"^## (.*)\n", PAGE, re.MULTILINE)
    for heading in headings:
        assert "app" in program_of(re.escape(heading))


async def test_what_is_sent_is_handled() -> None:
    program = program_of()
    async with harness(program["app"]) as h:
        await program["invoices"].send(program["Invoice"]("ada", 1))
        await h.settle()
        assert [each.number for each in program["done"]] == [1]
        assert h.queued(program["invoices"]) == h.in_flight(program["invoices"]) == []


async def test_many_are_sent_at_once_and_one_is_delayed() -> None:
    program = program_of("Sending")
    async with harness(program["app"]) as h:
        assert await program["bill"]()
        await h.settle()
        assert len(program["done"]) == 100
        await h.advance(59)
        assert len(program["done"]) == 100
        await h.advance(1)
        assert program["done"][-1].customer == "bo"


async def test_a_message_with_a_time_to_live_is_handled_in_time() -> None:
    program = program_of("Time to live")
    async with harness(program["app"]) as h:
        assert await program["remind"]()
        await h.settle()
        assert [each.customer for each in program["done"]] == ["cy"]


async def test_a_reminder_is_replaced_and_taken_back() -> None:
    program = program_of("Delays")
    invoice, days = program["Invoice"], program["DAYS"]
    async with harness(program["app"]) as h:
        await program["billed"](invoice("ada", 1))
        await program["billed"](invoice("bo", 2))
        await h.advance(10 * days)
        await program["billed"](invoice("ada", 1))
        assert await program["paid"](invoice("bo", 2))
        assert not await program["paid"](invoice("bo", 2))
        await h.advance(10 * days)
        assert program["reminded"] == []
        await h.advance(4 * days)
        assert program["reminded"] == [invoice("ada", 1)]


async def test_the_highest_priority_is_handled_first() -> None:
    program = program_of("Priorities")
    async with harness(program["app"]) as h:
        await program["bill_everybody"]()
        await h.settle()
        names = [each.customer for each in program["done"]]
        assert len(names) == 1001
        assert names.index("now") <= 20, "only what was in hand already goes before it"


async def test_H20_a_handler_answers_by_how_it_ends() -> None:
    program = program_of("Handlers")
    letters, printed, invoice = program["letters"], program["printed"], program["Invoice"]
    async with harness(program["app"]) as h:
        await letters.send(invoice("ada", 1))
        await letters.send(invoice("ada", -1))
        await letters.send(invoice("bo", 2), paper="empty")
        await h.settle()
        assert [each.number for each in h.queued(printed)] == [1]
        assert [each.number for each in h.dead(letters)] == [-1]
        await h.advance(59)
        assert len(h.queued(printed)) == 1
        await h.advance(1)
        assert [each.number for each in h.queued(printed)] == [1, 2]


async def test_H25_a_batch_names_what_failed_and_the_rest_is_acknowledged() -> None:
    program = program_of("Batches")
    rows, invoice = program["rows"], program["Invoice"]
    async with harness(program["app"]) as h:
        await rows.send_many([invoice("ada", 1), invoice("ada", -2), invoice("ada", 3)])
        await h.advance(0.5)
        assert program["table"][0] == [1, 3]
        assert [each.number for each in h.queued(rows)] == [-2]
        await h.advance(3600)
        assert [each.number for each in h.dead(rows)] == [-2]


async def test_Q78_the_example_of_a_rate_asks_twice_a_second() -> None:
    program = program_of("Rates")
    async with harness(program["app"]) as h:
        await program["geocodes"].send_many([program["Invoice"]("ada", n) for n in range(5)])
        await h.settle()
        assert program["asked"] == [0, 1]
        await h.advance(1)
        assert program["asked"] == [0, 1, 2, 3]


async def test_an_hour_of_work_on_ten_seconds_of_timeout_is_one_attempt() -> None:
    program = program_of("Visibility timeout")
    async with harness(program["app"]) as h:
        await program["scans"].send(program["Invoice"]("ada", 1))
        await h.advance(3599)
        assert len(h.in_flight(program["scans"])) == 1
        await h.advance(1)
        assert program["scanned"] == [1]
        assert h.in_flight(program["scans"]) == h.queued(program["scans"]) == []


async def test_the_example_of_retries_waits_no_longer_than_it_says_and_ends_with_the_dead_letters() -> None:
    program = program_of("Retries and backoff")
    transfers = program["transfers"]
    async with harness(program["app"]) as h:
        await transfers.send(program["Invoice"]("ada", 1))
        await h.settle()
        assert program["attempts"] == [1]
        await h.advance(10)
        assert program["attempts"][:2] == [1, 2]
        await h.advance(20)
        assert program["attempts"] == [1, 2, 3]
        assert [each.number for each in h.dead(transfers)] == [1]


async def test_Q75_a_group_waits_for_its_failed_message_and_others_do_not_wait_for_the_group() -> None:
    program = program_of("FIFO queues")
    async with harness(program["app"]) as h:
        await program["book_all"]()
        await h.settle()
        assert sorted(program["booked"]) == [("ada", 1), ("bo", 1)]
        await h.advance(1)
        assert [number for customer, number in program["booked"] if customer == "ada"] == [1, 2, 3]


async def test_Q71_the_example_of_deduplication_pays_once() -> None:
    program = program_of("Deduplication")
    async with harness(program["app"]) as h:
        assert await program["pay_twice"]()
        assert len(h.queued(program["payments"])) == 1
        await h.advance(300)
        await program["payments"].send(program["Invoice"]("ada", 1), group="ada")
        assert len(h.queued(program["payments"])) == 2


async def test_Q83_the_small_customer_waits_for_thirty_invoices_at_most() -> None:
    program = program_of("Fair queues")
    async with harness(program["app"]) as h:
        await program["at_month_end"]()
        await h.settle()
    customers = [invoice.customer for invoice in program["rendered"]]
    assert len(customers) == 10_001
    assert customers.index("small") <= 30


async def test_Q48_the_example_without_a_handler_takes_what_is_there(tmp_path: Path) -> None:
    program = program_of("Receiving without a handler")
    program |= {"printed": program["app"].queue("printed", program["Invoice"])}
    url = f"sqlite:///{tmp_path}/shop.db"
    async with harness(program["app"], store=url, clock=VirtualClock(4e9)):
        id = await program["printed"].send(program["Invoice"]("ada", 1))
    assert await program["take_one"](url) == id


async def test_messages_are_looked_for_and_left_alone() -> None:
    program = program_of("Looking without taking")
    async with harness(program["app"]) as h:
        found = await program["of_ada"]()
        assert [json.loads(each.body)["number"] for each in found] == [91, 93, 95, 97, 99]
        assert {each.state for each in found} == {"delayed"}
        assert (found.examined, found.complete) == (100, False)
        assert len(h.queued(program["orders"])) == 100
        with pytest.raises(InvalidFilter, match="no field 'custumer'"):
            await program["orders"].peek(where="custumer=ada")


async def test_dead_letters_are_mended_on_their_way_back(capsys: pytest.CaptureFixture[str]) -> None:
    program = program_of("Dead letters")
    async with harness(program["app"]) as h:
        for number in (1, -2, 3, -4):
            await program["charges"].send(program["Invoice"]("ada", number))
        await h.settle()
        assert len(h.dead(program["charges"])) == 2
        assert await program["mend"]() == [("redrive", 2)]
        await h.settle()
        assert (sorted(program["charged"]), h.dead(program["charges"])) == ([0, 0, 1, 3], [])
    assert '"number":-2' in capsys.readouterr().out


async def test_the_limits_are_those_of_the_page() -> None:
    program = program_of()
    app, invoice = program["app"], program["Invoice"]
    large = app.queue("large", bytes, max_body=256 << 20)
    plain = app.queue("plain", bytes, max_body=1 << 20)
    async with harness(app):
        await plain.send(b"x" * (1 << 20))
        with pytest.raises(RefusedError, match="the limit is 1048576"):
            await plain.send(b"x" * ((1 << 20) + 1))
        await large.send(b"x" * ((1 << 20) + 1))
        await program["invoices"].send(invoice("ada", 1), delay=366 * 86_400)
        with pytest.raises(RefusedError, match="use 0 to 31622400 s, which is 366 days"):
            await program["invoices"].send(invoice("ada", 1), delay=367 * 86_400)


async def test_a_large_message_lies_beside_the_store_until_it_is_handled(tmp_path: Path) -> None:
    program = program_of("Large messages")
    async with harness(program["app"], store=f"sqlite:///{tmp_path}/shop.db") as h:
        await program["hand_in"]()
        await h.settle()
        assert program["seen"] == [200 << 20]
    assert not [found for found in (tmp_path / "shop.db-claims").rglob("*") if found.is_file()]
