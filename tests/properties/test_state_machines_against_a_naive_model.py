"""The state machines of queues do what a naive model says, step by step (SQS: Q1, Q2, Q4, Q17, Q18, Q57, Q63, Q71-Q76).

A Hypothesis state machine looks for short ways to a difference, seeded random walks for long ones; `scripts/faults
walk` walks a million steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from side_by_side import SPECS, Bench, Walk, another

from pipeflow.messages import Ack, Bury, Defer, Extend, Receipt, Release

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

SECONDS = st.sampled_from([0.0, 0.5, 3.0, 10.0, 30.0, 299.5, 300.0, 43_200.0])
TIMEOUTS = st.sampled_from([None, 0.0, 3.0, 10.0, 43_200.0])
LIVES = st.sampled_from([None, None, 0.5, 3.0, 20.0, 1000.0])
ATTEMPTS = st.sampled_from([None, "one", "two"])


class Machines(RuleBasedStateMachine):
    """Both sides of a queue and of its dead letters, driven by whatever rules Hypothesis thinks of."""

    bench: Bench

    @initialize(kind=st.sampled_from(sorted(SPECS)), seed=st.integers(0, 1000))
    def begin(self, kind: str, seed: int) -> None:
        self.kind = kind
        self.bench = Bench(another(SPECS[kind], Random(seed)))

    @property
    def fifo(self) -> bool:
        return self.bench.work.state.spec.fifo

    @rule(
        count=st.integers(1, 3),
        group=st.sampled_from("ab"),
        id=st.sampled_from([None, "x", "y"]),
        delay=SECONDS,
        ttl=LIVES,
    )
    def send(self, count: int, group: str, id: str | None, delay: float, ttl: float | None) -> None:
        for _ in range(count):
            named = group if self.fifo or self.kind == "tenants" else None
            self.bench.send(group=named, delay=delay, dedup_id=id if self.fifo else None, ttl=ttl)

    @rule(dead=st.booleans(), limit=st.sampled_from([1, 2, 10]), timeout=TIMEOUTS, durable=st.booleans(), id=ATTEMPTS)
    def receive(self, dead: bool, limit: int, timeout: float | None, durable: bool, id: str | None) -> None:
        attempt_id = id if self.fifo else None
        self.bench.receive(self.bench.pairs[dead], limit, timeout, durable=durable, attempt_id=attempt_id)

    @precondition(lambda self: any(pair.receipts for pair in self.bench.pairs))
    @rule(data=st.data(), seconds=SECONDS)
    def settle(self, data: Any, seconds: float) -> None:
        ready = [(pair, body, receipt) for pair in self.bench.pairs for body, receipt in pair.receipts]
        pair, body, receipt = data.draw(st.sampled_from(ready))
        ways = [self.ack, self.superseded, self.bury, self.release, self.defer, self.extend]
        self.bench.settle(pair, data.draw(st.sampled_from(ways))(receipt, seconds), body)

    @staticmethod
    def ack(receipt: Receipt, seconds: float) -> Ack:
        return Ack(receipt)

    @staticmethod
    def superseded(receipt: Receipt, seconds: float) -> Ack:
        return Ack(receipt, superseded_ok=True)

    @staticmethod
    def bury(receipt: Receipt, seconds: float) -> Bury:
        return Bury(receipt)

    @staticmethod
    def release(receipt: Receipt, seconds: float) -> Release:
        return Release(receipt)

    @staticmethod
    def defer(receipt: Receipt, seconds: float) -> Defer:
        return Defer(receipt, seconds)

    @staticmethod
    def extend(receipt: Receipt, seconds: float) -> Extend:
        return Extend(receipt, seconds)

    @rule(seconds=SECONDS, leap=st.booleans())
    def advance(self, seconds: float, leap: bool) -> None:
        self.bench.advance(seconds, leap)

    @rule()
    def redrive(self) -> None:
        self.bench.redrive()

    @rule(dead=st.booleans())
    def purge(self, dead: bool) -> None:
        self.bench.pairs[dead].purge()

    @rule(seed=st.integers(0, 1000))
    def respec(self, seed: int) -> None:
        work = self.bench.work
        work.respec(another(work.state.spec, Random(seed)), self.bench.now)

    @rule()
    def restart(self) -> None:
        self.bench.restart()

    @invariant()
    def agree(self) -> None:
        self.bench.check()
        self.bench.check_messages()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", sorted(SPECS))
def test_Q1_Q2_the_state_machines_do_what_the_naive_model_says(kind: str, seed: int) -> None:
    Walk(kind, seed).walk(700)


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_the_walks_meet_what_they_are_about(kind: str) -> None:
    walk = Walk(kind, 1)
    walk.walk(3000)
    met = {"sent", "received", "exhausted", "redriven", "purged"} | ({"duplicates"} if "fifo" in kind else set())
    assert all(walk.seen.get(what, 0) > 10 for what in met), walk.seen


def test_the_long_campaign_walks_every_kind_and_finds_no_difference() -> None:
    from walk import machines

    result = machines(2000, seed=1)
    assert result["steps"] >= 2000
    assert not result["differences"]


# Last: what the walks find too, they find sooner; here the shortest way to it is looked for.
Machines.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
TestMachines = Machines.TestCase
