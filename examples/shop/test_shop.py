"""How to test handlers: as the functions they are, and in the real engine under virtual time."""

from pipeflow.testing import harness
from shop import Order, Payments, Receipt, app, billing, charge, orders, receipts


class Flaky(Payments):
    def __init__(self) -> None:
        self.calls = 0

    async def charge(self, customer: str, amount: int, *, key: str) -> None:
        self.calls += 1
        if self.calls < 3:
            raise ConnectionError("bank is asleep")


async def test_charge_is_a_function() -> None:
    assert await charge(Order("1", "ada", 5), Payments()) == Receipt("1")


async def test_retries_until_the_bank_wakes() -> None:
    flaky = Flaky()
    async with harness(app, provide={Payments: flaky}) as h:  # the real engine, in memory, clock at zero
        await orders.publish(Order("1", "ada", 5), kind="placed")
        await h.settle()  # everything that can happen now has happened
        assert flaky.calls == 1
        assert h.published(receipts) == []
        await h.advance(600)  # ten minutes, a few milliseconds
        assert flaky.calls == 3
        assert h.published(receipts) == [Receipt("1")]
        assert h.dead(billing) == []
