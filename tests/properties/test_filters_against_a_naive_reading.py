"""Compiled filters say what a naive reading of the rules says, on random policies and messages (SNS: T32-T47).

`scripts/faults filters` asks the same of a million pairs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_filters import Maker, choices, is_attribute, naive, no_leaf_above_another

from pipeflow.filters import compile_filter, matching
from pipeflow.specs import FilterPolicy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))


@pytest.fixture(params=["whole", "in parts"], autouse=True)
def _reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small bodies are read as large ones are, too."""
    if request.param == "in parts":
        monkeypatch.setattr(matching, "READ_WHOLE", 0)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_T38_T47_a_policy_on_bodies_says_what_the_naive_reading_says(seed: int) -> None:
    maker = Maker(seed)
    for _ in range(20):
        body = maker.body()
        policy = maker.policy(body)
        if all(no_leaf_above_another(choice) for choice in choices(policy, ())):
            compiled = compile_filter(FilterPolicy(json.dumps(policy), "body"))
            expected = naive(policy, body)
            for spelled in (body, maker.respelled(body)):  # dots equal nesting (SNS: T44)
                assert compiled(json.dumps(spelled).encode(), {}) is expected, (policy, spelled)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_T39_T43_a_policy_on_attributes_says_what_the_naive_reading_says(seed: int) -> None:
    maker = Maker(seed)
    for _ in range(20):
        message = {name: value for name, value in maker.body(2).items() if is_attribute(value)}
        policy = {name: rules for name, rules in maker.policy(message, 0).items() if isinstance(rules, list)}
        expected = naive(policy, message) and (bool(message) or not policy)  # an empty set never matches (SNS: T43)
        assert compile_filter(FilterPolicy(json.dumps(policy)))(b"", message) is expected, (policy, message)


def test_the_random_policies_are_neither_all_true_nor_all_false() -> None:
    maker = Maker(1)
    verdicts = []
    for _ in range(500):
        body = maker.body()
        verdicts.append(naive(maker.policy(body), body))
    assert 100 < sum(verdicts) < 400


def test_T38_T47_a_thousand_pairs_of_the_long_campaign_agree() -> None:
    from filters import campaign, clean

    result = campaign(1000, seed=1)
    assert clean(result), result
