"""What mypy refuses and what it accepts: payload types are proven from the publisher to the handler."""

import re
from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = '''
"""Lines that end with `# refused` must be the only ones that mypy objects to."""

import sqlite3
from collections.abc import AsyncIterator

import aiosqlite
import msgspec

from pipeflow import At, Batch, Context, Delivery, Handle, Message
from outcomes import bulk
from shop import Order, Receipt, app, billing, lake, orders, receipts


class Click(msgspec.Struct, frozen=True):
    url: str


one = app.queue("one", Order, orders)
two = app.queue("two", Order, orders.where_body({"customer": [{"prefix": "eu-"}]}))
three = app.queue("three", Order)
four = app.queue("four", Order, orders)
five = app.queue("five", Order, orders, app.topics_named("orders-*", Order), max_per_second=10)
app.webhook("partner", app.topics_named("orders-*", Order), url="https://example.org")


# A handler of another type
@billing.handler  # refused
async def another_type(click: Click) -> None: ...


# A handler that emits another type
@billing.handler(emit=receipts)  # refused
async def another_result(order: Order) -> int:
    return 1


# A batch handler of another type
@bulk.batch_handler(size=10)  # refused
async def another_batch(batch: Batch[Click]) -> None: ...


# A queue of another type than its topic
app.queue("bad", Receipt, orders)  # refused

# Or than the topics of its name
app.queue("worse", Receipt, app.topics_named("orders-*", Order).where(kind="placed"))  # refused


# A message of another type than its topic or queue, in a transaction
outbox = app.outbox("app.db")


async def another_message(own: sqlite3.Connection, theirs: aiosqlite.Connection) -> str:
    outbox.publish(own, orders, Receipt("1"))  # refused
    await outbox.send(theirs, billing, Receipt("1"))  # refused
    await outbox.publish(own, orders, Order("1", "ada", 5))  # refused
    outbox.publish("app.db", orders, Order("1", "ada", 5))  # refused
    first: str = outbox.send(own, billing, Order("1", "ada", 5), delay=60)
    return first + await outbox.publish(theirs, orders, Order("1", "ada", 5), kind="placed")


async def another_record() -> None:
    # A record of another type than its stream
    await lake.put(Receipt("1"))  # refused


async def another_payload(order: Order, ctx: Context) -> None:
    # A payload of another type than its topic
    ctx.publish(receipts, Order("1", "ada", 5))  # refused


# The forms that are right


@one.handler
async def plain(order: Order) -> None: ...


@two.handler(concurrency=4, timeout=10)
async def enveloped(message: Message[Order], ctx: Context) -> None:
    ctx.publish(receipts, Receipt(message.body.id))


@three.handler(emit=receipts)
async def emits(order: Order) -> Receipt | None:
    return None


@four.batch_handler(size=500, linger=0.5)
async def batched(batch: Batch[Order]) -> None:
    for message in batch:
        batch.fail(message, message.body.customer)


@app.middleware
async def passes(delivery: Delivery, call_next: Handle) -> object:
    return await call_next(delivery)


@app.source(orders)
async def replayed(position: int | None) -> AsyncIterator[At[int, Order]]:
    yield At(1, Order("1", "ada", 5))


async def publishes(order: Order) -> str:
    await orders.publish(order, kind="placed")
    await orders.publish(order, group=order.customer)
    await billing.send(order, delay=3600)
    await lake.put(order)
    await lake.put_many([order])
    return await orders.publish(order, attributes={"group": "an attribute"})


async def called_as_what_it_is(order: Order) -> Receipt | None:
    return await emits(order)
'''

CONFIG = f"""
[mypy]
strict = true
mypy_path = {ROOT}:{ROOT / "examples" / "shop"}
explicit_package_bases = true
namespace_packages = true

[mypy-isal.*,zstandard.*,uvloop.*]
ignore_missing_imports = true
"""


class Verdict:
    """What mypy said of the program, by line."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.refused = {int(line) for line in re.findall(r"^\S*program\.py:(\d+): error:", text, re.MULTILINE)}


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    folder = tmp_path_factory.mktemp("typing")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "mypy.ini").write_text(CONFIG)
    # The cache of the checkout, where there is one: the package is then not checked anew.
    cache = ROOT / ".mypy_cache" / "refusals"
    out, err, _ = api.run(
        ["--config-file", str(folder / "mypy.ini"), "--cache-dir", str(cache), str(folder / "program.py")]
    )
    assert not err
    return Verdict(out)


LINES = PROGRAM.splitlines()


def refused_after(comment: str) -> int:
    start = next(number for number, line in enumerate(LINES, 1) if line.strip() == f"# {comment}")
    return next(number for number in range(start, len(LINES)) if LINES[number - 1].endswith("# refused"))


@pytest.mark.parametrize(
    "what",
    [
        "A handler of another type",
        "A handler that emits another type",
        "A batch handler of another type",
        "A queue of another type than its topic",
        "A record of another type than its stream",
        "A payload of another type than its topic",
    ],
)
def test_mypy_refuses_the_line(what: str, verdict: Verdict) -> None:
    assert refused_after(what) in verdict.refused, verdict.text


def test_mypy_accepts_every_other_line(verdict: Verdict) -> None:
    expected = {number for number, line in enumerate(LINES, 1) if line.endswith("# refused")}
    assert verdict.refused == expected, verdict.text
    assert len(expected) > 10
