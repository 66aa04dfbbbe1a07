"""The examples are programs that work: each runs in the harness, on memory, and leaves no file behind."""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from pipeflow.testing import Chaos, harness

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
MODULES = [path.stem for path in SHOP.glob("*.py")]

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports modules of the example afresh: each test has an app of its own, in a folder that must stay empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(SHOP)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield import_module
    for name in MODULES:
        sys.modules.pop(name, None)
    assert list(tmp_path.iterdir()) == []


def test_every_file_of_the_example_is_run_here() -> None:
    text = Path(__file__).read_text()
    assert sorted(name for name in MODULES if f'load("{name}")' not in text) == []


async def test_the_tests_of_the_example_pass(load: Load) -> None:
    module = load("test_shop")
    tests = [getattr(module, name) for name in dir(module) if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        await test()


async def test_a_charge_and_its_receipt_are_one_and_a_refused_order_is_dead(load: Load) -> None:
    shop = load("shop")
    async with harness(shop.app) as h:
        await shop.orders.publish(shop.Order("1", "ada", 5), kind="placed")
        await shop.orders.publish(shop.Order("2", "ada", 0), kind="placed")
        await shop.orders.publish(shop.Order("3", "ada", 7), kind="cancelled")
        await h.advance(60)
        assert h.published(shop.receipts) == [shop.Receipt("1")]
        assert h.dead(shop.billing) == [shop.Order("2", "ada", 0)]
        lines = b"".join(h.objects(shop.lake).values()).splitlines()
        assert [msgspec.json.decode(line)["id"] for line in lines] == ["1", "2", "3"]


async def test_a_charge_happens_in_spite_of_misfortune(load: Load) -> None:
    shop = load("shop")
    async with harness(shop.app, seed=7, chaos=Chaos(crash=0.01, duplicate=0.05)) as h:
        for number in range(200):
            await shop.orders.publish(shop.Order(str(number), "ada", 5), kind="placed")
        await h.advance(3600)
        assert sorted(int(receipt.order) for receipt in h.published(shop.receipts)) == list(range(200))


async def test_outcomes_are_returned_raised_or_said_of_single_messages(load: Load) -> None:
    outcomes, shop = load("outcomes"), load("shop")
    async with harness(outcomes.app) as h:
        await shop.orders.publish(shop.Order("1", "ada", 5))
        await shop.orders.publish(shop.Order("2", "ada", 2_000_000))
        await shop.orders.publish(shop.Order("3", "ada", -1))
        await h.advance(1)
        assert sorted(receipt.order for receipt in h.published(shop.receipts)) == ["1", "2", "3"]
        assert len(h.queued(outcomes.retries)) == 3
        await h.advance(30)
        assert h.dead(outcomes.retries) == [shop.Order("2", "ada", 2_000_000)]
        assert h.queued(outcomes.retries) == []
        await h.advance(3600)
        assert h.dead(outcomes.bulk) == [shop.Order("3", "ada", -1)]


async def test_a_stream_drops_and_partitions_what_its_transform_says(load: Load) -> None:
    streams, shop = load("streams"), load("shop")
    async with harness(streams.app) as h:
        for customer in ("ada", "test", "bob"):
            await shop.orders.publish(shop.Order(customer, customer, 1))
        await h.advance(300)
        assert sorted(name.split("/")[0] for name in h.objects(streams.archive)) == ["ada", "bob"]


async def test_a_router_brings_its_queues_under_its_prefix(load: Load) -> None:
    main, invoicing, shop = load("main"), load("invoicing"), load("shop")
    assert invoicing.queue.name == "invoicing-orders"
    async with harness(main.app) as h:
        await shop.orders.publish(shop.Order("1", "ada", 5))
        await h.settle()
        assert h.queued(invoicing.queue) == []
        assert h.dead(invoicing.queue) == []


async def test_middleware_guards_every_handler(load: Load) -> None:
    guards, shop = load("guards"), load("shop")
    async with harness(guards.app) as h:
        await shop.orders.publish(shop.Order("1", "ada", 5), kind="placed", tenant="blocked")
        await shop.orders.publish(shop.Order("2", "ada", 5), kind="placed", tenant="good")
        await h.settle()
        assert h.published(shop.receipts) == [shop.Receipt("2")]
        assert h.queued(shop.billing) == h.dead(shop.billing) == []


async def test_a_source_replays_what_it_has_in_order(load: Load) -> None:
    ordered, shop = load("ordered"), load("shop")
    async with harness(ordered.app) as h:
        await h.settle()
        assert [int(order.id) for order in h.published(shop.orders)] == list(range(1, 1000))
        await ordered.ledger.send(shop.Order("1", "ada", 5), group="ada", dedup_id="1")
        await ordered.ledger.send(shop.Order("1", "ada", 5), group="ada", dedup_id="1")
        await ordered.clicks.put(b"click")
        await h.advance(60)
        assert h.queued(ordered.ledger) == []
        assert list(h.objects(ordered.clicks).values()) in ([b"click"], [b"click\n"])


async def test_a_web_process_places_orders_that_its_own_handlers_charge(load: Load) -> None:
    web, shop = load("web"), load("shop")
    assert {"/orders"} <= {getattr(route, "path", "") for route in web.web.routes}
    async with harness(web.app) as h:
        placed = await web.place({})
        await h.settle()
        assert placed["id"]
        assert h.published(shop.receipts) == [shop.Receipt("1")]
