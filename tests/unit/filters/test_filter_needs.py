"""What a policy needs: every number of a range lies in one of the cells it is filed by."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeflow.filters.grammar import parse_policy
from pipeflow.filters.needs import SOMETHING, cell, needs_of, networks_of, ordinal
from pipeflow.specs import FilterPolicy

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.integers(-20, 20)


@settings(deadline=None, derandomize=True)
@given(numbers, numbers, numbers)
def test_T40_a_number_in_a_range_lies_in_a_cell_of_the_range(one: float, two: float, three: float) -> None:
    low, value, high = sorted((one, two, three))
    if low == high:
        return
    ((alternative),) = parse_policy(
        FilterPolicy(f'{{"a": [{{"numeric": [">=", {low}, "<=", {high}]}}]}}'), aws_limits=False
    )
    ((path, keys),) = needs_of(alternative)
    assert path == ("a",)
    assert len(keys) <= 2
    (level,) = {operand[0] for _, operand in keys if isinstance(operand, tuple)}
    assert ("cell", cell(value, level)) in keys


@settings(deadline=None, derandomize=True)
@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_T35_an_address_lies_in_the_networks_it_is_looked_up_by_and_in_no_other(
    address: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address, length: int
) -> None:
    network = ip_network((other, min(length, other.max_prefixlen)), strict=False)
    ((alternative),) = parse_policy(FilterPolicy(f'{{"a": [{{"cidr": "{network}"}}]}}'), aws_limits=False)
    ((_, (key,)),) = needs_of(alternative)
    lengths = {"IPv4": range(33), "IPv6": range(129)}
    assert key in list(networks_of(str(other), lengths))
    assert (key in list(networks_of(str(address), lengths))) is (address in network)


def test_T35_what_is_no_address_lies_in_no_network() -> None:
    assert list(networks_of("10.0.0", {"IPv4": [0], "IPv6": [0]})) == []


@settings(deadline=None, derandomize=True)
@given(numbers, numbers)
def test_ordinals_order_as_numbers_do(one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert ordinal(low) <= ordinal(high)


def test_ordinals_have_room_for_numbers_beyond_a_double() -> None:
    assert ordinal(-(10**400)) == ordinal(-inf) < ordinal(-1) < ordinal(-0.0) == ordinal(0) < ordinal(10**400)


def test_the_narrowest_need_is_what_a_policy_is_filed_by() -> None:
    def needs(policy: str) -> list[object]:
        return [needs_of(each) for each in parse_policy(FilterPolicy(policy), aws_limits=False)]

    total = '"total": [{"numeric": [">", 5]}]'
    assert needs(f'{{"tenant": ["a"], {total}, "x": [{{"exists": true}}]}}') == [[(("tenant",), (("value", "a"),))]]
    assert needs(f'{{{total}, "x": [{{"exists": true}}]}}') == [[(("total",), (("above", 5),))]]
    assert needs('{"x": [{"exists": true}, "a"]}') == [[(("x",), (("value", "a"), SOMETHING))]]
    assert needs('{"x": [{"exists": false}, "a"]}') == [[]]
