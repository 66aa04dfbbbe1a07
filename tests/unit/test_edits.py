"""Edits that operators write: what they name changes, nothing else does, and what does not fit is refused whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from pipeflow.edits import Edit, Part, apply, fingerprint, parse_edit
from pipeflow.errors import ConfigurationError, RefusedError


@pytest.mark.parametrize(
    ("term", "body", "after"),
    [
        ("body.total=0", b'{"id":"a","total":5}', b'{"id":"a","total":0}'),
        ("body.total=zero", b'{"total":5}', b'{"total":"zero"}'),
        ('body.total="0"', b'{"total":5}', b'{"total":"0"}'),
        ("body.note=", b'{"note":"x"}', b'{"note":""}'),
        ("body.new={\"a\":[1]}", b"{}", b'{"new":{"a":[1]}}'),
        ("body.lines.1.price=2.50", b'{"lines":[{},{"price":1}]}', b'{"lines":[{},{"price":2.50}]}'),
        ('body."a.b"."c=d"=1', b'{"a.b":{"c=d":0}}', b'{"a.b":{"c=d":1}}'),
        ("body.a=x=y", b'{"a":1}', b'{"a":"x=y"}'),
        ("body=[1]", b"no json", b"[1]"),
        ("body.total=null", b'{"total":5}', b'{"total":null}'),
    ],
)  # fmt: skip
def test_what_is_named_is_set(term: str, body: bytes, after: bytes) -> None:
    assert apply(parse_edit([term]), body, None) == (after, None)


def test_numbers_that_are_not_named_keep_every_digit() -> None:
    body = b'{"a":1.10,"b":1E+400,"c":123456789012345678901234567890,"d":-0.0,"n":1}'
    assert apply(parse_edit(["body.n=2"]), body, None)[0] == body.replace(b'"n":1', b'"n":2')


@pytest.mark.parametrize(
    ("written", "after"),
    [
        (b'{ "n": 1, "x" : { "y": 1e2 } }', b'{"n":2,"x":{ "y": 1e2 }}'),
        (b'{"n":1,"x":-0}', b'{"n":2,"x":-0}'),
        (b'{"n":1,"x":0.00000000001}', b'{"n":2,"x":0.00000000001}'),
        (b'{"n":1,"x":"\\u00e9"}', b'{"n":2,"x":"\\u00e9"}'),
        (b'{"n":1,"x":1,"x":3}', b'{"n":2,"x":3}'),
    ],
)
def test_what_is_not_named_stays_as_it_is_written(written: bytes, after: bytes) -> None:
    assert apply(parse_edit(["body.n=2"]), written, None)[0] == after
    assert msgspec.json.decode(after) == msgspec.json.decode(written) | {"n": 2}


@pytest.fixture
def ordinary_depth() -> Iterator[None]:
    """The depth to which Python reads by default: other tests may have left another."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    ("term", "body", "told"),
    [
        ("body.a.b=1", b"{}", "its body has no 'a'"),
        ("body.a.b=1", b'{"a":5}', "its body.a is neither object nor list"),
        ("body.a.2=1", b'{"a":[1,2]}', "its body.a is a list of 2, without a '2'"),
        ("body.a=1", b"5", "its body is neither object nor list"),
        ("body.a=1", b"\xff", "its body is no JSON"),
        ("body.a=1", b"[" * 5000 + b"]" * 5000, "its body is"),
        ("body.a=1", b'{"a":1,"name":"Jos\xe9"}', "its body is no JSON"),
        ("body.a=1", b'{"a":1,"x":"\\ud800"}', "its body is no JSON"),
        ("body.a=1", b'{"a":1,"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "its body is"),
    ],
)
def test_a_message_without_what_an_edit_names_is_refused(
    term: str, body: bytes, told: str, ordinary_depth: None
) -> None:
    with pytest.raises(RefusedError, match=told) as refused:
        apply(parse_edit([term]), body, None)
    assert refused.value.code == "Unfit"


def test_attributes_are_set_by_their_whole_names_and_taken_away_by_null() -> None:
    edit = parse_edit(["attributes.kind=placed", "attributes.a.b=2", 'attributes.tags=[1,"x"]', "attributes.old=null"])
    assert apply(edit, b"not touched", {"old": 1, "raw": b"\xff", "kind": "x"}) == (
        b"not touched",
        {"raw": b"\xff", "kind": "placed", "a.b": 2, "tags": [1, "x"]},
    )
    assert apply(parse_edit(["attributes.old=null"]), b"", {"old": 1})[1] is None


def test_a_new_body_comes_first_then_its_parts() -> None:
    assert apply(parse_edit(["body.b=2"], b'{"a": 1}'), b"no json", None)[0] == b'{"a":1,"b":2}'
    assert apply(parse_edit([], b"\xff", raw=True), b"1", None)[0] == b"\xff"
    assert apply(parse_edit([], b'{"a": 1}'), b"1", None)[0] == b'{"a": 1}', "as it was written"


@pytest.mark.parametrize(
    ("term", "told"),
    [
        ("body.total", "write body.FIELD=VALUE"),
        ("total=0", "write body.FIELD=VALUE"),
        ("attributes=1", "write body.FIELD=VALUE"),
        ("body.=1", "write body.FIELD=VALUE"),
        ("body.a.=1", "the path ends with a dot"),
        ("body.a..b=1", "is no path"),
        ('attributes."a=1', "write body.FIELD=VALUE"),
        ('attributes.a={"b":1}', "an attribute is text"),
        ("body.a=1e99999999999999999999", "its number has too many digits; put it in double quotes"),
        ("attributes.a=1e99999999999999999999", "its number has too many digits"),
        ("body.a=\ud800", "half of a surrogate pair"),
        ("body.\ud800=1", "half of a surrogate pair"),
    ],
)
def test_an_edit_that_says_nothing_is_refused_with_the_way_to_write_it(term: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        parse_edit([term])


def test_an_edit_changes_something_and_its_body_is_json_unless_it_says_otherwise() -> None:
    with pytest.raises(ConfigurationError, match="changes nothing"):
        parse_edit([])
    with pytest.raises(ConfigurationError, match="the new body is no JSON"):
        Edit(body=b"{")
    for unreadable in (b'"\xff"', b"1e99999999999999999999"):
        with pytest.raises(ConfigurationError, match="the new body is no JSON"):
            Edit(body=unreadable)


def test_a_remembered_part_that_cannot_be_read_refuses_a_letter_and_no_more() -> None:
    with pytest.raises(RefusedError, match=r"its body is no JSON that can be read, so body\.a=1e9999") as refused:
        apply(Edit((Part(("body", "a"), b"1e99999999999999999999"),)), b'{"a":1}', None)
    assert refused.value.code == "Unfit"


def test_an_edit_is_told_in_a_line_however_large_it_is() -> None:
    edit = parse_edit(["body.total=0", 'body."a b"=' + "x" * 1000], b"1")
    assert edit.text.startswith('a new body of 1 bytes, body.total=0, body."a b"="xxx')
    assert len(edit.text) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(tree=st.dictionaries(st.text(), JSON, max_size=5), name=st.text(), value=JSON)
def test_setting_a_field_is_setting_it_in_the_tree(tree: dict[str, object], name: str, value: object) -> None:
    written = msgspec.json.encode(value).decode()
    step = msgspec.json.encode(name).decode()
    after, _ = apply(parse_edit([f"body.{step}={written}"]), msgspec.json.encode(tree), None)
    assert msgspec.json.decode(after) == {**tree, name: value}


def test_fingerprints_are_the_beginning_of_sha256() -> None:
    assert fingerprint(b"") == "e3b0c44298fc1c14"
