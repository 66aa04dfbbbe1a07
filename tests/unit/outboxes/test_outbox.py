"""An outbox: a commit sends each message once, a rollback none, whatever happens between the two databases."""

from __future__ import annotations

import inspect
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import aiosqlite
import msgspec
import pytest
from outbox_shop import Order, Shop, ids

from pipeflow import App, ConfigurationError, Outbox, Queue, RefusedError, Topic
from pipeflow.messages import Outgoing
from pipeflow.registry import open_store
from pipeflow.specs import QueueSpec, Topology
from pipeflow.testing import Harness, harness


async def test_a_commit_publishes_and_a_rollback_does_not(shop: Shop) -> None:
    async with harness(shop.app) as h:
        shop.place(1)
        shop.place(2, commit=False)
        shop.place(3)
        await h.advance(1)
        assert ids(h, shop.billing) == [1, 3]
        assert h.published(shop.orders) == [Order(1), Order(3)]
        (first, _) = await h.runtime.store.peek("billing")
        assert first.attributes == {"kind": "placed"}


async def test_what_was_committed_before_the_app_ran_is_sent_when_it_runs(shop: Shop) -> None:
    shop.place(1, 2)
    async with harness(shop.app) as h:
        await h.advance(1)
        assert ids(h, shop.billing) == [1, 2]


async def test_files_of_one_name_are_outboxes_of_their_own(tmp_path: Path) -> None:
    """Rows of one that are older than the last that the other sent are sent, and what was sent is not sent again."""
    store = f"sqlite:///{tmp_path}/store.db"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    a, b = Shop(tmp_path / "a"), Shop(tmp_path / "b")
    b.place(1)
    a.place(2)
    sent: list[list[int]] = []
    for shop in (a, b, a, b):
        async with harness(shop.app, store=store) as h:
            await h.settle()
            sent.append(ids(h, shop.billing))
    assert sent == [[2], [2, 1], [2, 1], [2, 1]]


@pytest.mark.parametrize("older", [False, True])
async def test_a_table_that_the_program_made_is_given_its_identity_by_the_relay(tmp_path: Path, older: bool) -> None:
    """Where an older pipeflow relayed it, the relay goes on behind what that sent."""
    store = f"sqlite:///{tmp_path}/store.db"
    shop = Shop(tmp_path)
    shop.place(1)
    connection = shop.connect()
    connection.execute("DROP TABLE pipeflow_outbox_identity")
    (upto,) = connection.execute("SELECT max(id) FROM pipeflow_outbox").fetchone()
    connection.commit()
    connection.close()
    if older:
        async with harness(App("older"), store=store) as h:
            await h.runtime.store.declare(Topology(queues=(QueueSpec("elsewhere"),)))
            checkpoint = (shop.outbox.name, str(upto).encode())
            await h.runtime.store.send("elsewhere", [Outgoing(b"", checkpoint=checkpoint)])
    shop.place(2)
    for _ in range(2):
        async with harness(shop.app, store=store) as h:
            await h.settle()
            assert ids(h, shop.billing) == ([2] if older else [1, 2])


async def test_a_commit_of_this_process_is_seen_at_once_and_one_of_another_within_a_quarter_of_a_second(
    shop: Shop,
) -> None:
    async with harness(shop.app) as h:
        await h.advance(60)
        shop.place(1)
        await h.settle()
        assert ids(h, shop.billing) == [1]
        await h.advance(60)
        connection = shop.connect()
        connection.execute(
            "INSERT INTO pipeflow_outbox (kind, target, body, attributes) VALUES ('topic', 'orders', ?, ?)",
            ('{"id": 2}', '{"kind": "by hand"}'),
        )
        connection.commit()
        connection.close()
        await h.advance(0.25)
        assert ids(h, shop.billing) == [1, 2]


async def test_rows_are_deleted_a_while_after_they_were_sent(shop: Shop) -> None:
    async with harness(shop.app) as h:
        shop.place(1, 2)
        await h.settle()
        assert len(shop.rows()) == 2
        await h.advance(2)
        assert shop.rows() == []


async def test_messages_come_in_the_order_of_commits_over_topics_and_queues(shop: Shop) -> None:
    seen: list[tuple[str, int]] = []

    @shop.billing.handler(concurrency=1)
    async def bill(order: Order) -> None:
        seen.append(("billing", order.id))

    async with harness(shop.app) as h:
        connection = shop.connect()
        for n in range(1_200):
            if n % 7:
                shop.outbox.publish(connection, shop.orders, Order(n))
            else:
                shop.outbox.send(connection, shop.ledger, Order(n), group="g")
        connection.commit()
        connection.close()
        await h.advance(2)
        assert [id for _, id in seen] == [n for n in range(1_200) if n % 7]
        assert ids(h, shop.ledger) == [n for n in range(1_200) if not n % 7]


async def test_options_of_a_send_travel_with_it(shop: Shop) -> None:
    async with harness(shop.app) as h:
        connection = shop.connect()
        id = shop.outbox.send(
            connection,
            shop.mail,
            Order(1),
            delay=60,
            ttl=90,
            priority=4,
            key="k",
            urgent=True,
            attributes={"raw": b"\x00"},
        )
        shop.outbox.send(connection, shop.ledger, Order(2), group="a", dedup_id="once")
        shop.outbox.send(connection, shop.ledger, Order(3), group="a", dedup_id="once")
        connection.commit()
        await h.advance(1)
        (mail,) = await h.runtime.store.peek("mail")
        assert (mail.id, mail.state, mail.attributes) == (id, "delayed", {"urgent": True, "raw": b"\x00"})
        assert (mail.priority, mail.key, mail.expires_at) == (4, "k", mail.sent_at + 90)
        assert ids(h, shop.ledger) == [2]
        connection.close()


async def test_priorities_and_keys_travel_with_a_send(shop: Shop) -> None:
    async with harness(shop.app) as h:
        connection = shop.connect()
        shop.outbox.send(connection, shop.mail, Order(1))
        shop.outbox.send(connection, shop.mail, Order(2), priority=9)
        shop.outbox.send(connection, shop.mail, Order(3), delay=60, key="reminder")
        shop.outbox.send(connection, shop.mail, Order(4), delay=60, key="reminder")
        connection.commit()
        connection.close()
        await h.advance(1)
        assert ids(h, shop.mail) == [2, 1, 4]


async def test_with_aiosqlite_it_is_awaited(shop: Shop) -> None:
    async with harness(shop.app) as h, aiosqlite.connect(shop.database) as connection:
        await connection.execute("INSERT INTO orders VALUES (1)")
        id = await shop.outbox.publish(connection, shop.orders, Order(1))
        await h.advance(1)
        assert ids(h, shop.billing) == []
        await connection.commit()
        await h.advance(1)
        assert [message.id for message in await h.runtime.store.peek("billing")] == [id]
        await shop.outbox.send(connection, shop.mail, Order(2))
        await connection.rollback()
        await h.advance(1)
        assert ids(h, shop.mail) == []


async def test_threads_write_too(shop: Shop) -> None:
    async with harness(shop.app) as h:
        threads = [threading.Thread(target=shop.place, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        await h.advance(1)
        assert sorted(ids(h, shop.billing)) == list(range(8))


async def test_a_row_that_cannot_be_sent_is_set_aside_and_holds_up_no_other(shop: Shop) -> None:
    connection = shop.connect()
    shop.outbox.publish(connection, shop.orders, Order(1))
    connection.executemany(
        "INSERT INTO pipeflow_outbox (kind, target, body, attributes) VALUES (?, ?, ?, ?)",
        [
            ("topic", "odrers", "{}", None),
            ("stream", "orders", "{}", None),
            ("topic", "orders", "{}", "no json"),
            ("topic", "orders", "{}", "[]"),
            ("queue", "ledger", "{}", None),
        ],
    )
    for options in ('{"group": 5}', '{"gruop": "g"}'):
        connection.execute(
            "INSERT INTO pipeflow_outbox (kind, target, body, options) VALUES ('queue', 'mail', '{}', ?)", (options,)
        )
    shop.outbox.publish(connection, shop.orders, Order(2))
    connection.commit()
    connection.close()
    async with harness(shop.app) as h:
        await h.advance(10)
        assert ids(h, shop.billing) == [1, 2]
        reasons = shop.rows("failure")
        assert len(reasons) == 7
        assert "did you mean orders?" in reasons[0]
        assert "use topic or queue" in reasons[1]
        assert "unreadable" in reasons[2]
        assert "unreadable" in reasons[3]
        assert "needs group" in reasons[4]
        assert "Expected `str | null`, got `int`" in reasons[5]
        assert "unknown field `gruop`" in reasons[6]


async def test_what_was_set_aside_is_sent_when_it_is_retried(shop: Shop) -> None:
    connection = shop.connect()
    shop.outbox.publish(connection, shop.orders, Order(1))
    connection.execute("INSERT INTO pipeflow_outbox (kind, target, body) VALUES ('queue', 'post', '{\"id\": 2}')")
    shop.outbox.publish(connection, shop.orders, Order(3))
    connection.commit()
    async with harness(shop.app) as h:
        await h.advance(5)
        connection.execute("UPDATE pipeflow_outbox SET target = 'mail'")
        assert shop.outbox.retry(connection) == 1
        connection.commit()
        await h.advance(5)
        assert (ids(h, shop.billing), ids(h, shop.mail)) == ([1, 3], [2])
        assert shop.rows() == []
    connection.close()


async def test_what_was_set_aside_is_retried_through_aiosqlite_too(shop: Shop) -> None:
    shop.place(1)
    async with harness(shop.app) as h, aiosqlite.connect(shop.database) as connection:
        connection.row_factory = sqlite3.Row
        await connection.execute(
            "INSERT INTO pipeflow_outbox (kind, target, body) VALUES ('queue', 'post', '{\"id\": 2}')"
        )
        await connection.commit()
        await h.advance(5)
        await connection.execute("UPDATE pipeflow_outbox SET target = 'mail'")
        assert await shop.outbox.retry(connection) == 1
        await connection.rollback()
        await h.advance(5)
        assert ids(h, shop.mail) == []
        await connection.execute("UPDATE pipeflow_outbox SET target = 'mail'")
        assert await shop.outbox.retry(connection) == 1
        await connection.commit()
        await h.advance(5)
        assert ids(h, shop.mail) == [2]
        assert shop.rows() == []


def test_a_retry_with_what_is_no_connection_is_refused(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="is no connection of sqlite3 or aiosqlite"):
        shop.outbox.retry("app.db")  # type: ignore[call-overload]  # what is tested


async def test_a_restart_sends_nothing_again_and_leaves_nothing_out(shop: Shop, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/shop.db"
    async with harness(shop.app, store=store) as h:
        shop.place(1, 2)
        await h.settle()
        assert len(shop.rows()) == 2, "sent, and not yet deleted"
    shop.place(3)
    async with harness(shop.app, store=store) as h:
        await h.advance(5)
        assert [order["id"] for order in await bodies(h, "billing")] == [1, 2, 3]
        assert shop.rows() == []


async def test_a_database_that_is_made_anew_or_put_back_is_not_taken_for_the_old_one(
    shop: Shop, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/shop.db"
    shop.place(1)
    backup = shop.database.read_bytes()
    async with harness(shop.app, store=store) as h:
        shop.place(*range(2, 50))
        await h.advance(5)
        assert len(await bodies(h, "billing")) == 49
    shop.database.write_bytes(backup)
    shop.place(50)
    async with harness(shop.app, store=store) as h:
        await h.advance(5)
        assert [order["id"] for order in await bodies(h, "billing")] == list(range(1, 51))
    shop.database.unlink()
    connection = shop.connect()
    shop.outbox.publish(connection, shop.orders, Order(51))
    connection.commit()
    connection.close()
    async with harness(shop.app, store=store) as h:
        await h.advance(5)
        assert len(await bodies(h, "billing")) == 51


BY_HAND = "INSERT INTO pipeflow_outbox (kind, target, body) SELECT 'topic', 'orders', json_object('id', id) FROM orders"


async def test_rows_that_sql_wrote_after_a_restore_are_sent_in_their_order(shop: Shop, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/shop.db"
    shop.place(1)
    backup = shop.database.read_bytes()
    async with harness(shop.app, store=store) as h:
        shop.place(*range(2, 50))
        await h.advance(5)
    shop.database.write_bytes(backup)
    connection = shop.connect()
    connection.execute("DELETE FROM orders")
    connection.executemany("INSERT INTO orders VALUES (?)", [(n,) for n in range(50, 60)])
    connection.execute(BY_HAND + " ORDER BY id")
    connection.execute(BY_HAND + " WHERE id = 59")
    connection.commit()
    connection.close()
    written = shop.rows()
    assert written[1] - written[0] > 1, "lifted to the time"
    async with harness(shop.app, store=store) as h:
        await h.advance(5)
        assert [order["id"] for order in await bodies(h, "billing")] == [*range(1, 60), 59]
        assert shop.rows() == []


async def test_ids_that_sql_had_lifted_are_not_given_again_once_their_rows_are_gone(shop: Shop) -> None:
    shop.place(1)
    connection = shop.connect()
    ids: list[int] = []
    for _ in range(20):
        connection.execute(BY_HAND + " UNION ALL SELECT 'topic', 'orders', '{\"id\": 2}'")
        ids += [id for (id,) in connection.execute("SELECT id FROM pipeflow_outbox ORDER BY id")]
        connection.execute("DELETE FROM pipeflow_outbox")
    connection.commit()
    connection.close()
    assert ids == sorted(set(ids))
    assert len(ids) == 41


async def bodies(h: Harness, queue: str) -> list[dict[str, int]]:
    return [msgspec.json.decode(message.body) for message in await h.runtime.store.peek(queue, 1_000)]


async def test_the_app_runs_until_its_outbox_is_empty(shop: Shop) -> None:
    seen: list[int] = []

    @shop.billing.handler
    async def bill(order: Order) -> None:
        seen.append(order.id)

    shop.place(*range(700))
    await shop.app.run_until_idle()
    assert sorted(seen) == list(range(700))


async def test_the_file_of_a_store_is_refused(tmp_path: Path) -> None:
    app = App("shop", broker=f"sqlite:///{tmp_path}/shop.db")
    orders = app.topic("orders", Order)
    outbox = app.outbox(f"{tmp_path}/shop.db")
    with pytest.raises(ConfigurationError, match="this database is a store of pipeflow"):
        async with app:
            await app.run_until_idle()
    store = await open_store(f"sqlite:///{tmp_path}/other.db")
    await store.close()
    connection = sqlite3.connect(tmp_path / "other.db")
    with pytest.raises(ConfigurationError, match="this database is a store of pipeflow"):
        outbox.publish(connection, orders, Order(1))
    connection.close()


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "app.db").write_text("a text, and a long one at that: " * 100)
    app = App("shop", broker="memory://")
    app.outbox(f"{tmp_path}/app.db")
    with pytest.raises(ConfigurationError, match=r"file is not a database; name the SQLite file"):
        await app.run_until_idle()


def test_a_connection_without_a_transaction_is_refused(shop: Shop) -> None:
    connection = shop.connect(isolation_level=None)
    with pytest.raises(ConfigurationError, match="execute BEGIN first"):
        shop.outbox.publish(connection, shop.orders, Order(1))
    connection.execute("BEGIN")
    shop.outbox.publish(connection, shop.orders, Order(1))
    connection.execute("COMMIT")
    connection.close()
    assert len(shop.rows()) == 1


@pytest.mark.parametrize(
    ("write", "advice"),
    [
        (lambda shop, c: shop.outbox.send(c, shop.ledger, Order(1)), "needs group="),
        (lambda shop, c: shop.outbox.send(c, shop.ledger, Order(1), group="a b"), "no spaces"),
        (lambda shop, c: shop.outbox.send(c, shop.mail, Order(1), delay=-1), "use 0 to 31622400 s"),
        (lambda shop, c: shop.outbox.send(c, shop.mail, Order(1), delay="5"), "use a number of seconds"),
        (lambda shop, c: shop.outbox.send(c, shop.mail, Order(1), ttl="5"), "use a number of seconds"),
        (lambda shop, c: shop.outbox.send(c, shop.mail, Order(1), ttl=-1), "ttl is -1"),
        (lambda shop, c: shop.outbox.send(c, shop.mail, Order(1), priority=10), "priority is 10"),
        (lambda shop, c: shop.outbox.send(c, shop.ledger, Order(1), group="a", key="k"), "FIFO"),
        (lambda shop, c: shop.outbox.send(c, shop.mail, Order(10**1_000)), "the limit is 1000"),
        (lambda shop, c: shop.outbox.send(c, shop.late, Order(1), ttl=60), "ttl is 60 and the queue's delay 60"),
        (lambda shop, c: shop.outbox.send(c, shop.orders, Order(1)), "is no queue"),
        (lambda shop, c: shop.outbox.publish(c, shop.mail, Order(1)), "is no topic"),
        (lambda shop, c: shop.outbox.publish("app.db", shop.orders, Order(1)), "no connection of sqlite3"),
    ],
)
def test_what_would_be_set_aside_is_refused_while_somebody_sees_it(
    shop: Shop, write: Callable[[Shop, sqlite3.Connection], object], advice: str
) -> None:
    connection = shop.connect()
    with pytest.raises((RefusedError, ConfigurationError), match=advice):
        write(shop, connection)
    connection.commit()
    connection.close()


def test_two_outboxes_of_one_name_are_refused() -> None:
    app = App("shop", broker="memory://")
    app.outbox("a/app.db")
    app.outbox("b/app.db")
    with pytest.raises(ConfigurationError, match="give one another"):
        app.topology()
    with pytest.raises(ConfigurationError, match="use letters, digits and underscores"):
        app.outbox("app.db", table="a; DROP TABLE b")


def test_an_outbox_takes_every_option_that_topics_and_queues_take() -> None:
    def options(method: Callable[..., object]) -> set[str]:
        kinds = {name: each.kind for name, each in inspect.signature(method).parameters.items()}
        return {name for name, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY}

    assert options(Outbox.publish) == options(Topic.publish) - {"instead"}
    assert options(Outbox.send) == options(Queue.send)
