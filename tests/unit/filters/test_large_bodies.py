"""Of a large body a filter reads what it names, and passes over the rest: what it says is the same."""

from __future__ import annotations

import json

import msgspec
import pytest

from pipeflow.filters import compile_filter, matching, parse_where, view
from pipeflow.filters.matching import READ_WHOLE, Subject
from pipeflow.protocols import Peeked
from pipeflow.specs import FilterPolicy
from pipeflow.state.sieve import Sieve

ROWS = [{"sku": f"s{n}", "qty": n % 7} for n in range(READ_WHOLE // 10)]


def body(**fields: object) -> bytes:
    """A large document with these fields before and behind the many."""
    return json.dumps({"kind": "big", "rows": ROWS, **fields}).encode()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes were read at a time."""
    sizes: list[int] = []

    def counted(written: bytes) -> object:
        sizes.append(len(written))
        return msgspec.json.decode(written)

    monkeypatch.setattr(matching, "_decode", counted)
    return sizes


def says(policy: dict[str, object], written: bytes) -> bool:
    return compile_filter(FilterPolicy(json.dumps(policy), "body"))(written, {})


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"kind": ["big"]}, True),
        ({"kind": ["small"]}, False),
        ({"customer": {"name": ["ada"]}}, True),
        ({"customer.name": ["bo"]}, False),
        ({"none": [{"exists": False}]}, True),
        ({"kind": [{"exists": False}]}, False),
        ({"customer": {"none": [{"exists": False}]}}, True),
        ({"a": {"b": [1]}}, True),
        ({"address": {"city": {"name": ["Bonn"]}}}, True),
        ({"address": {"city": {"name": ["Rome"]}}}, False),
        ({"lines": {"a": {"b": [2]}}}, True),
    ],
)
def test_what_a_policy_does_not_name_is_not_read(policy: dict[str, object], expected: bool, read: list[int]) -> None:
    fields = {"customer": {"name": "ada"}, "address": {"city.name": "Bonn"}, "lines": [{"a.b": 2}], "a.b": 1}
    assert says(policy, body(**fields)) is expected
    del fields["a.b"]
    assert says(policy, body(**fields)) is (expected and "a" not in policy)
    assert sum(read) < 100


def test_what_a_policy_names_is_read_however_large(read: list[int]) -> None:
    assert says({"rows": {"sku": ["s5"], "qty": [5]}}, body())
    assert not says({"rows": {"sku": ["s5"], "qty": [6]}}, body())
    assert says({"inner": {"kind": ["big"]}}, b'{"inner":%b}' % body())
    assert max(read) > READ_WHOLE


def test_a_field_is_read_once_for_all_policies(read: list[int]) -> None:
    sieve: Sieve[int] = Sieve()
    for n in range(300):
        sieve.add(FilterPolicy(json.dumps({"customer": {"id": [n]}, "kind": ["big"]}), "body"), n)
    assert sieve.passing(Subject(body(customer={"id": 7}), {})) == [7]
    assert len(read) <= 2


@pytest.mark.parametrize(
    "broken",
    [
        b'{"kind":"big","text":"\xff%b"}' % (b"x" * READ_WHOLE),
        b'{"kind":"big","text":"%b}' % (b"x" * READ_WHOLE),
        b'{"kind":"big","text":"%b"}}' % (b"x" * READ_WHOLE),
        b'[{"kind":"big"},"%b"]' % (b"x" * READ_WHOLE),
        b'{"kind":"big","deep":%b}' % (b"[" * READ_WHOLE + b"]" * READ_WHOLE),
    ],
)
def test_what_is_no_object_matches_nothing_also_where_it_is_passed_over(broken: bytes) -> None:
    assert not says({"kind": ["big"]}, broken)


@pytest.mark.parametrize("size", [0, READ_WHOLE])
def test_T44_a_number_past_every_bound_is_above_all_others_and_hides_no_other_field(size: int) -> None:
    written = b'{"kind":"big","n":1e999,"in":[{"low":-1e400,"k":"v"}],"text":"%b"}' % (b"x" * size)
    assert says({"kind": ["big"]}, written)
    assert says({"n": [{"exists": True}]}, written)
    assert says({"n": [{"numeric": [">", 10**9]}]}, written)
    assert not says({"n": [10**9, {"numeric": ["<", 10**9]}]}, written)
    assert says({"in": {"k": ["v"], "low": [{"numeric": ["<", 0]}]}}, written)


def peeked(written: bytes) -> Peeked:
    return Peeked("a", "q", "ready", written, 1, 1.0, 1, {}, None, None, [], None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("body.kind=big", True), ("body.kind=small", False), ("id=a", True), ("body.rows.sku=s5", True)],
)
def test_a_search_says_the_same_of_a_large_body(line: str, expected: bool, read: list[int]) -> None:
    policy = compile_filter(parse_where(line, 1.0))
    assert policy(view(peeked(body())), {}) is expected
    assert (sum(read) > 100) is ("rows" in line)


@pytest.mark.parametrize("text", [b"1],[2", b"1 2", b"\xff", b"[" * 5000 + b"]" * 5000, b'"half'])
def test_a_large_body_that_is_no_json_is_a_text_in_a_search(text: bytes) -> None:
    written = text + b" " * READ_WHOLE if not text.startswith(b"[") else text.replace(b"[", b"[" * 20)
    assert len(written) > READ_WHOLE
    seen = view(peeked(written))
    assert compile_filter(parse_where("id=a", 1.0))(seen, {})
    assert json.loads(seen)["body"] == written.decode(errors="replace")


@pytest.mark.parametrize(
    "rule", ["absent", "ab/sent", 'ab"sent', "naïve", "\U0001f600", {"prefix": "abs"}, {"suffix": "sent"}], ids=repr
)
@pytest.mark.parametrize("spelling", ["there", "escaped", "elsewhere", "not there"])
def test_a_text_that_is_nowhere_in_a_large_body_is_not_looked_for_field_by_field(
    rule: object, spelling: str, read: list[int]
) -> None:
    text = rule if isinstance(rule, str) else "absent"
    value = "other" if spelling in ("elsewhere", "not there") else text
    fields = {"rows": [*ROWS, {"sku": value}], "note": text if spelling == "elsewhere" else ""}
    written = json.dumps(fields, ensure_ascii=False).encode()
    if spelling == "escaped":
        written = written.replace(json.dumps(text, ensure_ascii=False).encode(), _escaped(text))
    read.clear()
    assert says({"rows": {"sku": [rule]}}, written) is (spelling in ("there", "escaped"))
    if spelling == "not there":
        assert (read == []) is not any(char in text for char in '/"')


def _escaped(text: str) -> bytes:
    units = text.encode("utf-16-be")
    return b'"%b"' % b"".join(b"\\u%02x%02x" % (units[n], units[n + 1]) for n in range(0, len(units), 2))


def test_a_text_that_is_one_of_several_or_may_be_a_number_is_looked_for(read: list[int]) -> None:
    assert says({"rows": {"sku": ["absent", "s5"]}}, body())
    assert says({"rows": {"sku": ["absent"], "qty": [5]}}, body()) is False
    assert says({"rows": {"qty": ["absent", 5]}}, body())
    assert says({"rows": {"sku": ["absent", {"anything-but": "x"}]}}, body())
    assert says({"gone": ["absent", {"exists": False}]}, body())
    assert says({"$or": [{"rows": {"sku": ["absent"]}}, {"kind": ["big"]}]}, body())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a.b", [{"x": 1}, {"x": 2, "y.z": 3}, {"x.y": 5}]),
        ("a.b", [[{"x": 1}], [[{"x": 2}], 5]]),
        ("a", {"b": {"x": 2}}),
        ("a", [{"b.x": 2}]),
    ],
)
def test_T44_a_path_is_found_however_it_is_spelled_below_an_array(name: str, value: object) -> None:
    for size in (0, READ_WHOLE):
        written = json.dumps({name: value, "text": "x" * size}).encode()
        assert says({"a": {"b": {"x": [2]}}}, written)
        assert not says({"a": {"b": {"x": [7]}}}, written)
        assert not says({"a": {"b": {"y": [3]}}}, written)
