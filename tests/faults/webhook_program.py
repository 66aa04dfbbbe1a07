"""A program that publishes numbered messages to a topic with a webhook, and prints each once it is on disk.

webhook_program.py DATABASE URL FIRST COUNT
"""

from __future__ import annotations

import sys

import anyio

from pipeflow import App, DeliveryPolicy


async def main(database: str, url: str, first: int, count: int) -> None:
    app = App("hooks", broker=f"sqlite:///{database}")
    orders = app.topic("orders", int)
    app.webhook(
        "hook", orders, url=url, handshake=False, timeout=5, retry=DeliveryPolicy(retries=90, no_delay_retries=90)
    )
    async with app:
        for number in range(first, first + count):
            await orders.publish(number)
            print(number, flush=True)
        await app.run_until_idle()
        print("delivered", flush=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
