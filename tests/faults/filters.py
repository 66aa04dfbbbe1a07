"""A million pairs of policy and message: compiled filters say what a naive reading of the rules says (SNS: T32-T47).

A sieve that holds the policy among the last hundred has to say so too.

    python tests/faults/filters.py [PAIRS] [SEED]

Policies speak of what is in their message more often than not. Each body is also asked in a second spelling, in which
some objects in objects are keys with dots, and that spelling is no pair of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rigs"))

from naive_filters import (  # a script finds the rigs by itself
    Maker,
    choices,
    is_attribute,
    naive,
    no_leaf_above_another,
)

from pipeflow.filters import Subject, compile_filter
from pipeflow.specs import FilterPolicy
from pipeflow.state.sieve import Entry, Sieve

SHOWN = 10
OTHERS = 100
"""Policies of a sieve, each of which gives way to one of a later pair."""


class Sieved:
    """Policies of the last pairs in a sieve, the owner of each its pair."""

    def __init__(self) -> None:
        self._sieve: Sieve[int] = Sieve()
        self._entries: deque[tuple[int, Entry[int]]] = deque()
        self._pair = 0

    def add(self, policy: FilterPolicy) -> None:
        self._pair += 1
        self._entries.append((self._pair, self._sieve.add(policy, self._pair)))
        if len(self._entries) > OTHERS:
            owner, entry = self._entries.popleft()
            self._sieve.discard(entry, owner)

    def passes(self, subject: Subject) -> bool:
        """Whether it lets this message through to the policy that was added last."""
        asked = self._sieve.candidates(subject)
        _, entry = self._entries[-1]
        return entry in asked and entry.compiled()(subject)


def campaign(pairs: int, seed: int) -> dict[str, Any]:
    """Ask both readings of so many pairs, three of bodies for each one of attributes; what they disagree on."""
    maker = Maker(seed)
    began = time.monotonic()
    matched = 0
    bodies = attributes = 0
    differ: list[str] = []
    sieved = Sieved()
    while bodies + attributes < pairs:
        ask = _attributes if (bodies + attributes) % 4 == 3 else _body
        found = ask(maker, sieved)
        if found is None:
            continue
        verdict, said = found
        bodies += ask is _body
        attributes += ask is _attributes
        matched += verdict
        if said is not None:
            differ.append(said)
    return {
        "pairs": bodies + attributes,
        "on_bodies": bodies,
        "on_attributes": attributes,
        "matched": matched,
        "disagreements": len(differ),
        "first": differ[:SHOWN],
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
    }


def _body(maker: Maker, sieved: Sieved) -> tuple[bool, str | None] | None:
    body = maker.body()
    policy = maker.policy(body)
    if not all(no_leaf_above_another(choice) for choice in choices(policy, ())):
        return None
    expected = naive(policy, body)
    written = FilterPolicy(json.dumps(policy), "body")
    compiled = compile_filter(written)
    sieved.add(written)
    for spelled in (body, maker.respelled(body)):
        subject = Subject(json.dumps(spelled).encode(), {})
        if compiled.matches(subject) is not expected or sieved.passes(subject) is not expected:
            return expected, json.dumps({"policy": policy, "body": spelled, "naive": expected})
    return expected, None


def _attributes(maker: Maker, sieved: Sieved) -> tuple[bool, str | None] | None:
    message = {name: value for name, value in maker.body(2).items() if is_attribute(value)}
    policy = {name: rules for name, rules in maker.policy(message, 0).items() if isinstance(rules, list)}
    expected = naive(policy, message) and (bool(message) or not policy)
    written, subject = FilterPolicy(json.dumps(policy)), Subject(b"", message)
    sieved.add(written)
    if compile_filter(written).matches(subject) is not expected or sieved.passes(subject) is not expected:
        return expected, json.dumps({"policy": policy, "attributes": message, "naive": expected})
    return expected, None


def clean(result: dict[str, Any]) -> bool:
    """Whether both readings agree, and had something to disagree about."""
    agree: bool = result["disagreements"] == 0
    return agree and bool(result["pairs"] / 10 < result["matched"] < result["pairs"] * 9 / 10)


def main() -> int:
    arguments = [int(word) for word in sys.argv[1:]]
    result = campaign(*(arguments + [1_000_000, 1][len(arguments) :]))
    print(json.dumps(result))
    return 0 if clean(result) else 1


if __name__ == "__main__":
    sys.exit(main())
