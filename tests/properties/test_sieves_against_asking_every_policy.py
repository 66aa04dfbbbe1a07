"""A sieve lets through what asking every policy lets through, on random policies and messages, while policies come and
go (SNS: T32-T47); and that is what the naive reading of the rules says.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_filters import Maker, choices, is_attribute, naive, no_leaf_above_another

from pipeflow.filters import Subject, compile_filter, matching
from pipeflow.specs import FilterPolicy
from pipeflow.state import sieve
from pipeflow.state.sieve import Entry, Sieve


class Reading:
    """A sieve, and beside it who has which policy."""

    def __init__(self, seed: int) -> None:
        self.maker = Maker(seed)
        self.bodies = [self.maker.body() for _ in range(6)]
        self.attributes = [
            {name: value for name, value in self.maker.body(2).items() if is_attribute(value)} for _ in range(6)
        ]
        self.sieve: Sieve[int] = Sieve()
        self.owned: dict[int, tuple[Entry[int], FilterPolicy, dict[str, Any]]] = {}

    def come_and_go(self, owner: int) -> None:
        """One more owner with a policy, which somebody may have already; now and then one leaves."""
        tree, scope = self.policy()
        policy = FilterPolicy(json.dumps(tree), scope)
        self.owned[owner] = self.sieve.add(policy, owner), policy, tree
        if self.maker.chance(0.3):
            leaver = self.maker.random.choice(list(self.owned))
            entry, _, _ = self.owned.pop(leaver)
            self.sieve.discard(entry, leaver)

    def policy(self) -> tuple[dict[str, Any], Any]:
        random = self.maker.random
        if self.owned and self.maker.chance(0.2):
            _, policy, tree = random.choice(list(self.owned.values()))
            return tree, policy.scope
        if self.maker.chance(0.3):
            flat = self.maker.policy(random.choice(self.attributes), 0)
            return {name: rules for name, rules in flat.items() if isinstance(rules, list)}, "attributes"
        return self.maker.policy(random.choice(self.bodies)), "body"

    def ask(self, body: dict[str, Any], attributes: dict[str, Any]) -> None:
        """One message: the sieve, every policy by itself, and the naive reading where it has one."""
        for spelled in (body, self.maker.respelled(body)):
            subject = Subject(json.dumps(spelled).encode(), attributes)
            passing = sorted(self.sieve.passing(subject))
            said = {owner: compile_filter(policy).matches(subject) for owner, (_, policy, _) in self.owned.items()}
            assert passing == [owner for owner, matches in sorted(said.items()) if matches], (spelled, attributes)
            for owner, (_, policy, tree) in self.owned.items():
                if policy.scope == "attributes":
                    assert said[owner] is (naive(tree, attributes) and (bool(attributes) or not tree))
                elif all(no_leaf_above_another(choice) for choice in choices(tree, ())):
                    assert said[owner] is naive(tree, body)


@pytest.fixture(params=["whole", "in parts"], autouse=True)
def _always_looked_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small bodies are read as large ones are, too."""
    monkeypatch.setattr(sieve, "FEW", 0)
    if request.param == "in parts":
        monkeypatch.setattr(matching, "READ_WHOLE", 0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_T32_T47_a_sieve_lets_through_what_every_policy_by_itself_lets_through(seed: int) -> None:
    reading = Reading(seed)
    for owner in range(40):
        reading.come_and_go(owner)
        if owner % 10 == 9:
            for body, attributes in zip(reading.bodies, reading.attributes, strict=True):
                reading.ask(body, attributes)


def test_a_sieve_that_everybody_left_keeps_nothing() -> None:
    reading = Reading(7)
    for owner in range(300):
        reading.come_and_go(owner)
    for owner, (entry, _, _) in reading.owned.items():
        reading.sieve.discard(entry, owner)
    made = reading.sieve
    assert len(made) == 0
    assert not made._always
    for root in (made._attributes, made._bodies):
        assert not root.below
        assert not root.drawers
        assert not root.together
