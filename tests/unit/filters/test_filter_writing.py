"""Policies written in Python are exactly JSON policies."""

from __future__ import annotations

import json
from enum import StrEnum

import pytest

from pipeflow.errors import InvalidFilter
from pipeflow.filters import (
    Rule,
    anything_but,
    cidr,
    compile_filter,
    equals_ignore_case,
    exists,
    num,
    prefix,
    suffix,
    where,
    where_body,
    wildcard,
)
from pipeflow.specs import FilterPolicy


def test_a_plain_value_is_a_list_of_one_and_a_list_its_alternatives() -> None:
    assert where(kind="placed") == FilterPolicy('{"kind":["placed"]}', "attributes")
    assert where(kind=["placed", "paid"], total=num(">", 100)) == FilterPolicy(
        '{"kind":["placed","paid"],"total":[{"numeric":[">",100]}]}', "attributes"
    )
    assert where(kind=("a", prefix("b")), flag=True, gone=None).policy == (
        '{"kind":["a",{"prefix":"b"}],"flag":[true],"gone":[null]}'
    )
    assert where().policy == "{}"


@pytest.mark.parametrize(
    ("rule", "written"),
    [
        (num("=", 5), {"numeric": ["=", 5]}),
        (num(">=", 0, "<", 1.5), {"numeric": [">=", 0, "<", 1.5]}),
        (prefix("a"), {"prefix": "a"}),
        (suffix("a"), {"suffix": "a"}),
        (equals_ignore_case("a"), {"equals-ignore-case": "a"}),
        (wildcard("a*"), {"wildcard": "a*"}),
        (cidr("10.0.0.0/8"), {"cidr": "10.0.0.0/8"}),
        (exists(), {"exists": True}),
        (exists(False), {"exists": False}),
        (anything_but("a", "b"), {"anything-but": ["a", "b"]}),
        (anything_but(1), {"anything-but": [1]}),
        (anything_but(prefix("a")), {"anything-but": {"prefix": "a"}}),
        (anything_but(wildcard("a*"), wildcard("b*")), {"anything-but": {"wildcard": ["a*", "b*"]}}),
    ],
)
def test_each_builder_writes_its_rule(rule: Rule, written: dict[str, object]) -> None:
    assert json.loads(where(key=rule).policy) == {"key": [written]}
    assert json.loads(where_body({"top": {"key": rule}}).policy) == {"top": {"key": [written]}}


def test_a_body_policy_is_the_json_itself_or_has_rules_and_values_in_it() -> None:
    assert where_body({"customer": [{"prefix": "eu-"}]}) == FilterPolicy('{"customer":[{"prefix":"eu-"}]}', "body")
    mixed = where_body({"kind": "placed", "$or": [{"n": num(">", 1)}, {"deep": {"ok": True}}]})
    assert json.loads(mixed.policy) == {
        "kind": ["placed"],
        "$or": [{"n": [{"numeric": [">", 1]}]}, {"deep": {"ok": [True]}}],
    }


def test_a_bad_policy_is_refused_where_it_is_written() -> None:
    with pytest.raises(InvalidFilter, match="Bottom must be less than top"):
        where(total=num(">", 5, "<", 1))
    with pytest.raises(InvalidFilter, match="Malformed CIDR"):
        where_body({"ip": cidr("10.0.0.0")})
    with pytest.raises(InvalidFilter, match="Empty arrays"):
        where(kind=[])
    with pytest.raises(InvalidFilter, match="not JSON"):
        where_body({"a": object()})
    with pytest.raises(InvalidFilter, match="rules of one kind"):
        anything_but(prefix("a"), wildcard("b*"))
    with pytest.raises(InvalidFilter, match="rules of one kind"):
        anything_but(prefix("a"), "b")


def test_an_enum_of_strings_is_its_value_in_policy_and_attribute() -> None:
    class Kind(StrEnum):
        PLACED = "placed"

    policy = compile_filter(where(kind=Kind.PLACED))
    assert policy(b"", {"kind": Kind.PLACED})
    assert policy(b"", {"kind": "placed"})


def test_T46_alternatives_of_attributes_are_written_with_values_and_rules_too() -> None:
    either: list[dict[str, object]] = [{"kind": "placed"}, {"total": num(">", 100), "vip": [True]}]
    written = where(**{"$or": either}, shop="ulm")
    assert json.loads(written.policy) == {
        "$or": [{"kind": ["placed"]}, {"total": [{"numeric": [">", 100]}], "vip": [True]}],
        "shop": ["ulm"],
    }


def test_T39_a_value_that_no_attribute_could_be_is_refused_where_it_is_written() -> None:
    for value in (float("inf"), float("nan"), [1, float("-inf")]):
        with pytest.raises(InvalidFilter, match="would be written as null"):
            where(total=value)
        with pytest.raises(InvalidFilter, match="would be written as null"):
            where_body({"total": value})
    with pytest.raises(InvalidFilter, match="bytes are never looked at"):
        where(kind=[b"placed"])  # type: ignore[list-item]  # what a careless caller writes
