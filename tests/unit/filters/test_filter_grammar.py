"""What a policy may say, and the words it is refused with (SNS: T31-T37, T46)."""

from __future__ import annotations

import json

import pytest

from pipeflow.errors import InvalidFilter
from pipeflow.filters import EVALUATION_BUDGET, compile_filter
from pipeflow.specs import FilterPolicy, FilterScope


def refusal(policy: object, scope: FilterScope = "body", aws_limits: bool = False) -> str:
    """The first line of the error: the text of SNS, without what we add about the place."""
    text = policy if isinstance(policy, str) else json.dumps(policy)
    with pytest.raises(InvalidFilter) as raised:
        compile_filter(FilterPolicy(text, scope), aws_limits=aws_limits)
    return str(raised.value).partition("\n")[0].removeprefix("FilterPolicy: ")


def accepted(policy: object, scope: FilterScope = "body", aws_limits: bool = False) -> bool:
    compile_filter(FilterPolicy(json.dumps(policy), scope), aws_limits=aws_limits)
    return True


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", '{"a": [NaN]}', '{"a": [1e999]}', "\ud800", "[" * 100_000])
def test_T31_text_that_is_no_json_is_refused_with_the_words_of_the_parser(text: str) -> None:
    assert refusal(text).startswith("failed to parse JSON. ")


@pytest.mark.parametrize("policy", [[], '"text"', 1, None, True])
def test_T31_a_policy_that_is_no_object_is_refused(policy: object) -> None:
    assert refusal(policy) == "Filter is not an object"


def test_T31_a_policy_over_256_kib_is_refused() -> None:
    assert refusal({"a": ["x" * (256 << 10)]}) == "Filter policy is too long"
    assert accepted({"a": ["x" * (255 << 10)]})


def test_T31_an_empty_policy_is_accepted() -> None:
    assert accepted({}, "attributes")
    assert accepted({})


def test_an_error_names_the_place_and_the_remedy_below_the_text_of_sns() -> None:
    with pytest.raises(InvalidFilter, match=r"at body\.total: use one of anything-but, cidr"):
        compile_filter(FilterPolicy('{"body": {"total": [{"bigger": 1}]}}', "body"))


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ([["a"]], "Match value must be String, number, true, false, or null"),
        ([{"unknown": 1}], "Unrecognized match type unknown"),
        ([{"prefix": "a", "suffix": "b"}], "Only one key allowed in match expression"),
        ([{}], "Match expression name not found"),
        ([], "Empty arrays are not allowed"),
        ("scalar", '"key" must be an object or an array'),
        (1, '"key" must be an object or an array'),
        (None, '"key" must be an object or an array'),
        ({}, "Empty objects are not allowed"),
        ([{"prefix": 1}], "prefix match pattern must be a string"),
        ([{"suffix": None}], "suffix match pattern must be a string"),
        ([{"equals-ignore-case": ["a"]}], "equals-ignore-case match pattern must be a string"),
        ([{"wildcard": 5}], "wildcard match pattern must be a string"),
        ([{"cidr": 5}], "prefix match pattern must be a string"),
        ([{"exists": "true"}], "exists match pattern must be either true or false."),
        ([{"exists": None}], "exists match pattern must be either true or false."),
        ([{"prefix": {"equals-ignore-case": "a"}}], "prefix match pattern must be a string"),
    ],
)
def test_T33_a_rule_that_breaks_the_grammar_is_refused_in_the_words_of_sns(rules: object, text: str) -> None:
    assert refusal({"key": rules}) == text


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ([], "Invalid member in numeric match: ]"),
        ([1], "Invalid member in numeric match: 1"),
        ([None], "Invalid member in numeric match: null"),
        (["~", 1], "Unrecognized numeric range operator: ~"),
        (["<>", 1], "Unrecognized numeric range operator: <>"),
        (["=", "1"], "Value of equals must be numeric"),
        (["="], "Value of equals must be numeric"),
        ([">", "1"], "Value of > must be numeric"),
        (["<=", True], "Value of <= must be numeric"),
        ([">", 1, ">", 2], "Bad numeric range operator: >"),
        ([">", 1, "=", 2], "Bad numeric range operator: ="),
        ([">", 1, 2], "Bad value in numeric range: 2"),
        ([">", 1, "<"], "Value of < must be numeric"),
        ([">", 1, "<", 1], "Bottom must be less than top"),
        ([">=", 2, "<=", 1], "Bottom must be less than top"),
        (["=", 1, "<", 2], "Too many elements in numeric expression"),
        (["<", 1, ">", 0], "Too many elements in numeric expression"),
        ([">", 1, "<", 2, 3], "Too many terms in numeric range expression"),
        (5, "Value of numeric must be an array."),
    ],
)
def test_T34_a_bad_range_is_refused_in_the_words_of_sns(terms: object, text: str) -> None:
    assert refusal({"key": [{"numeric": terms}]}) == text


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("10.0.0.0", "Malformed CIDR, one '/' required"),
        ("10.0.0.0/8/8", "Malformed CIDR, one '/' required"),
        ("10.0.0.0/x", "Malformed CIDR, mask bits must be an integer"),
        ("10.0.0.0/", "Malformed CIDR, mask bits must be an integer"),
        ("10.0.0.0/\u0663", "Malformed CIDR, mask bits must be an integer"),
        ("10.0.0.0/-1", "Malformed CIDR, mask bits must not be negative"),
        ("10.0.0/8", "Nonstandard IP address: 10.0.0"),
        ("host/8", "Nonstandard IP address: host"),
        ("fe80::1%eth0/64", "Nonstandard IP address: fe80::1%eth0"),
        ("10.0.0.0/33", "IPv4 mask bits must be <= 32"),
        ("::/129", "IPv6 mask bits must be <= 128"),
    ],
)
def test_T35_a_bad_network_is_refused_in_the_words_of_sns(network: str, text: str) -> None:
    assert refusal({"key": [{"cidr": network}]}) == text


@pytest.mark.parametrize(
    ("operand", "text"),
    [
        ([], "Empty arrays are not allowed"),
        ([None], "Inside anything-but list, start|null|boolean is not supported."),
        ([True], "Inside anything-but list, start|null|boolean is not supported."),
        ([["a"]], "Inside anything-but list, start|null|boolean is not supported."),
        (
            ["a", 1],
            "Inside anything-but list, either all values are number or string, mixed type is not supported",
        ),
        (None, "Value of anything-but must be an array or single string/number value."),
        (True, "Value of anything-but must be an array or single string/number value."),
        ({"numeric": ["=", 1]}, "Unsupported anything-but pattern: numeric"),
        ({"suffix": 1}, "suffix match pattern must be a string"),
        ({"equals-ignore-case": []}, "Empty arrays are not allowed"),
        ({"exists": True}, "Unsupported anything-but pattern: exists"),
        ({"prefix": "a", "wildcard": "b"}, "Only one key allowed in match expression"),
        ({"prefix": 1}, "prefix match pattern must be a string"),
        ({"prefix": []}, "Empty arrays are not allowed"),
        ({}, "Anything-But expression name not found"),
    ],
)
def test_T41_anything_but_takes_strings_or_numbers_or_rules_of_one_kind(operand: object, text: str) -> None:
    assert refusal({"key": [{"anything-but": operand}]}) == text


@pytest.mark.parametrize("kind", ["suffix", "equals-ignore-case"])
def test_T41_what_sns_does_not_take_inside_anything_but_is_refused_under_the_limits_of_aws_only(kind: str) -> None:
    policy = {"key": [{"anything-but": {kind: ["a", "b"]}}]}
    assert refusal(policy, aws_limits=True) == f"Unsupported anything-but pattern: {kind}"
    assert accepted(policy)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("a**b", "Consecutive wildcard characters at pos 1"),
        (r"a\b", "Invalid escape character at pos 1"),
        ("a\\", "Invalid escape character at pos 1"),
    ],
)
def test_T42_double_stars_and_other_escapes_are_refused(pattern: str, text: str) -> None:
    assert refusal({"key": [{"wildcard": pattern}]}) == text


def test_T36_more_than_five_keys_are_refused_under_the_limits_of_aws_only() -> None:
    six = {f"k{n}": ["v"] for n in range(6)}
    assert refusal(six, "attributes", aws_limits=True) == "Filter policy can not have more than 5 keys"
    assert accepted(six, "attributes")
    nested = {"parent": {f"k{n}": ["v"] for n in range(2)}, **{f"p{n}": ["v"] for n in range(4)}}
    assert accepted(nested, aws_limits=True), "keys below a parent do not count"


def test_T36_complexity_is_the_product_of_values_times_depth() -> None:
    # 4 values at depth 3 and 3 at depth 2: 4*3 * 3*2 = 72
    known = {"a": {"b": {"c": ["1", "2", "3", "4"]}}, "d": {"e": ["1", "2", "3"]}}
    assert accepted(known, aws_limits=True)
    assert accepted({**known, "f": ["1", "2"]}, aws_limits=True)  # 144
    text = "Filter policy is too complex"
    assert refusal({**known, "f": ["1", "2", "3"]}, aws_limits=True) == text  # 216
    assert accepted({"a": [str(n) for n in range(150)]}, "attributes", aws_limits=True)
    assert refusal({"a": [str(n) for n in range(151)]}, "attributes", aws_limits=True) == text
    assert accepted({"a": [str(n) for n in range(151)]}, "attributes")


def test_T36_branches_of_or_are_summed() -> None:
    def policy(first: int, second: int) -> dict[str, object]:
        branches = [{"a": [str(n) for n in range(first)]}, {"b": [str(n) for n in range(second)]}]
        return {"c": ["1", "2"], "$or": branches}

    assert accepted(policy(37, 38), aws_limits=True)  # 2*37 + 2*38 = 150
    assert refusal(policy(38, 38), aws_limits=True) == "Filter policy is too complex"


def test_T42_wildcards_are_counted_under_the_limits_of_aws_only() -> None:
    assert refusal({"a": [{"wildcard": "*a*b*c*"}]}, aws_limits=True).startswith("Rule is too complex")
    assert accepted({"a": [{"wildcard": "*a*b*c*"}]})
    ten = [{"wildcard": f"{n}*"} for n in range(10)]
    assert accepted({"a": ten}, aws_limits=True)  # 10 points times 10 patterns
    assert refusal({"a": [*ten, {"wildcard": "x*"}]}, aws_limits=True).startswith("Rule is too complex")
    assert refusal({"a": [*ten, {"anything-but": {"wildcard": "x*"}}]}, aws_limits=True).startswith("Rule is too")
    three_stars = [{"wildcard": f"*{n}*{n}*"} for n in range(4)]  # of each star three points
    assert accepted({"a": three_stars[:3]}, aws_limits=True)
    assert refusal({"a": three_stars}, aws_limits=True).startswith("Rule is too complex")


def test_T38_numbers_beyond_a_thousand_million_are_refused_under_the_limits_of_aws_only() -> None:
    text = "Value must be between -1.0E9 and 1.0E9, inclusive"
    assert refusal({"a": [10**9 + 1]}, aws_limits=True) == text
    assert refusal({"a": [{"numeric": ["<", -(10**9) - 1]}]}, aws_limits=True) == text
    assert refusal({"a": [{"anything-but": [2e9]}]}, aws_limits=True) == text
    assert accepted({"a": [10**9, -(10**9)]}, aws_limits=True)
    assert accepted({"a": [10**12]})


def test_T37_a_policy_on_attributes_may_not_nest() -> None:
    text = "Filter policy scope MessageAttributes does not support nested filter policy"
    assert refusal({"a": {"b": ["c"]}}, "attributes") == text
    assert refusal({"$or": [{"a": {"b": ["c"]}}, {"d": ["e"]}]}, "attributes") == text
    assert accepted({"a": {"b": ["c"]}}, "body")


def test_S45_a_policy_over_its_evaluation_budget_is_refused_when_it_is_made() -> None:
    at_the_budget = {"a": [{"suffix": str(n)} for n in range(EVALUATION_BUDGET - 1)]}
    assert accepted(at_the_budget)
    assert refusal({"a": [{"suffix": str(n)} for n in range(EVALUATION_BUDGET)]}) == "Filter policy is too complex"


def test_S45_or_that_multiplies_beyond_the_budget_is_refused_before_it_is_multiplied() -> None:
    branches = [{"a": ["1"]}, {"b": ["1"]}]
    policy: object = branches[0]
    for _ in range(50):  # 2**50 alternatives
        policy = {"$or": branches, "x": policy}
    assert refusal(policy) == "Filter policy is too complex"


def test_S45_plain_values_are_one_step_however_many() -> None:
    assert accepted({"id": [str(n) for n in range(3 * EVALUATION_BUDGET)]})


def test_S45_a_policy_that_nests_beyond_reason_is_refused() -> None:
    deep: object = ["x"]
    for _ in range(101):
        deep = {"a": deep}
    assert refusal(deep) == "Filter policy is too complex"
    assert refusal({".".join("a" * 101): ["x"]}) == "Filter policy is too complex"


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (["text", "more"], {"$or": "more"}),
        ([{"prefix": "a"}, {"prefix": "b"}], {"$or": "bcd"}),
        ([{"exists": True}], {"$or": 1}),
    ],
)
def test_T46_or_is_a_field_unless_it_is_two_objects_without_operator_names(value: object, body: object) -> None:
    policy = compile_filter(FilterPolicy(json.dumps({"$or": value}), "body"))
    assert policy(json.dumps(body).encode(), {})
    assert not policy(b'{"a": "x"}', {})


def test_T46_the_rules_of_a_field_called_or_are_checked_as_rules() -> None:
    assert refusal({"$or": [{"a": ["x"]}]}) == "Unrecognized match type a"
    assert refusal({"$or": []}) == "Empty arrays are not allowed"
    assert refusal({"$or": [{"prefix": "b"}, {"a": ["x"]}]}) == "Unrecognized match type a"


def test_T46_a_branch_of_or_may_not_be_empty() -> None:
    assert refusal({"$or": [{"a": ["x"]}, {}]}) == "Empty objects are not allowed"


def test_H44_of_duplicate_keys_in_a_policy_the_last_counts() -> None:
    policy = compile_filter(FilterPolicy('{"a": ["x"], "a": ["y"]}'))
    assert policy(b"", {"a": "y"})
    assert not policy(b"", {"a": "x"})
