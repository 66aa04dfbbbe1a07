"""One line of terms over the view of a message: what operators type."""

from __future__ import annotations

import json

import pytest

from pipeflow.errors import InvalidFilter
from pipeflow.filters import compile_filter, parse_where, view
from pipeflow.messages import Failure
from pipeflow.protocols import Peeked

NOW = 2_000_000_000.0


def peeked(**changes: object) -> Peeked:
    fields: dict[str, object] = {
        "id": "m1",
        "queue": "billing",
        "state": "ready",
        "body": b'{"total": 12, "dep_delay": "NA", "flight": "1545", "nested": {"ok": true}}',
        "attempt": 3,
        "sent_at": NOW - 7200,
        "sequence": 9,
        "attributes": {"kind": "placed", "n": 7},
        "group": "ada",
        "dedup_id": None,
        "failures": [Failure(1.0, 1, "KeyError", "early"), Failure(2.0, 2, "ValueError", "bank, asleep")],
        "dead_letter_source": None,
    }
    return Peeked(**{**fields, **changes})  # type: ignore[arg-type]  # a builder


def asks(text: str, message: Peeked | None = None) -> bool:
    return compile_filter(parse_where(text, NOW))(view(message or peeked()), {})


def test_the_view_names_what_an_operator_asks_for() -> None:
    seen = json.loads(view(peeked(), NOW))
    assert seen == {
        "id": "m1",
        "state": "ready",
        "attempt": 3,
        "error": "ValueError",
        "reason": "bank, asleep",
        "sent_at": NOW - 7200,
        "group": "ada",
        "sequence": 9,
        "dedup_id": None,
        "key": None,
        "priority": 0,
        "body": {"total": 12, "dep_delay": "NA", "flight": "1545", "nested": {"ok": True}},
        "attributes": {"kind": "placed", "n": 7},
        "age": 7200,
    }


@pytest.mark.parametrize("body", [b"plain text", b"\xff\xfe", b"{", b"[" * 990 + b"]" * 990])
def test_a_body_that_is_no_json_is_viewed_as_text(body: bytes) -> None:
    seen = json.loads(view(peeked(body=body, failures=[])))
    assert isinstance(seen["body"], str | list)
    assert seen["error"] is None


@pytest.mark.parametrize(
    "text",
    [
        "attempt>2",
        "attempt >= 3",
        "attempt=3",
        "attempt==3",
        "attempt!=4",
        "attempt>2,attempt<4",
        "attempt<4 and attempt>2",
        "error=ValueError",
        "error = Value*",
        "error!=Key*",
        "error='ValueError'",
        "reason='bank, asleep'",
        'reason="bank, asleep",attempt=3',
        "reason=*asleep",
        "body.dep_delay=NA",
        "body.total>=10",
        "body.total=12",
        "body.flight=1545",
        "body.nested.ok=true",
        "attributes.kind=placed,attributes.n=7",
        "group=ada AND state=ready",
        "age>1h",
        "age>=90m,age<3h",
        "age<1d",
        "age>7199",
        "id!=m2",
    ],
)
def test_a_line_that_holds_matches(text: str) -> None:
    assert asks(text)


@pytest.mark.parametrize(
    "text",
    [
        "attempt>3",
        "attempt!=3",
        "error=KeyError",
        "error='Value*'",
        "error!=Value*",
        "body.dep_delay!=NA",
        "body.total>12",
        "body.missing=1",
        "age>3h",
        "age<2h",
        "attempt>2,error=KeyError",
        "body.total='12'",
    ],
)
def test_a_line_that_does_not_hold_does_not_match(text: str) -> None:
    assert not asks(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no condition"),
        (" , ", "no condition"),
        ("attempt", "is no condition; write FIELD OP VALUE"),
        ("attempt>many", "> compares numbers; 'many' is none"),
        ("age=5", "compare age with"),
        ("age>soon", "compare age with"),
        ("error=A,error=B", "error is named before"),
        ("attempt>1,attempt>2", "attempt is named before"),
        ("attempt>5,attempt<3", "Bottom must be less than top"),
    ],
)
def test_a_line_that_says_nothing_is_refused_with_the_way_to_say_it(text: str, reason: str) -> None:
    with pytest.raises(InvalidFilter, match=reason):
        parse_where(text, NOW)
