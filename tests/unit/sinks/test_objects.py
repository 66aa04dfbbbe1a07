"""Names of objects: deterministic, the store's own, and never a way out of the root."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeflow.errors import ObjectRefused, RefusedError
from pipeflow.names import check_name
from pipeflow.sinks.objects import EMPTY, ERRORS, check_partition, object_name, partition_path


def name(**changes: object) -> str:
    options = {
        "partition": "",
        "first": 1,
        "last": 500,
        "opened_at": 1_357_017_300.25,
        "store_id": "3f9a0c12-77aa-4b",
        "format": "jsonl",
        "compression": "gzip",
        **changes,
    }
    return object_name("lake", **options)  # type: ignore[arg-type]  # built from a dict


def test_S42_a_name_carries_stream_time_of_the_oldest_record_range_and_store() -> None:
    assert name() == "lake-2013-01-01-05-15-00-000000000001-000000000500-3f9a0c1277aa.jsonl.gz"


def test_the_same_segment_gets_the_same_name() -> None:
    assert name(partition="a/b") == name(partition="a/b")


def test_names_of_memory_streams_carry_the_boot_as_their_sequences_start_anew() -> None:
    assert "-b7-000000000001-" in name(boot=7)


@pytest.mark.parametrize(
    ("format", "compression", "extension"),
    [
        ("jsonl", "gzip", ".jsonl.gz"),
        ("jsonl", "none", ".jsonl"),
        ("jsonl", "zstd", ".jsonl.zst"),
        ("jsonl", "zip", ".jsonl.zip"),
        ("raw", "snappy", ".snappy"),
        ("jsonl", "hadoop-snappy", ".jsonl.hsnappy"),
        ("raw", "gzip", ".gz"),
        ("raw", "none", ""),
    ],
)
def test_S47_the_extension_follows_format_and_compression(format: str, compression: str, extension: str) -> None:
    assert name(format=format, compression=compression).endswith(f"3f9a0c1277aa{extension}")


def test_S63_errors_lie_under_their_prefix_as_json_lines_with_the_same_compression() -> None:
    failed = name(partition=ERRORS, format="raw")
    assert failed.startswith("errors/lake-")
    assert failed.endswith(".jsonl.gz")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("UA", "UA"),
        (("UA", "2013-01-01"), "UA/2013-01-01"),
        ({"carrier": "UA", "day": "2013-01-01"}, "carrier=UA/day=2013-01-01"),
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("../etc", "%2E.%2Fetc"),
        ("-rf", "%2Drf"),
        ("~root", "%7Eroot"),
        ("a\\b\0c", "a%5Cb%00c"),
        ("Zürich", "Z%C3%BCrich"),
        ("100%", "100%25"),
        ("a=b", "a%3Db"),
        ("con", "%63on"),
        ("NUL.txt", "%4EUL.txt"),
        ("end.", "end%2E"),
        ("", EMPTY),
        ({"gate": ""}, f"gate={EMPTY}"),
        ("!errors", "%21errors"),
    ],
)
def test_S56_values_from_data_are_percent_encoded_always(key: object, path: str) -> None:
    assert partition_path(key) == path


@pytest.mark.parametrize("key", [7, None, b"raw", (), {}, ("a", 1), {"a": 1}, "x" * 300, ["y"] * 600])
def test_S57_a_key_that_is_no_text_or_too_long_is_refused(key: object) -> None:
    with pytest.raises(RefusedError):
        partition_path(key)


@given(st.text(max_size=60) | st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_S57_no_text_whatever_makes_a_name_that_leaves_the_root(key: str | list[str]) -> None:
    try:
        path = partition_path(key)
    except RefusedError:
        return
    segments = check_name(name(partition=path))
    assert len(segments) == (1 if isinstance(key, str) else len(key)) + 1
    check_partition(path)


@pytest.mark.parametrize("path", ["../x", "a//b", "/a", "a/..", "a b", "-x", "a\n", "~a", "a/./b"])
def test_S57_a_partition_from_outside_that_was_not_encoded_is_refused(path: str) -> None:
    with pytest.raises(RefusedError, match="partition"):
        check_partition(path)


@pytest.mark.parametrize(
    "bad",
    ["", "/a", "a//b", "../a", "a/..", "a\0", "a\\b", "-a", "~a", "aux/x", "e\u0301", "x" * 256, "a/" * 512 + "b"],
)
def test_S84_a_name_that_could_leave_the_root_is_refused(bad: str) -> None:
    with pytest.raises(ObjectRefused):
        check_name(bad)
