"""Which policies are asked about a message, and which are not (SNS: T47)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeflow.errors import InvalidFilter
from pipeflow.filters import Subject
from pipeflow.filters.matching import READ_WHOLE
from pipeflow.specs import FilterPolicy, FilterScope
from pipeflow.state.sieve import Sieve

OTHERS = 500


def policy(tree: dict[str, Any], scope: FilterScope = "attributes") -> FilterPolicy:
    return FilterPolicy(json.dumps(tree), scope)


def sieve(*policies: FilterPolicy) -> Sieve[int]:
    made: Sieve[int] = Sieve()
    for owner, each in enumerate(policies):
        made.add(each, owner)
    return made


def asked(made: Sieve[int], attributes: dict[str, Any] | None = None, body: bytes = b"") -> int:
    return len(list(made.candidates(Subject(body, attributes))))


@pytest.mark.parametrize(
    "tree",
    [
        lambda n: {"tenant": [f"t{n}"]},
        lambda n: {"tenant": [n + 10]},
        lambda n: {"tenant": [{"numeric": ["=", n + 10]}]},
        lambda n: {"total": [{"numeric": [">", n + 5]}]},
        lambda n: {"total": [{"numeric": ["<", -n]}]},
        lambda n: {"total": [{"numeric": [">=", n + 9, "<", n + 10]}]},
        lambda n: {"total": [{"numeric": [">", -n - 2, "<=", -n - 0.5]}]},
        lambda n: {"tenant": [{"prefix": f"t{n}-"}, f"t{n}"]},
        lambda n: {"tenant": [{"suffix": f"-t{n}"}]},
        lambda n: {"tenant": [{"wildcard": f"t{n}-*-x"}]},
        lambda n: {"tenant": [{"equals-ignore-case": f"T{n}"}]},
        lambda n: {f"tenant-{n}": [{"exists": True}]},
        lambda n: {"from": [{"cidr": f"10.{n >> 8}.{n & 255}.0/{24 + n % 9}"}]},
        lambda n: {"from": [{"cidr": f"2001:db8:{n + 1:x}::/48"}]},
        lambda n: {"kind": [{"anything-but": [f"k{n}"]}], "vip": [{"exists": True}]},
        lambda n: {"kind": [{"exists": True}], f"vip-{n}": [{"anything-but": {"prefix": "a"}}]},
        lambda n: {
            "kind": [{"exists": True}],
            "$or": [{"vip": [{"anything-but": [n]}]}, {f"is-{n}": [{"exists": True}]}],
        },
        lambda n: {"kind": ["placed"], "tenant": [f"t{n}"], "total": [{"numeric": [">", 0]}]},
        lambda n: {"kind": ["placed"], "$or": [{"tenant": [f"t{n}"]}, {"user": [f"u{n}"]}]},
    ],
)
def test_T47_of_policies_that_cannot_match_none_is_asked(tree: Any) -> None:
    message = {"tenant": "other", "kind": "placed", "total": 5, "from": "192.168.0.1"}
    attributes = sieve(*(policy(tree(n)) for n in range(OTHERS)))
    assert asked(attributes, message) <= 1  # the first may be filed by what it shares with all others
    bodies = sieve(*(policy(tree(n), "body") for n in range(OTHERS)))
    assert asked(bodies, body=json.dumps(message).encode()) <= 1


def test_T47_a_publish_among_ten_thousand_policies_of_other_tenants_asks_none() -> None:
    made = sieve(*(policy({"tenant": [f"t{n}"]}) for n in range(10_000)))
    assert asked(made, {"tenant": "other"}) == 0
    assert asked(made, {"tenant": "t77"}) == 1


def test_of_policies_that_share_all_values_but_one_the_one_that_matches_is_asked() -> None:
    made = sieve(*(policy({"kind": ["placed"], "tenant": [f"t{n}"]}) for n in range(100)))
    subject = Subject(b"", {"kind": "placed", "tenant": "t50"})
    assert made.passing(subject) == [50]
    assert asked(made, {"kind": "placed", "tenant": "t50"}) <= 2


@pytest.mark.parametrize("scope", ["attributes", "body"])
def test_T47_policies_that_need_anything_at_two_keys_are_asked_when_both_are_there(scope: FilterScope) -> None:
    made = sieve(*(policy({"kind": [{"anything-but": [n]}], "vip": [{"exists": True}]}, scope) for n in range(100)))
    for message, count in (({"kind": 5}, 0), ({"vip": True}, 0), ({"vip": True, "kind": 5}, 100), ({}, 0)):
        body = json.dumps(message).encode()
        assert asked(made, message, body) == count
        assert len(made.passing(Subject(body, message))) == max(0, count - 1)


def test_T44_policies_that_need_anything_at_two_paths_are_asked_however_those_are_spelled() -> None:
    tree = {"a": {"b": [{"anything-but": ["x"]}]}, "c": {"d": [{"exists": True}]}}
    made = sieve(policy(tree, "body"), *(policy({"z": [n]}, "body") for n in range(100)))
    for more in ({}, {"more": "x" * READ_WHOLE}):
        for body in ({"a": {"b": 1}, "c": {"d": 1}}, {"a.b": 1, "c": {"d": 1}}, {"a": [{"b": 1}], "c.d": [1]}):
            assert made.passing(Subject(json.dumps(more | body).encode(), None)) == [0], body
        for body in ({"a": {"b": 1}, "c": {"e": 1}}, {"a": {"b": 1}, "c": {"d": []}}, {"c": {"d": 1}}):
            assert asked(made, body=json.dumps(more | body).encode()) == 0


def test_one_who_leaves_policies_that_need_two_keys_is_not_asked_and_the_others_are() -> None:
    made = sieve(*(policy({"z": [n]}) for n in range(100)))
    first, second = (policy({"kind": [{"anything-but": [n]}], "vip": [{"exists": True}]}) for n in range(2))
    leaving = made.add(first, 100)
    made.add(second, 101)
    made.discard(leaving, 100)
    assert made.passing(Subject(b"", {"kind": 5, "vip": 1})) == [101]


def test_equal_policies_are_asked_once_for_all_who_have_them() -> None:
    made = sieve(*(policy({"total": [{"numeric": [">", n % 10]}]}) for n in range(1000)))
    assert len(made) == 10
    assert len(made.passing(Subject(b"", {"total": 5}))) == 500


def test_a_policy_that_needs_nothing_is_asked_about_every_message() -> None:
    always = policy({"kind": [{"exists": False}]})
    made = sieve(always, policy({}), *(policy({"kind": [f"k{n}"]}) for n in range(100)))
    assert asked(made, {"tenant": "a"}) == 2
    assert made.passing(Subject(b"", {"tenant": "a"})) == [0, 1]


def test_a_body_is_not_parsed_for_policies_on_attributes() -> None:
    subject = Subject(b'{"a": 1}', {"a": 1})
    made = sieve(*(policy({"a": [n]}) for n in range(100)))
    assert made.passing(subject) == [1]
    assert subject._parsed is False


def test_a_policy_compiles_when_it_is_first_asked_and_an_invalid_one_is_refused_before() -> None:
    made = sieve(*(policy({"a": [n]}) for n in range(100)))
    entry = made.add(policy({"a": [7]}), 100)
    assert entry.matches is None
    with pytest.raises(InvalidFilter):
        made.add(FilterPolicy("{"), 101)
    assert made.passing(Subject(b"", {"a": 7})) == [7, 100]
    assert entry.matches is not None
    assert len(made) == 100


def test_an_owner_that_left_is_passed_over_and_the_others_stay() -> None:
    made = sieve(policy({"a": [1]}))
    entry = made.add(policy({"a": [1]}), 5)
    made.discard(entry, 0)
    made.discard(entry, 0)
    assert made.passing(Subject(b"", {"a": 1})) == [5]
    made.discard(entry, 5)
    assert made.passing(Subject(b"", {"a": 1})) == []
    assert len(made) == 0
