"""Names, ids and receipts."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest

from pipeflow.errors import InvalidName
from pipeflow.messages import Receipt
from pipeflow.names import (
    Chance,
    IdPool,
    chance_source,
    digest,
    new_secret,
    open_receipt,
    queue_name,
    seal_receipt,
    source_name,
    stream_name,
    topic_name,
    valid_group,
)


@pytest.mark.parametrize("name", ["a", "A-z_0", "q" * 80])
def test_Q5_a_good_queue_name_is_given_back(name: str) -> None:
    assert queue_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a.b", "q" * 81, "ö", "a/b", "a\n", "orders.fifo"])
def test_Q5_a_bad_queue_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidName, match="use 1 to 80 letters, digits, hyphens or underscores") as caught:
        queue_name(name)
    assert repr(name) in str(caught.value)


def test_Q5_the_fifo_suffix_is_an_option_not_a_name() -> None:
    with pytest.raises(InvalidName, match="fifo=True"):
        queue_name("orders.fifo")
    with pytest.raises(InvalidName, match="fifo=True"):
        topic_name("orders.fifo")


@pytest.mark.parametrize("name", ["a", "Orders_1-x", "t" * 256])
def test_T1_a_good_topic_name_is_given_back(name: str) -> None:
    assert topic_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "t" * 257, "a.b", "x\n"])
def test_T1_a_bad_topic_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="1 to 256"):
        topic_name(name)


@pytest.mark.parametrize("name", ["a", "lake.2013-01_x", "s" * 64, "..a"])
def test_S1_a_good_stream_name_is_given_back(name: str) -> None:
    assert stream_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "s" * 65, "a b", "x\n"])
def test_S1_a_stream_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="1 to 64"):
        stream_name(name)


@pytest.mark.parametrize("name", ["shop.py:replay", "module.function"])
def test_a_source_may_be_named_after_its_function(name: str) -> None:
    assert source_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "<lambda>"])
def test_a_bad_source_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="source"):
        source_name(name)


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("a", True),
        ("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a b", False),
        ("ä", False),
        ("a\n", False),
        ("\x7f", False),
    ],
)
def test_Q38_groups_and_dedup_ids_are_printable_ascii_without_spaces(value: str, good: bool) -> None:
    assert valid_group(value) is good


UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")


@pytest.mark.parametrize("seed", [None, 7])
def test_ids_are_version_7_uuids_and_unique(seed: int | None) -> None:
    pool = IdPool(seed)
    made = [pool.new(1_700_000_000.0 + n / 1000) for n in range(2000)]
    assert all(UUID7.match(each) for each in made)
    assert len(set(made)) == len(made)


def test_ids_sort_by_time_to_the_millisecond() -> None:
    pool = IdPool()
    made = [pool.new(n / 1000) for n in range(0, 5000, 7)]
    assert made == sorted(made)


def test_ids_never_go_back_when_the_clock_does() -> None:
    pool = IdPool()
    later = pool.new(100.0)
    earlier = pool.new(50.0)
    assert earlier[:13] == later[:13]


def test_ids_of_one_seed_repeat() -> None:
    one, two, other = IdPool(3), IdPool(3), IdPool(4)
    assert [one.new(n) for n in range(5)] == [two.new(n) for n in range(5)]
    assert one.new(9) != other.new(9)


def test_pooled_entropy_is_never_given_out_twice() -> None:
    pool = IdPool()
    tails = {pool.new(0)[14:] for _ in range(1000)}
    assert len(tails) == 1000


def test_chance_stays_in_its_range_and_repeats_by_seed() -> None:
    one, two = Chance(1), chance_source(1)
    rolls = [one.roll() for _ in range(100)]
    assert all(0 <= roll < 1 for roll in rolls)
    assert rolls == [two.roll() for _ in range(100)]


def test_secrets_differ() -> None:
    assert len(new_secret()) == 32
    assert new_secret() != new_secret()


KEY = b"k" * 32
RECEIPT = Receipt(place=2**40, boot=3, receive=17)


def test_Q58_a_sealed_receipt_opens_to_itself() -> None:
    handle = seal_receipt(KEY, "billing", RECEIPT)
    assert open_receipt(KEY, "billing", handle) == RECEIPT
    assert re.fullmatch(r"[A-Za-z0-9_-]+", handle), "a handle travels in URLs and headers"


def test_Q58_another_queues_or_another_keys_receipt_does_not_open() -> None:
    handle = seal_receipt(KEY, "billing", RECEIPT)
    assert open_receipt(KEY, "audit", handle) is None
    assert open_receipt(b"x" * 32, "billing", handle) is None


@pytest.mark.parametrize("handle", ["", "x", "garbage", "ö", "A" * 500, "=", "!!!!"])
def test_Q58_garbage_opens_to_nothing(handle: str) -> None:
    assert open_receipt(KEY, "billing", handle) is None


def test_Q58_every_flipped_bit_is_noticed() -> None:
    handle = seal_receipt(KEY, "billing", RECEIPT)
    raw = urlsafe_b64decode(handle + "=" * (-len(handle) % 4))
    for bit in range(len(raw) * 8):
        forged = bytearray(raw)
        forged[bit // 8] ^= 1 << (bit % 8)
        assert open_receipt(KEY, "billing", urlsafe_b64encode(bytes(forged)).decode().rstrip("=")) is None


def test_a_digest_is_a_fingerprint_of_the_asked_size() -> None:
    assert digest(b"a") == digest(b"a") != digest(b"b")
    assert len(digest(b"a", size=8)) == 8
