"""The values that move survive the wire, and a batch knows what failed."""

import msgspec
import pytest

from pipeflow.messages import (
    Ack,
    At,
    Batch,
    Bury,
    Defer,
    Delivery,
    Emit,
    Extend,
    Failure,
    Message,
    Outgoing,
    Position,
    Receipt,
    Refused,
    Release,
    Sent,
    Settled,
    Settlement,
    Stale,
)

RECEIPT = Receipt(1, 2, 3)


def message(id: str, body: int = 0) -> Message[int]:
    return Message(
        body=body,
        id=id,
        attempt=1,
        sent_at=0.0,
        attributes={},
        headers={},
        group=None,
        dedup_id=None,
        sequence=1,
        queue="billing",
        deadline=30.0,
    )


@pytest.mark.parametrize(
    "settlement",
    [
        Ack(RECEIPT),
        Ack(RECEIPT, [Emit("topic", "receipts", Outgoing(b"{}", attributes={"kind": "x"}))], superseded_ok=True),
        Defer(RECEIPT, 4.5, Failure(1.0, 2, "ValueError", "no", "0badcafe")),
        Extend(RECEIPT, 30.0),
        Bury(RECEIPT, Failure(1.0, 5, "Reject", "never")),
        Release(RECEIPT),
    ],
)
def test_a_settlement_comes_out_of_the_wire_as_it_went_in(settlement: Settlement) -> None:
    wire = msgspec.msgpack.encode([settlement])
    assert msgspec.msgpack.decode(wire, type=list[Ack | Defer | Extend | Bury | Release]) == [settlement]


@pytest.mark.parametrize("answer", [Sent("id", 4, True), Refused("TooLarge", "billing: 2 MiB"), Settled(), Stale()])
def test_an_answer_comes_out_of_the_wire_as_it_went_in(answer: Sent | Refused | Settled | Stale) -> None:
    wire = msgspec.msgpack.encode(answer)
    assert msgspec.msgpack.decode(wire, type=Sent | Refused | Settled | Stale) == answer


@pytest.mark.parametrize("value", ["text", 1, 1.5, True, b"\x00\xff", ["a", 1, True, None]])
def test_every_kind_of_attribute_survives_the_wire(value: object) -> None:
    outgoing = Outgoing(b"body", attributes={"a": value})  # type: ignore[dict-item]  # the parameter is each kind in turn
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(outgoing), type=Outgoing)
    assert decoded.attributes is not None
    # msgpack says str and bytes apart on the wire; the union must too.
    assert decoded.attributes["a"] == value
    assert type(decoded.attributes["a"]) is type(value)


def test_a_delivery_survives_the_wire_with_its_history() -> None:
    delivery = Delivery(
        id="m",
        queue="billing",
        body=b"{}",
        receipt=RECEIPT,
        attempt=2,
        sent_at=1.0,
        deadline=31.0,
        sequence=9,
        attributes={"kind": "placed"},
        failures=[Failure(1.0, 1, "ValueError", "no")],
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(delivery), type=Delivery) == delivery


def test_values_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        RECEIPT.receive = 4  # type: ignore[misc]  # that it is refused is the point


def test_positions_compare_in_the_order_of_acceptance() -> None:
    assert Position(1) < Position(2)
    assert max(Position(3), Position(10)) == Position(10)


def test_a_batch_iterates_counts_and_remembers_what_failed() -> None:
    batch = Batch([message("a"), message("b")])
    assert [each.id for each in batch] == ["a", "b"]
    assert len(batch) == 2
    batch.fail(batch.messages[1], "negative total")
    assert batch.failed == {"b": "negative total"}
    assert repr(batch) == "Batch(2 messages, 1 failed)"


def test_a_message_of_another_batch_cannot_fail_this_one() -> None:
    batch = Batch([message("a")])
    with pytest.raises(ValueError, match="message z is not part of this batch"):
        batch.fail(message("z"))
    with pytest.raises(ValueError, match="not part of this batch"):
        batch.fail(message("a"))  # equal is not the same


def test_two_positions_with_attributes_do_not_share_a_dict() -> None:
    one, two = At(1, "x"), At(2, "y")
    assert one.attributes is not two.attributes
