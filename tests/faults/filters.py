"""A million pairs of policy and message: compiled filters say what a naive reading of the rules says (SNS: T32-T47).

    python tests/faults/filters.py [PAIRS] [SEED]

Policies speak of what is in their message more often than not. Each body is also asked in a second spelling, in which
some objects in objects are keys with dots, and that spelling is no pair of its own.
"""

from __future__ import annotations

import json
import sys
import time
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

from pipeflow.filters import compile_filter
from pipeflow.specs import FilterPolicy

SHOWN = 10


def campaign(pairs: int, seed: int) -> dict[str, Any]:
    """Ask both readings of so many pairs, three of bodies for each one of attributes; what they disagree on."""
    maker = Maker(seed)
    began = time.monotonic()
    matched = 0
    bodies = attributes = 0
    differ: list[str] = []
    while bodies + attributes < pairs:
        ask = _attributes if (bodies + attributes) % 4 == 3 else _body
        found = ask(maker)
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


def _body(maker: Maker) -> tuple[bool, str | None] | None:
    body = maker.body()
    policy = maker.policy(body)
    if not all(no_leaf_above_another(choice) for choice in choices(policy, ())):
        return None
    expected = naive(policy, body)
    compiled = compile_filter(FilterPolicy(json.dumps(policy), "body"))
    for spelled in (body, maker.respelled(body)):
        if compiled(json.dumps(spelled).encode(), {}) is not expected:
            return expected, json.dumps({"policy": policy, "body": spelled, "naive": expected})
    return expected, None


def _attributes(maker: Maker) -> tuple[bool, str | None] | None:
    message = {name: value for name, value in maker.body(2).items() if is_attribute(value)}
    policy = {name: rules for name, rules in maker.policy(message, 0).items() if isinstance(rules, list)}
    expected = naive(policy, message) and (bool(message) or not policy)
    if compile_filter(FilterPolicy(json.dumps(policy)))(b"", message) is not expected:
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
