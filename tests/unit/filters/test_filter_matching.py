"""Which messages a policy lets through (SNS: T38-T48)."""

from __future__ import annotations

import json
from time import thread_time

import pytest

from pipeflow.filters import Subject, compile_filter
from pipeflow.messages import AttributeValue
from pipeflow.specs import FilterPolicy


def on_attributes(policy: object, **attributes: AttributeValue) -> bool:
    return compile_filter(FilterPolicy(json.dumps(policy)))(b"not json", attributes)


def on_body(policy: object, body: object) -> bool:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return compile_filter(FilterPolicy(json.dumps(policy), "body"))(text, {})


def test_T32_keys_are_anded_and_rules_ored() -> None:
    policy = {"kind": ["placed", "paid"], "total": [{"numeric": [">", 100]}]}
    assert on_attributes(policy, kind="paid", total=101)
    assert not on_attributes(policy, kind="paid", total=100)
    assert not on_attributes(policy, kind="void", total=101)


def test_T32_an_empty_policy_matches_all() -> None:
    assert on_attributes({})
    assert on_body({}, {"a": 1})


@pytest.mark.parametrize(
    ("rule", "matching", "others"),
    [
        ("1", ["1"], [1, 1.0, True, None, "01", "a"]),
        (1, [1, 1.0], ["1", True, 2, None]),
        (0, [0, 0.0, -0.0], [False, "", None]),
        (301.5, [3.015e2], ["301.5", 301]),
        (True, [True], [1, "true", False, None]),
        (False, [False], [0, "", "false", None]),
        (None, [None], [0, "", "null", False]),
        ("Ab", ["Ab"], ["ab", "AB", "Ab "]),
        ({"prefix": "ab"}, ["ab", "abc"], ["Ab", "xab", 1, None, True]),
        ({"prefix": ""}, ["", "x"], [1, None]),
        ({"suffix": "ab"}, ["ab", "cab"], ["AB", "abx", 1, None]),
        ({"equals-ignore-case": "aB"}, ["ab", "AB", "Ab"], ["abc", 1, None]),
        ({"equals-ignore-case": "ΟΔΟΣ"}, ["οδοσ", "οδος", "Οδος"], ["οδο"]),
        ({"equals-ignore-case": "straße"}, ["STRASSE", "Straße"], ["strase"]),
        ({"wildcard": "a*c"}, ["ac", "abc", "a*c", "acc"], ["ab", "bc", "abcd", 1]),
        ({"wildcard": "*"}, ["", "anything"], [1, None]),
        ({"wildcard": "*a*b*a*"}, ["aba", "xaybza!"], ["ab", "ba", "aab"]),
        ({"wildcard": r"a\*c"}, ["a*c"], ["abc", "ac"]),
        ({"wildcard": r"a\\*"}, ["a\\", "a\\b"], ["a", "ab"]),
        ({"wildcard": "ab*ab"}, ["abab", "abxab"], ["ab", "abb"]),
        ({"wildcard": "*aba*aba*"}, ["abaaba", "xaba-abax"], ["ababa", "aba"]),
        ({"wildcard": "plain"}, ["plain"], ["plains", ""]),
        ({"exists": True}, ["a", 0, False, 1.5], [None, ""]),
        ({"cidr": "10.0.0.0/8"}, ["10.1.2.3"], ["11.0.0.0", "10.1.2", "host", "", 10, "::1", "10.0.0.1/8"]),
        ({"cidr": "10.1.2.3/24"}, ["10.1.2.255"], ["10.1.3.0"]),
        ({"cidr": "2001:db8::/32"}, ["2001:db8::1", "2001:0DB8:0:0:0:0:0:2"], ["2001:db9::1", "10.0.0.1"]),
        ({"cidr": "fe80::/10"}, ["fe80::1"], ["fe80::1%eth0"]),
        ({"cidr": "0.0.0.0/0"}, ["255.255.255.255"], ["::"]),
        ({"numeric": ["=", 5]}, [5, 5.0], [5.01, "5", True, None]),
        ({"numeric": ["<", 5]}, [4.999, -1], [5, "4", False]),
        ({"numeric": ["<=", 5]}, [5], [5.001]),
        ({"numeric": [">", 5]}, [6], [5, float("nan")]),
        ({"numeric": [">=", 5]}, [5], [4]),
        ({"numeric": [">", 0, "<=", 5]}, [1, 5], [0, 6]),
        ({"numeric": [">=", 0, "<", 5]}, [0, 4], [5, -1]),
        ({"numeric": [">", 10**15]}, [10**15 + 1], [10**15]),
        ({"anything-but": "a"}, ["b", 1, True, None, ""], ["a"]),
        ({"anything-but": ["a", "b"]}, ["c"], ["a", "b"]),
        ({"anything-but": [1, 2]}, [3, "1", True], [1, 2.0]),
        ({"anything-but": {"prefix": "a"}}, ["b", "", 5], ["a", "ab"]),
        ({"anything-but": {"prefix": ["a", "b"]}}, ["c"], ["a1", "b1"]),
        ({"anything-but": {"suffix": "a"}}, ["ab", "", 5], ["a", "ba"]),
        ({"anything-but": {"suffix": [".tmp", ".bak"]}}, ["a.txt"], ["a.tmp", "b.bak"]),
        ({"anything-but": {"equals-ignore-case": ["Eu", "US"]}}, ["eus", 5, None], ["eu", "us", "EU"]),
        ({"anything-but": {"wildcard": "*.tmp"}}, ["a.txt"], ["a.tmp"]),
        ({"anything-but": {"wildcard": ["a*", "b*"]}}, ["c"], ["a1", "b1"]),
    ],
)
def test_T35_T38_T40_T41_T42_each_rule_matches_these_values_and_not_those(
    rule: object, matching: list[AttributeValue], others: list[AttributeValue | None]
) -> None:
    policy = compile_filter(FilterPolicy(json.dumps({"key": [rule]})))
    nested = compile_filter(FilterPolicy(json.dumps({"top": {"key": [rule]}}), "body"))
    for expected, values in ((True, matching), (False, others)):
        for value in values:
            if value is not None:
                assert policy(b"", {"key": value}) is expected, value
            assert policy(b"", {"key": [value]}) is expected, [value]  # type: ignore[list-item]  # scalars only
            if value == value:  # NaN is not JSON
                assert nested(json.dumps({"top": {"key": value}}).encode(), {}) is expected, value


def test_T39_binary_attributes_are_not_looked_at() -> None:
    assert not on_attributes({"key": ["a"]}, key=b"a")
    assert not on_attributes({"key": [{"exists": True}]}, key=b"a")
    assert not on_attributes({"key": [{"anything-but": "b"}]}, key=b"a")
    assert on_attributes({"key": [{"exists": False}]}, key=b"a")


def test_T39_each_element_of_an_array_attribute_is_tried() -> None:
    assert on_attributes({"key": ["b"]}, key=["a", "b"])
    assert on_attributes({"key": [{"numeric": [">", 1]}]}, key=["a", 2])
    assert on_attributes({"key": [None]}, key=["a", None])
    assert not on_attributes({"key": ["c"]}, key=["a", "b"])


def test_T41_anything_but_needs_the_field_and_one_value_outside() -> None:
    policy = {"key": [{"anything-but": [100, 500]}]}
    assert on_attributes(policy, key=[100, 50])
    assert not on_attributes(policy, key=[100, 500])
    assert not on_attributes(policy, other=1)
    assert not on_attributes(policy, key=[])


def test_T43_exists_true_needs_a_value_that_is_something() -> None:
    policy = {"key": [{"exists": True}]}
    assert on_attributes(policy, key="a")
    assert not on_attributes(policy, key="")
    assert not on_attributes(policy, key=[None])
    assert not on_attributes(policy, other="a")
    assert on_body(policy, {"key": 0})
    for nothing in (None, "", [], {}, {"leaf": 1}, [None, ""]):
        assert not on_body(policy, {"key": nothing})


def test_T43_exists_false_needs_the_key_absent_and_some_attribute() -> None:
    policy = {"key": [{"exists": False}]}
    assert on_attributes(policy, other="a")
    assert not on_attributes(policy, key="a")
    assert not on_attributes(policy, key="")
    assert not on_attributes(policy), "an empty set of attributes never matches"
    assert on_attributes({"key": [{"exists": False}, "x"]}, key="x")
    assert on_attributes({"key": [{"exists": False}, "x"]}, other="x")


def test_T43_exists_false_on_a_body_looks_at_the_whole_message() -> None:
    policy = {"a": {"b": [{"exists": False}]}}
    assert on_body(policy, {"a": {"c": 1}})
    assert on_body(policy, {"x": 1})
    assert on_body(policy, {"a": {"b": []}}), "an empty array makes the key absent (T45)"
    assert on_body(policy, {"a": {"b": {"c": 1}}}), "exists speaks of leaves"
    assert not on_body(policy, {"a": {"b": None}})
    assert not on_body(policy, {"a": [{"c": 1}, {"b": 1}]}), "present in one element is present"
    both = {"a": {"b": [{"exists": False}, "x"], "c": [1]}}
    assert on_body(both, {"a": [{"c": 1, "b": "x"}, {"b": "y"}]})
    assert not on_body(both, {"a": [{"c": 1}, {"b": "y"}]})
    assert on_body(both, {"a": [{"c": 1}]})


def test_T43_fields_that_may_each_be_absent_cost_a_step_each_and_not_a_way_for_every_set_of_them() -> None:
    names = [f"k{n}" for n in range(40)]
    began = thread_time()
    policy = compile_filter(FilterPolicy(json.dumps({name: ["x", {"exists": False}] for name in names}), "body"))
    for n in range(len(names)):  # each another set of those that are there
        there = dict.fromkeys(names[n:], "x")
        assert policy(json.dumps(there).encode(), {})
        assert not policy(json.dumps({**there, names[-1]: "y"}).encode(), {})
    assert policy(json.dumps(dict.fromkeys(names[::2], "x")).encode(), {})
    assert not policy(json.dumps({name: ["y", None] for name in names[::2]}).encode(), {})
    assert thread_time() - began < 2


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"{", b"", b"\xff", b'{"a":1}x', b"[" * 5000])
def test_T44_a_body_that_is_no_json_object_matches_nothing(body: bytes) -> None:
    assert not on_body({"a": [1]}, body)
    assert not on_body({"a": [{"exists": False}]}, body)


@pytest.mark.parametrize("body", [b"no json", b"[]", b"", b"{", b"{}"])
def test_T17_an_empty_policy_on_bodies_takes_what_is_no_json_object_too(body: bytes) -> None:
    assert on_body({}, body)


@pytest.mark.parametrize(
    "policy",
    [{"a.b.c": [1]}, {"a": {"b.c": [1]}}, {"a.b": {"c": [1]}}, {"a": {"b": {"c": [1]}}}],
)
@pytest.mark.parametrize(
    "body",
    [{"a.b.c": 1}, {"a": {"b.c": 1}}, {"a.b": {"c": 1}}, {"a": {"b": {"c": 1}}}, {"a.b": {"x": 0}, "a": {"b.c": 1}}],
)
def test_T44_a_dot_in_a_key_equals_nesting_in_every_mixture(policy: object, body: dict[str, object]) -> None:
    assert on_body(policy, body)
    assert not on_body(policy, {"a.b": 1, "a": {"b": {"d.c": 1}}, "x.a.b.c": 1, "a.b.c.d": 1})
    assert not on_body({"a.b.c": [{"exists": False}]}, body)


def test_T44_dots_and_colons_in_values_change_nothing_and_an_escaped_dot_is_a_dot() -> None:
    assert on_body({"a": ['v.x":']}, {"a": 'v.x":'})
    assert on_body({"a": {"b": [1]}}, b'{"a\\u002eb": 1}')
    assert on_body({"a": {'"b': [1]}}, b'{"a.\\"b": 1}')
    assert on_body({'"a': {"b": [1]}}, b'{"\\"a.b" : 1}')


def test_T44_a_policy_on_attributes_takes_dots_as_they_are() -> None:
    assert compile_filter(FilterPolicy('{"a.b": ["x"]}'))(b"", {"a.b": "x"})


def test_T45_arrays_are_transparent_at_any_depth() -> None:
    policy = {"Records": {"s3": {"object": {"key": [{"prefix": "auto-"}]}}}}
    assert on_body(policy, {"Records": [{"s3": {"object": [[{"key": "auto-1"}]]}}]})
    assert on_body(policy, {"Records": [{"x": 1}, [[{"s3": [{"object": {"key": ["no", "auto-2"]}}]}]]]})
    assert not on_body(policy, {"Records": [{"s3": {"object": [[{"key": "manual"}]]}}]})
    assert on_body({"a": [2]}, {"a": [[1], [[2]]]})
    assert not on_body({"a": [2]}, {"a": []})


def test_T45_rules_below_one_array_hold_for_one_and_the_same_element() -> None:
    policy = {"items": {"sku": ["a"], "qty": [1]}}
    assert on_body(policy, {"items": [{"sku": "b", "qty": 2}, {"sku": "a", "qty": 1}]})
    assert not on_body(policy, {"items": [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 1}]})
    dotted = {"items.sku": ["a"], "items.qty": [1]}
    assert not on_body(dotted, {"items": [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 1}]})
    apart = {"sku": {"id": ["a"]}, "qty": {"n": [1]}}
    assert on_body(apart, {"sku": [{"id": "x"}, {"id": "a"}], "qty": [{"n": 1}, {"n": 2}]})


def test_T45_a_path_spelled_in_several_ways_offers_each_as_an_alternative() -> None:
    assert on_body({"a": {"b": [1], "c": [2]}}, {"a.b": 1, "a": {"c": 2}})
    assert on_body({"a": {"b": [1]}}, {"a": [{"b": 2}], "a.b": 1})
    assert on_body({"a": {"b": [2]}}, {"a.b": 1, "a": [{"b": 2}]})
    assert on_body({"a": {"b": [3]}}, {"a.b": [1, 2], "a": {"b": 3}})
    assert on_body({"a": ["x"], "a.b": ["y"]}, {"a": "x", "a.b": "y"})


def test_T45_a_body_that_nests_arrays_deeper_than_the_stack_is_walked() -> None:
    deep = b'{"a":' + b"[" * 400 + b'{"b":1}' + b"]" * 400 + b"}"
    assert on_body({"a": {"b": [1]}}, deep)


def test_T46_or_is_multiplied_with_its_siblings_and_may_nest() -> None:
    policy = {"source": ["web"], "$or": [{"kind": ["a"]}, {"$or": [{"n": [1]}, {"n": [2]}], "ok": [True]}]}
    assert on_body(policy, {"source": "web", "kind": "a"})
    assert on_body(policy, {"source": "web", "n": 2, "ok": True})
    assert not on_body(policy, {"source": "web", "n": 2, "ok": False})
    assert not on_body(policy, {"source": "app", "kind": "a"})
    assert on_body({"a": {"$or": [{"b": [1]}, {"c": [2]}]}}, {"a": {"c": 2}})
    assert on_attributes({"$or": [{"a": ["x"]}, {"b": ["y"]}]}, b="y")
    assert not on_attributes({"$or": [{"a": ["x"]}, {"b": ["y"]}]}, b="z")


def test_T46_a_branch_of_or_speaks_of_the_same_element_as_its_siblings() -> None:
    policy = {"items": {"sku": ["a"], "$or": [{"qty": [1]}, {"gift": [True]}]}}
    assert on_body(policy, {"items": [{"sku": "a", "gift": True}]})
    assert not on_body(policy, {"items": [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 1}]})


def test_T46_a_field_named_in_a_branch_and_beside_it_must_satisfy_both() -> None:
    policy = {"n": [{"numeric": [">", 1]}], "$or": [{"n": [{"numeric": ["<", 3]}]}, {"free": [True]}]}
    assert on_body(policy, {"n": 2})
    assert not on_body(policy, {"n": 3})
    assert not on_body(policy, {"n": [1, 3]}), "one value satisfies both"
    assert on_attributes(policy, n=2)
    assert not on_attributes(policy, n=3)


def test_T47_keys_the_policy_does_not_name_are_ignored_and_named_ones_must_be_there() -> None:
    assert on_attributes({"a": ["x"]}, a="x", b="y")
    assert not on_attributes({"a": ["x"], "c": ["z"]}, a="x", b="y")
    assert on_body({"a": ["x"]}, {"a": "x", "b": {"c": 1}})


def test_S45_no_pattern_is_expensive_on_any_value() -> None:
    policy = compile_filter(FilterPolicy(json.dumps({"key": [{"wildcard": "*" + "a*" * 100 + "b"}]})))
    began = thread_time()
    assert not policy(b"", {"key": "a" * 200_000})
    assert thread_time() - began < 1.0


def test_T42_a_wildcard_that_takes_a_regular_expression_exponential_time_takes_less_than_a_millisecond() -> None:
    # As a regular expression, (.*a){20}b$ goes back over every way to place its stars: 2**25 and more for this text.
    policy = compile_filter(FilterPolicy(json.dumps({"key": [{"wildcard": "*a" * 20 + "*b"}]})))
    subject = Subject(b"", {"key": "a" * 60 + "c"})
    times = []
    for _ in range(20):
        began = thread_time()
        assert not policy.matches(subject)
        times.append(thread_time() - began)
    assert min(times) < 0.001, "the best of twenty: the first ones warm up"


def test_S45_a_hostile_body_costs_time_in_proportion_to_its_size() -> None:
    policy = compile_filter(FilterPolicy(json.dumps({"a": {"b": ["x"], "c": {"d": ["y"]}}}), "body"))
    body = b'{"a":[' + b'{"b":1,"c":[{},{"d":2}]},' * 20_000 + b'{}],"a.b":[' + b"1," * 20_000 + b"1]}"
    dots = b'{"a' + b"." * 500_000 + b'":1}'
    began = thread_time()
    assert not policy(body, {})
    assert not policy(dots, {})
    assert thread_time() - began < 2.0


def test_a_body_is_parsed_once_for_many_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeflow.filters import matching

    parsed: list[bytes] = []
    real = matching._decode

    def counting(body: bytes) -> object:
        parsed.append(body)
        return real(body)

    monkeypatch.setattr(matching, "_decode", counting)
    filters = [compile_filter(FilterPolicy(json.dumps({"n": [n]}), "body")) for n in range(100)]
    subject = Subject(b'{"n": 7}', None)
    assert [n for n, each in enumerate(filters) if each.matches(subject)] == [7]
    assert len(parsed) == 1


def test_a_body_is_not_parsed_for_policies_on_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeflow.filters import matching

    monkeypatch.setattr(matching, "_decode", lambda body: pytest.fail("parsed"))
    assert on_attributes({"a": ["x"]}, a="x")
