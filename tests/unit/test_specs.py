"""Options are checked when they are made, and the message says what to write instead."""

from collections.abc import Callable
from math import inf, nan

import msgspec
import pytest

from pipeflow.errors import ConfigurationError, InvalidName
from pipeflow.specs import (
    DAY,
    Backoff,
    Buffering,
    FilterPolicy,
    QueueSpec,
    StreamSpec,
    Subscription,
    TopicSpec,
    Topology,
)


def test_Q10_the_defaults_of_a_queue_are_the_documented_ones() -> None:
    spec = QueueSpec("billing")
    assert (spec.visibility_timeout, spec.max_receives, spec.retention) == (30.0, 5, 4 * DAY)
    assert (spec.delay, spec.fifo, spec.max_body, spec.dead_letter_age) == (0.0, False, 2 << 30, "arrival")


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: QueueSpec("q", max_receives=0), "q: max_receives is 0; use 1 to 1000, or dead_letters=False"),
        (lambda: QueueSpec("q", max_receives=1001), "use 1 to 1000"),
        (lambda: QueueSpec("q", visibility_timeout=-1), "q: visibility_timeout is -1; use 0 to 43200 s"),
        (lambda: QueueSpec("q", visibility_timeout=43_201), "use 0 to 43200 s"),
        (lambda: QueueSpec("q", visibility_timeout=nan), "use 0 to 43200 s"),
        (lambda: QueueSpec("q", delay=-0.1), "q: delay is -0.1; use 0 s to a year"),
        (lambda: QueueSpec("q", delay=inf), "use 0 s to a year"),
        (lambda: QueueSpec("q", retention=0), "q: retention is 0; use more than 0 s"),
        (lambda: QueueSpec("q", retention=nan), "use more than 0 s"),
        (lambda: QueueSpec("q", max_in_flight=0), "q: max_in_flight is 0; use at least 1"),
        (lambda: QueueSpec("q", max_body=0), "q: max_body is 0; use 1 byte to 2 GiB"),
        (lambda: QueueSpec("q", max_body=(2 << 30) + 1), "use 1 byte to 2 GiB"),
        (lambda: QueueSpec("q", dead_letters="q"), "q: a queue cannot be its own dead letters"),
        (lambda: StreamSpec("lake", "./lake"), r"lake: sink './lake' is no URL; write file://\./\./lake"),
        (lambda: StreamSpec("lake", "memory://x", max_partitions=0), "lake: max_partitions is 0; use at least 1"),
        (lambda: StreamSpec("lake", "memory://x", max_buffered=1), "lake: max_buffered is below buffer_bytes"),
        (lambda: StreamSpec("lake", "memory://x", buffer_bytes=0), "use at least 1 byte and 0 seconds"),
        (lambda: StreamSpec("lake", "memory://x", max_record=0), "lake: max_record is 0; use at least 1"),
        (lambda: Buffering(seconds=nan), "use at least 1 byte and 0 seconds"),
        (lambda: Buffering(seconds=-1), "use at least 1 byte and 0 seconds"),
        (lambda: Backoff(base=-1), "use base >= 0, factor >= 1 and cap >= base"),
        (lambda: Backoff(factor=0.5), "factor >= 1"),
        (lambda: Backoff(base=10, cap=5), "cap >= base"),
    ],
)
def test_Q10_a_wrong_option_is_refused_with_advice(make: Callable[[], object], advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        make()


@pytest.mark.parametrize("option", ["sink", "failures"])
@pytest.mark.parametrize(
    "url", ["s3://KEY:CANARY@bucket/lake", "https://me:CANARY@host?x=@y", "sftp://me:CAN@ARY@host"]
)
def test_a_url_with_a_password_is_refused_and_not_repeated(option: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match=f"lake: {option} .*holds a password.*to the environment") as raised:
        StreamSpec("lake", **{"sink": "file://./lake", option: url}, retry_seconds=1)  # type: ignore[arg-type]
    assert "CAN" not in str(raised.value)


@pytest.mark.parametrize("name", ["secret_access_key", "access_key_id", "session_token", "SAS_TOKEN"])
@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_bucket_whose_url_holds_a_secret_is_refused_before_any_store_remembers_it(scheme: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"lake: sink {scheme}://... has the option '{name}'") as raised:
        StreamSpec("lake", f"{scheme}://bucket/lake?region=eu-west-1&{name}=canary")
    assert "canary" not in str(raised.value)


def test_other_options_of_a_bucket_and_keys_in_its_prefix_are_no_secrets() -> None:
    StreamSpec("lake", "s3://bucket/keys=a/lake?region=eu-west-1&anonymous=true&endpoint=http://127.0.0.1:9000")
    StreamSpec("lake", "https://example.com/in?api_key_name=x", compression="none")


@pytest.mark.parametrize(
    ("sink", "shown"),
    [
        ("https://host:8443/CANARY/b?k=CANARY", "https://host:8443"),
        ("https://host?k=CANARY", "https://host"),
        ("s3://bucket/lake?endpoint=https://s3.example.org", "s3://bucket/lake"),
        ("file:///data/lake", "file:///data/lake"),
    ],
)
def test_of_an_endpoint_only_the_host_is_shown(sink: str, shown: str) -> None:
    assert StreamSpec("lake", sink, compression="none").shown_sink == shown


def test_a_name_with_a_sign_of_users_in_it_is_no_password() -> None:
    assert StreamSpec("lake", "file://./a:b@c/lake").sink == "file://./a:b@c/lake"


@pytest.mark.parametrize(
    "make",
    [
        lambda: QueueSpec("a b"),
        lambda: QueueSpec("a", dead_letters="no good"),
        lambda: TopicSpec("a b"),
        lambda: StreamSpec("..", "memory://x"),
    ],
)
def test_a_noun_with_a_bad_name_cannot_be_made(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidName):
        make()


@pytest.mark.parametrize("option", [0, 1000 - 999, 43_200])
def test_Q10_the_ends_of_a_range_belong_to_it(option: float) -> None:
    assert QueueSpec("q", visibility_timeout=option).visibility_timeout == option


def test_backoff_doubles_up_to_its_cap() -> None:
    backoff = Backoff(base=1, factor=2, cap=300)
    assert [backoff.delay(attempt, 1.0) for attempt in (1, 2, 3, 9, 10, 11)] == [1, 2, 4, 256, 300, 300]


@pytest.mark.parametrize("factor", [1.0, 2.0, 5, 10.0, 1e6])
def test_backoff_never_overflows(factor: float) -> None:
    backoff = Backoff(factor=factor)
    assert 0 < backoff.delay(1000, 1.0) <= backoff.cap
    assert 0 < backoff.delay(100_000, 1.0) <= backoff.cap


def test_backoff_is_full_jitter_between_nothing_and_all() -> None:
    backoff = Backoff()
    assert backoff.delay(5, 0.0) == 0.0
    assert backoff.delay(5, 0.5) == 8.0


def test_S33_the_buffering_of_a_stream_is_size_or_time() -> None:
    assert StreamSpec("lake", "memory://x").buffering == Buffering(5 << 20, 60.0)


@pytest.mark.parametrize(
    ("spec", "separator"),
    [
        (StreamSpec("a", "memory://x"), b"\n"),
        (StreamSpec("a", "memory://x", format="raw"), b""),
        (StreamSpec("a", "memory://x", format="raw", delimiter=b"|"), b"|"),
        (StreamSpec("a", "memory://x", delimiter=b""), b""),
    ],
)
def test_S23_lines_end_with_a_newline_and_raw_records_with_nothing(spec: StreamSpec, separator: bytes) -> None:
    assert spec.separator == separator


def test_a_topology_survives_the_wire_and_is_checked_on_the_way_in() -> None:
    topology = Topology(
        topics=(TopicSpec("orders"),),
        queues=(QueueSpec("billing"),),
        streams=(StreamSpec("lake", "file://./lake"),),
        subscriptions=(Subscription("orders", "queue", "billing", FilterPolicy('{"kind":["placed"]}')),),
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(topology), type=Topology) == topology
    with pytest.raises(InvalidName, match="1 to 80"):
        msgspec.json.decode(b'{"queues":[{"name":"a b"}]}', type=Topology)


def test_specs_print_as_the_call_that_made_them() -> None:
    assert repr(Backoff(2.0)) == "Backoff(base=2.0, factor=2.0, cap=300.0)"
