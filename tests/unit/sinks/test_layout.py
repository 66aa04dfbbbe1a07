"""Firehose's prefixes: what they evaluate to, what is refused when a stream is declared, and that no name escapes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeflow.errors import ConfigurationError, RefusedError
from pipeflow.messages import Column
from pipeflow.names import check_name
from pipeflow.sinks import prefixes
from pipeflow.sinks.layout import Layout
from pipeflow.sinks.objects import ERRORS
from pipeflow.specs import StreamSpec

AT = datetime(2018, 8, 27, 10, 30, 1, 42_000, UTC).timestamp()
OWN = "lake-2018-08-27-10-30-01-000000000001-000000000500-3f9a0c1277aa"
ERROR_PREFIX = "errors/!{firehose:error-output-type}/"
CARRIER = "!{partitionKeyFromLambda:carrier}"


def layout(prefix: str | None = None, error_prefix: str | None = None, **changes: object) -> Layout:
    keyed = prefix is not None and "partitionKey" in prefix
    options = {"partitioned": keyed, "compression": "none", **changes}
    return Layout(StreamSpec("lake", "memory://lake", prefix=prefix, error_prefix=error_prefix, **options))  # type: ignore[arg-type]  # built from a dict


def name(of: Layout, partition: str = "", at: float = AT, first: int = 1, store: str = "3f9a0c12-77aa-4b") -> str:
    return of.name(partition, first=first, last=500, opened_at=at, store_id=store)


def beneath(of: Layout, partition: str = "") -> str:
    """The evaluated prefix."""
    return name(of, partition).partition("lake-2018")[0]


# What prefixes evaluate to


def test_S39_a_name_is_the_evaluated_prefix_and_the_stores_own_part_with_nothing_between() -> None:
    assert name(layout("in/!{timestamp:yyyy}/", ERROR_PREFIX)) == f"in/2018/{OWN}.jsonl"


def test_a_stream_without_a_prefix_keeps_the_names_that_pipeflow_gives() -> None:
    of = layout(partitioned=True)
    assert name(of, of.partition({"carrier": "UA"})) == f"carrier=UA/{OWN}.jsonl"
    assert name(of, ERRORS) == f"errors/{OWN}.jsonl"


@pytest.mark.parametrize(
    ("prefix", "evaluated"),
    [
        ("", "2018/08/27/10/"),
        ("legacy/", "legacy/2018/08/27/10/"),
        ("logs", "logs2018/08/27/10/"),
        ("r/!{firehose:random-string}/", r"r/[0-9a-f]{8}-[0-9a-f]{2}/2018/08/27/10/"),
        ("t/!{timestamp:yyyy}/", "t/2018/"),
        (f"c/{CARRIER}/", "c/UA/"),
    ],
)
def test_S44_a_prefix_without_time_or_keys_is_followed_by_the_hour_and_no_slash(prefix: str, evaluated: str) -> None:
    of = layout(prefix, ERROR_PREFIX)
    assert re.fullmatch(evaluated, beneath(of, of.partition({"carrier": "UA"}) if "carrier" in prefix else ""))


@pytest.mark.parametrize(
    ("prefix", "error_prefix", "evaluated"),
    [
        ("", None, "processing-failed/2018/08/27/10/"),
        ("logs/", None, "logs/processing-failed/2018/08/27/10/"),
        ("logs", None, "logsprocessing-failed/2018/08/27/10/"),
        (None, "bad/", "bad/"),
        (None, None, "errors/"),
        ("logs/", "bad/", "bad/"),
        ("!{timestamp:yyyy}/", "bad/", "bad/"),
        ("!{timestamp:yyyy}/", ERROR_PREFIX, "errors/processing-failed/"),
        ("x/", "!{firehose:error-output-type}/!{timestamp:MM}/", "processing-failed/08/"),
    ],
)
def test_S45_S46_failed_records_lie_where_the_error_prefix_says_or_what_follows_from_the_prefix(
    prefix: str | None, error_prefix: str | None, evaluated: str
) -> None:
    assert beneath(layout(prefix, error_prefix), ERRORS) == evaluated


def test_S42_every_time_in_a_name_is_the_instant_of_the_oldest_record_in_the_zone_that_is_declared() -> None:
    of = layout("!{timestamp:yyyy-MM-dd}/!{timestamp:HH}/", ERROR_PREFIX, timezone="Europe/Berlin")
    new_year = datetime(2012, 12, 31, 23, 30, tzinfo=UTC).timestamp()
    assert name(of, at=new_year).startswith("2013-01-01/00/lake-2012-12-31-23-30-00-")


def test_S43_random_strings_have_eleven_characters_and_differ_within_a_name_and_between_names() -> None:
    of = layout("!{firehose:random-string}/!{firehose:random-string}/!{timestamp:yyyy}/", ERROR_PREFIX)
    found = [part for first in (1, 501) for part in name(of, first=first).split("/")[:2]]
    assert len(set(found)) == 4
    assert all(re.fullmatch("[0-9a-f]{8}-[0-9a-f]{2}", part) for part in found)
    assert name(of, first=1) == name(of, first=1)
    assert name(of, store="another") != name(of)


def test_S43_no_random_string_comes_twice_from_one_seed_even_where_digests_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def repeating(text: bytes, digest_size: int) -> Any:
        return blake2b(str(int(text.rpartition(b"/")[2]) // 2).encode(), digest_size=digest_size)

    monkeypatch.setattr(prefixes, "blake2b", repeating)
    chance = prefixes.random_strings("seed")
    assert len({next(chance) for _ in range(100)}) == 100


def test_S41_both_key_namespaces_name_keys_that_partition_by_returns() -> None:
    of = layout("!{partitionKeyFromQuery:origin}/!{partitionKeyFromLambda:carrier}/", ERROR_PREFIX)
    partition = of.partition({"carrier": "UA", "origin": "JFK"})
    assert partition == "origin=JFK/carrier=UA"
    assert beneath(of, partition) == "JFK/UA/"


def test_S55_partitions_differ_by_their_keys_only_whatever_the_order_in_which_they_come() -> None:
    of = layout("!{partitionKeyFromQuery:a}/!{timestamp:HH}/!{partitionKeyFromQuery:b}/", ERROR_PREFIX)
    assert of.partition({"a": "1", "b": "2"}) == of.partition({"b": "2", "a": "1"})


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        ({}, ".jsonl"),
        ({"compression": "gzip"}, ".jsonl.gz"),
        ({"compression": "gzip", "extension": ".json.gz"}, ".json.gz"),
        ({"compression": "gzip", "extension": ""}, ""),
    ],
)
def test_S47_an_extension_replaces_the_one_of_format_and_compression(options: dict[str, object], ending: str) -> None:
    for partition in ("", ERRORS):
        assert name(layout(**options), partition) == f"{'errors/' if partition else ''}{OWN}{ending}"  # type: ignore[arg-type]  # built from a dict


def test_S63_the_extension_is_that_of_error_objects_too() -> None:
    assert name(layout("a/", extension=".log"), ERRORS).endswith("-errors.log")


def test_S63_failed_records_of_tables_stay_json_lines() -> None:
    of = layout("a/", extension=".tsv", format="csv", columns=(Column("number", "string"),))
    assert name(of).endswith(".tsv")
    assert name(of, ERRORS).endswith("-errors.jsonl")


def test_names_of_two_streams_are_never_one_whatever_their_prefixes() -> None:
    glued = Layout(StreamSpec("b", "memory://x", prefix="!{timestamp:'a-'}", error_prefix="e/"))
    plain = Layout(StreamSpec("a-b", "memory://x"))
    assert name(glued).startswith("a-b-2018")
    assert name(glued) != name(plain)


def test_good_and_failed_records_under_one_prefix_have_names_of_their_own() -> None:
    of = layout("a/!{timestamp:yyyy}/", "a/2018/")
    assert name(of).rpartition("/")[0] == name(of, ERRORS).rpartition("/")[0]
    assert name(of) != name(of, ERRORS)


# What is refused when a stream is declared


@pytest.mark.parametrize(
    ("prefix", "column", "wrong"),
    [
        ("a/!{timestamp:yyyy", 3, "never closed"),
        ("a/!{timestamp:!{x}}", 3, "another `!{`"),
        ("a/!{}", 3, "names no value"),
        ("a/!{timestamp}", 3, "names no value"),
        ("a/!{time:yyyy}", 3, "the namespace 'time' is unknown; use timestamp, firehose"),
        ("a/!{timestamp:yyyy-b}", 20, "the letter 'b' is unknown"),
        ("a/!{timestamp:yyyy'T}", 19, "never closed"),
        ("a/!{firehose:name}", 3, "use firehose:random-string"),
        ("a/!{firehose:error-output-type}/", 3, "error_prefix only"),
        ("a/!{partitionKeyFromQuery:}/", 3, "names no key"),
    ],
)
def test_S40_S41_an_expression_that_means_nothing_is_refused_by_its_column(
    prefix: str, column: int, wrong: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^stream lake: prefix .*column {column}: .*{re.escape(wrong)}"):
        layout(prefix, ERROR_PREFIX)


def test_S41_partition_keys_never_stand_in_an_error_prefix() -> None:
    with pytest.raises(ConfigurationError, match=r"error_prefix .*column 3: .*no partition"):
        layout(None, f"e/{CARRIER}/")


def test_S45_a_prefix_with_expressions_needs_an_error_prefix() -> None:
    with pytest.raises(ConfigurationError, match=r"column 4: .*needs an error_prefix; add error_prefix='errors/"):
        layout("in/!{timestamp:yyyy}/")


def test_S45_an_error_prefix_with_expressions_holds_the_type_of_error() -> None:
    with pytest.raises(ConfigurationError, match=r"add it: !\{firehose:error-output-type\}"):
        layout("in/", "e/!{timestamp:yyyy}/")


def test_S40_a_prefix_has_at_most_1024_characters_and_evaluates_to_at_most_512() -> None:
    quoted = "!{timestamp:MMMM'" + "a" * 200 + "/'}"  # September decides: 9 + 201 characters each
    fits = quoted * 2 + "b" * 92
    assert len(beneath(layout(fits, "e/"))) == 512 - 2 * len("September") + 2 * len("August")
    with pytest.raises(ConfigurationError, match="evaluates to 513 characters; use at most 512"):
        layout(fits + "b", "e/")
    with pytest.raises(ConfigurationError, match="1025 characters; use at most 1024"):
        layout("!{timestamp:yyyy}" * 60 + "/" * 5, "e/")


def test_S40_what_follows_a_prefix_counts_too() -> None:
    prefix = ("a" * 100 + "/") * 5
    with pytest.raises(ConfigurationError, match="evaluates to 519 characters with what follows it"):
        layout(prefix, "e/")


@pytest.mark.parametrize(
    ("prefix", "column"),
    [
        ("/a/", 1),
        ("a//b/", 3),
        ("!{timestamp:yyyy}/../", 19),
        ("!{timestamp:'../'yyyy}/", 1),
        ("a/-b/", 3),
        ("a/~b/", 3),
        ("a/\n/", 3),
        ("a\\b/", 1),
        ("cafe\u0301/", 1),
        ("a/.tmp-", 3),
        ("!{timestamp:yyyy}//!{timestamp:MM}", 19),
    ],
)
def test_S84_a_prefix_that_would_leave_the_root_or_mislead_a_system_is_refused(prefix: str, column: int) -> None:
    with pytest.raises(ConfigurationError, match=f"column {column}: "):
        layout(prefix, "e/")
    with pytest.raises(ConfigurationError, match="error_prefix"):
        layout(None, prefix + "!{firehose:error-output-type}")


@pytest.mark.parametrize("extension", ["gz", ".GZ", ".", ".a/b", "." + "x" * 128, ".a b", ".gz\n"])
def test_S47_an_extension_that_is_none_is_refused(extension: str) -> None:
    with pytest.raises(ConfigurationError, match="extension"):
        layout(extension=extension)


def test_S47_an_extension_that_makes_names_too_long_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="longer than 255 bytes; shorten it"):
        Layout(StreamSpec("s" * 64, "memory://x", extension="." + "x" * 127))


def test_S47_a_partition_that_is_too_long_with_the_extension_is_refused() -> None:
    long, spec = ["x" * 205] * 4, StreamSpec("s" * 60, "memory://x", partitioned=True)
    Layout(spec).partition(long)
    with pytest.raises(RefusedError, match="longer than 1024 bytes; use a shorter key"):
        Layout(replace(spec, extension="." + "x" * 90)).check("/".join(long))


@pytest.mark.parametrize("timezone", ["Mars/Base", "../UTC", "", "A" * 51])
def test_S42_a_zone_that_is_none_is_refused(timezone: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^stream lake: timezone .*Europe/Berlin"):
        layout("a/", timezone=timezone)


def test_S42_a_zone_without_a_prefix_is_refused_because_it_would_do_nothing() -> None:
    with pytest.raises(ConfigurationError, match="add one, or leave it out"):
        layout(timezone="Europe/Berlin")


def test_S50_S54_keys_in_the_prefix_and_partition_by_need_each_other() -> None:
    with pytest.raises(ConfigurationError, match="keys carrier, and nothing gives them; add partition_by"):
        layout(f"{CARRIER}/", ERROR_PREFIX, partitioned=False)
    with pytest.raises(ConfigurationError, match="uses no key of what partition_by returns"):
        layout("a/", partitioned=True)


# What is refused when a record is placed


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("UA", "return a dict with the key carrier"),
        (["UA"], "return a dict"),
        ({}, "the keys none, and the prefix uses carrier"),
        ({"origin": "JFK"}, "the keys origin, and the prefix uses carrier"),
        ({"carrier": "UA", "origin": "JFK"}, "exactly the key carrier"),
        ({"carrier": 7}, "return text"),
        ({"carrier": "x" * 260}, "too long"),
        ({"carrier": "\u20ac" * 90}, "too long"),
    ],
)
def test_S54_every_key_that_is_used_must_be_given_and_every_key_given_be_used(key: object, wrong: str) -> None:
    with pytest.raises(RefusedError, match=wrong):
        layout(f"{CARRIER}/", ERROR_PREFIX).partition(key)


def test_S40_values_that_make_a_prefix_too_long_are_refused_with_their_record() -> None:
    of = layout(f"{'a' * 200}/{CARRIER}/{CARRIER}/{CARRIER}/", ERROR_PREFIX)
    of.partition({"carrier": "x" * 102})
    with pytest.raises(RefusedError, match="evaluates to 513 characters, and at most 512"):
        of.partition({"carrier": "x" * 103})
    with pytest.raises(RefusedError, match="longer than 255 bytes; use a shorter key"):
        layout(f"{'a' * 200}{CARRIER}/", ERROR_PREFIX).partition({"carrier": "x" * 60})


@pytest.mark.parametrize("partition", ["", "UA", "origin=JFK", "carrier=UA/origin=JFK", "carrier=../x", "carrier=a b"])
def test_S57_a_partition_from_outside_that_the_prefix_cannot_name_is_refused(partition: str) -> None:
    with pytest.raises(RefusedError, match="partition"):
        layout(f"{CARRIER}/", ERROR_PREFIX).check(partition)
    with pytest.raises(RefusedError, match="its prefix uses no keys"):
        layout("a/").check("carrier=UA")


def test_an_empty_value_has_the_name_that_readers_of_hive_layouts_expect() -> None:
    of = layout(f"{CARRIER}/", ERROR_PREFIX)
    assert beneath(of, of.partition({"carrier": ""})) == "__HIVE_DEFAULT_PARTITION__/"


@pytest.mark.parametrize("value", ["con", "n", "1"])
def test_S84_names_that_some_systems_reserve_do_not_come_together_from_values(value: str) -> None:
    for prefix in (f"co{CARRIER}/", f"com{CARRIER}/", f"{CARRIER}/", f"com{CARRIER}.x/"):
        of = layout(prefix, ERROR_PREFIX)
        check_name(name(of, of.partition({"carrier": value})))


# What holds for every prefix

PIECES = st.sampled_from(
    [
        *("a", "b/", "/", ".", "..", "-", "co", "com", "con", "nul.", "year=", "\u00e9", " ", "~", "{", "}", "!"),
        *("!{timestamp:yyyy}", "!{timestamp:M/d}", "!{timestamp:MMMMM'x'}", "!{timestamp:'../'}", "!{timestamp:a}"),
        *("!{firehose:random-string}", CARRIER, "!{partitionKeyFromQuery:a b/..}"),
    ]
)
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2999, 1, 1), timezones=st.just(UTC))


@given(st.lists(PIECES, max_size=10).map("".join), st.text(max_size=40), st.text(max_size=8), TIMES)
@example("co!{partitionKeyFromLambda:carrier}/", "n", "", datetime(2013, 1, 1, tzinfo=UTC))
@example("com!{timestamp:M}/", "", "", datetime(2013, 1, 1, tzinfo=UTC))
@example("co!{timestamp:MMMMM}/", "", "", datetime(2013, 11, 1, tzinfo=UTC))
def test_S57_S84_no_prefix_that_is_taken_and_no_value_makes_a_name_that_leaves_the_root(
    prefix: str, carrier: str, other: str, at: datetime
) -> None:
    try:
        of = layout(prefix, "e/")
        keys = {"carrier": carrier} if CARRIER in prefix else {}
        keys |= {"a b/..": other} if "a b/.." in prefix else {}
        partition = of.partition(keys) if keys else ""
    except (ConfigurationError, RefusedError):
        return
    made = name(of, partition, at.timestamp())
    check_name(made)
    assert made == name(layout(prefix, "e/"), partition, at.timestamp())
    # Values add no segments, and the whole prefix stays within its bound.
    pattern = prefix.replace(CARRIER, "k").replace("!{partitionKeyFromQuery:a b/..}", "k")
    assert made.count("/") == name(layout(pattern, "e/"), "", at.timestamp()).count("/") - 4 * _gets_time(pattern, keys)
    assert len(made[: -len(made.rpartition("/")[2])]) <= 512


def _gets_time(pattern: str, keys: dict[str, str]) -> bool:
    """Without its keys the pattern may be one that the hour is added to."""
    return bool(keys) and "!{timestamp" not in pattern


def test_S54_a_remembered_key_never_stands_for_one_that_is_refused_or_named_otherwise() -> None:
    of = Layout(StreamSpec("lake", "memory://", partitioned=True))
    for _ in range(2):  # made, then remembered
        assert of.partition("a b") == "a%20b"
        assert of.partition(("a", "b")) == of.partition(["a", "b"]) == "a/b"
        assert of.partition({"a": "b"}) == "a=b"
        assert of.partition({1: "b"}) == "1=b"
        assert of.partition({True: "b"}) == "True=b"
        assert of.partitions(["a b", ["a", "b"], {"a": "b"}, "a b"]) == ["a%20b", "a/b", "a=b", "a%20b"]
        assert of.partition([None]) == "__HIVE_DEFAULT_PARTITION__"
        for refused in ([("a", "b")], {"a": 1}, {"a": ["b"]}, ["a", 1], 7, b"a b"):
            with pytest.raises(RefusedError):
                of.partition(refused)


def test_keys_are_remembered_within_a_bound() -> None:
    of = Layout(StreamSpec("lake", "memory://", partitioned=True))
    made = of.partitions(str(n) for n in range(10_000))
    assert made == [str(n) for n in range(10_000)]
    assert len(of._paths) <= 4_000
