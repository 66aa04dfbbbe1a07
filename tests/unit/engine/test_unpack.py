"""What a record holds: decompressed within bounds, split into parts, and of log documents the messages."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeflow.engine.unpack import (
    FREE,
    MEMBERS,
    Unpackable,
    gunzip,
    messages,
    split_at,
    split_json,
    unpack_all,
    unpacker,
)
from pipeflow.errors import ConfigurationError
from pipeflow.specs import StreamSpec

LIMIT = 16 << 20


def spec(**options: object) -> StreamSpec:
    return StreamSpec("lake", "memory://lake", **options)  # type: ignore[arg-type]


def document(*lines: str, kind: str = "DATA_MESSAGE") -> bytes:
    """A document as CloudWatch Logs sends it to its subscribers."""
    events = [{"id": str(n), "timestamp": n, "message": line} for n, line in enumerate(lines)]
    return json.dumps(
        {"messageType": kind, "owner": "1", "logGroup": "g", "logStream": "s", "logEvents": events}
    ).encode()


# Decompressing


@pytest.mark.parametrize("body", [b"", b"x", b"a" * 70_000, bytes(range(256)) * 3_000])
def test_S22_a_gzipped_record_is_decompressed(body: bytes) -> None:
    assert gunzip(gzip.compress(body), LIMIT) == body


def test_S22_several_gzip_files_joined_and_padded_are_one_record() -> None:
    assert (
        gunzip(gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"b" * 100_000), LIMIT) == b"a" + b"b" * 10**5
    )
    assert gunzip(gzip.compress(b"a") + b"\0" * 9, LIMIT) == b"a"


def test_S22_gzip_inside_gzip_is_not_followed() -> None:
    inner = gzip.compress(b"a")
    assert gunzip(gzip.compress(inner), LIMIT) == inner


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"plain",
        zlib.compress(b"a"),
        gzip.compress(b"abc")[:-1],
        gzip.compress(b"a") + b"x",
        gzip.compress(b"a")[:5],
    ],
)
def test_S22_what_is_no_gzip_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(Unpackable) as raised:
        gunzip(body, LIMIT)
    assert raised.value.code == "Decompression.InvalidGzip"


def test_S22_a_record_that_unpacks_to_more_than_max_record_is_given_up_before_it_is_in_memory() -> None:
    with pytest.raises(Unpackable, match="raise max_record") as raised:
        gunzip(gzip.compress(b"a" * 1_001), 1_000)
    assert raised.value.code == "Decompression.TooLarge"
    assert gunzip(gzip.compress(b"a" * 1_000), 1_000) == b"a" * 1_000


def test_S22_a_bomb_is_given_up_at_a_hundred_times_its_size() -> None:
    bomb = gzip.compress(bytes(100 << 20))
    with pytest.raises(Unpackable, match="more than 100 times as many"):
        gunzip(bomb, 1 << 30)
    assert len(gunzip(gzip.compress(bytes(FREE)), LIMIT)) == FREE, "a mebibyte may be as empty as it likes"


def test_S22_a_record_of_ever_so_many_gzip_files_is_given_up() -> None:
    empty = gzip.compress(b"")
    assert gunzip(empty * MEMBERS, LIMIT) == b""
    with pytest.raises(Unpackable, match="join fewer"):
        gunzip(empty * (MEMBERS + 1), LIMIT)


# Splitting


def test_S20_S21_json_objects_are_split_in_order_however_they_are_spaced() -> None:
    assert split_json(b' {"a":1}{"b":"}{"}\n\n{"c":[{}, 1]}\t') == [b'{"a":1}', b'{"b":"}{"}', b'{"c":[{}, 1]}']


@pytest.mark.parametrize(
    "body",
    [b'[{"a":1},{"a":2}]', b'{"a":1}[1]', b'{"a":1}x', b'{"a":1', b"1 2", b"plain", b'{"a":1},{"a":2}', b"\xff\xfe"],
)
def test_S20_an_array_and_what_is_no_row_of_objects_are_left_whole(body: bytes) -> None:
    assert split_json(body) == [body]


@pytest.mark.parametrize("deep", [b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"[" * 100_000, b'{"a":' * 100_000])
def test_S20_however_deep_a_record_nests_it_is_left_whole(deep: bytes) -> None:
    assert split_json(deep) == [deep]


def test_S20_S21_delimiters_and_newlines_are_removed_from_parts() -> None:
    assert split_at(b"a####b\n####\r\nc####", b"####") == [b"a", b"b", b"c"]
    assert split_at(b"a\nb\n", b"\n") == [b"a", b"b"]
    assert split_at(b"plain", b"####") == [b"plain"]


@pytest.mark.parametrize("count", [500, 501])
def test_S20_a_record_of_more_than_500_parts_is_passed_on_undivided(count: int) -> None:
    documents, delimited = b"{}" * count, b"x|" * count
    assert len(split_json(documents)) == len(split_at(delimited, b"|")) == (count if count <= 500 else 1)
    if count > 500:
        assert split_json(documents) == [documents]
        assert split_at(delimited, b"|") == [delimited]


def test_S20_a_record_with_nothing_in_it_has_no_parts() -> None:
    assert split_json(b" \n") == split_at(b"##\n##", b"##") == []


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["{", "}", '"', "\\", '\\"', "]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
spaces = st.text(alphabet=" \t\r\n", max_size=3)


def naive(body: str) -> list[str] | None:
    """One document after the other with the decoder of the standard library; None: it is no row of objects."""
    found, at = [], 0
    while rest := body[at:].lstrip(" \t\r\n"):
        start = len(body) - len(rest)
        try:
            value, at = json.JSONDecoder().raw_decode(body, start)
        except ValueError:
            return None
        if not isinstance(value, dict):
            return None
        found.append(body[start:at])
    return found


@given(
    st.lists(st.tuples(spaces, st.dictionaries(st.text(max_size=4), values, max_size=3)), max_size=6),
    spaces,
    st.booleans(),
    st.sampled_from(["", "", "", "{", "]", "1", "null"]),
)
def test_S20_S21_splitting_finds_what_a_naive_reader_finds(
    documents: list[tuple[str, dict[str, object]]], end: str, ascii: bool, damage: str
) -> None:
    body = "".join(space + json.dumps(value, ensure_ascii=ascii) for space, value in documents) + end + damage
    try:
        encoded = body.encode()
    except UnicodeEncodeError:
        return
    expected = naive(body)
    assert split_json(encoded) == ([encoded] if expected is None else [each.encode() for each in expected])


@given(st.lists(st.binary(max_size=6), max_size=8), st.sampled_from([b"#", b"##", b"ab"]))
def test_S20_S21_splitting_at_a_delimiter_gives_the_parts_in_order(parts: list[bytes], delimiter: bytes) -> None:
    found = split_at(delimiter.join(parts), delimiter)
    assert b"".join(found) == b"".join(piece.strip(b"\r\n") for piece in delimiter.join(parts).split(delimiter))
    assert all(found)
    assert not any(delimiter in part for part in found)


# Log documents


def test_S22_of_a_log_document_the_messages_are_kept_in_order() -> None:
    assert messages(document("first", "zwölf", '{"a":1}')) == [b"first", "zwölf".encode(), b'{"a":1}']


def test_S22_a_control_message_holds_nothing() -> None:
    assert messages(document("CWL CONTROL MESSAGE: Checking health", kind="CONTROL_MESSAGE")) == []


@pytest.mark.parametrize(
    "body",
    [
        b"plain",
        b"{}",
        b"[]",
        b'{"messageType":"DATA_MESSAGE"}',
        document("a", kind="OTHER"),
        b'{"messageType":' * 10**5,
    ],
)
def test_S18_a_record_that_is_no_log_document_is_refused_by_name(body: bytes) -> None:
    with pytest.raises(Unpackable) as raised:
        messages(body)
    assert raised.value.code == "Decompression.InvalidSource"


# In order


def test_S19_a_record_is_decompressed_then_split_then_its_messages_are_taken() -> None:
    unpack = unpacker(spec(decompress="gzip", split="json", log_messages=True))
    assert unpack is not None
    assert unpack(gzip.compress(document("a", "b") + document("c"))) == [b"a", b"b", b"c"]


def test_S19_without_an_option_a_record_is_not_unpacked() -> None:
    assert unpacker(spec()) is None


def test_unpacking_stops_where_a_lot_is_full_and_a_bad_record_stands_in_its_place() -> None:
    unpack = unpacker(spec(decompress="gzip"))
    assert unpack is not None
    bodies = [gzip.compress(b"a" * 10), b"bad", gzip.compress(b"b" * 10), gzip.compress(b"c" * 10)]
    first, bad, third = unpack_all(unpack, bodies, 15)
    assert (first, third) == ([b"a" * 10], [b"b" * 10])
    assert isinstance(bad, Unpackable)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"log_messages": True}, 'add decompress="gzip"'),
        ({"log_messages": True, "split": "json"}, 'add decompress="gzip"'),
        ({"split": "delimiter"}, "use at least one byte"),
    ],
)
def test_S22_options_that_need_another_say_which(options: dict[str, object], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        spec(**options)
