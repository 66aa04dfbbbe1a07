"""An app with an outbox beside a database of its own."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Literal

import msgspec

from pipeflow import App, Outbox, Queue, Topic
from pipeflow.testing import Harness


class Order(msgspec.Struct, frozen=True):
    id: int


class Shop:
    """An app with an outbox beside its own database."""

    def __init__(self, place: Path) -> None:
        self.database = place / "app.db"
        self.app = App("shop", broker=f"sqlite:///{place}/shop.db")
        self.orders: Topic[Order] = self.app.topic("orders", Order)
        self.billing: Queue[Order] = self.app.queue("billing", Order, self.orders)
        self.ledger: Queue[Order] = self.app.queue("ledger", Order, fifo=True)
        self.mail: Queue[Order] = self.app.queue("mail", Order, max_body=1_000)
        self.late: Queue[Order] = self.app.queue("late", Order, delay=60)
        self.outbox: Outbox = self.app.outbox(str(self.database))
        connection = self.connect()
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        connection.commit()
        connection.close()

    def connect(self, isolation_level: Literal["DEFERRED"] | None = "DEFERRED") -> sqlite3.Connection:
        return sqlite3.connect(self.database, isolation_level=isolation_level)

    def place(self, *ids: int, commit: bool = True) -> None:
        """Orders with their messages, in one transaction."""
        connection = self.connect()
        for id in ids:
            connection.execute("INSERT INTO orders VALUES (?)", (id,))
            self.outbox.publish(connection, self.orders, Order(id), kind="placed")
        connection.commit() if commit else connection.rollback()
        connection.close()

    def rows(self, column: str = "id") -> list[Any]:
        """What lies in the outbox."""
        connection = self.connect()
        found = [row[0] for row in connection.execute(f"SELECT {column} FROM pipeflow_outbox ORDER BY id")]  # noqa: S608
        connection.close()
        return found


def ids(h: Harness, queue: Queue[Order]) -> list[int]:
    return [order.id for order in h.queued(queue)]
