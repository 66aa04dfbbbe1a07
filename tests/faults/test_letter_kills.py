"""A few kills of a process whose operators work on dead letters; `scripts/faults letter` does two hundred."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from letter_kills import Found, Told, body_of, campaign, clean, violations
from pipeflow.audit import Action, Entry
from pipeflow.edits import fingerprint
from pipeflow.letters import Passage, Provenance
from pipeflow.protocols import Peeked


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_no_letter_is_lost_or_doubled_and_the_audit_agrees_when_the_process_is_killed(
    durability: str, tmp_path: Path
) -> None:
    """Q97-Q101: edits, discards, redrives with edits and moves at a rate, cut off anywhere."""
    result = campaign(6 if durability == "full" else 3, seed=7, durability=durability, directory=tmp_path)
    assert clean(result), result
    assert isinstance(result["redriven"], int)
    assert result["redriven"] > 0


def message(id: str, body: bytes | None = None, been: Provenance | None = None) -> Peeked:
    shown = Peeked(id, "work", "ready", body or body_of("k"), 1, 1.0, 1, {}, None, None, [], None)
    return msgspec.structs.replace(shown, provenance=been)


def entry(action: Action, *ids: str, digests: list[tuple[str, str]] | None = None) -> Entry:
    return Entry(1, 1.0, action, "work", "ada", count=len(ids), ids=list(ids), digests=digests or [])


def found(*messages: Peeked, entries: tuple[Entry, ...] = (), redriven: int = 0, discarded: int = 0) -> Found:
    return Found(list(messages), [], [], list(entries), redriven, discarded, 0)


def broken(found: Found, told: Told) -> set[str]:
    return {rule for rule, examples in violations(found, told).items() if examples}


SENT = Told(sending={"k": "work"}, sent={"k": "a"})
BACK = Provenance("a", 1.0, 1, [Passage(2.0, "a", "work", "work-dlq")])
TWO = b'{"key":"k","total":2}'


def test_what_is_in_order_is_not_complained_of() -> None:
    assert broken(found(message("a")), SENT) == set()
    assert broken(found(entries=(entry("discard", "a"),), discarded=1), SENT) == set()
    assert broken(found(message("b", None, BACK), entries=(entry("redrive", "a"),), redriven=1), SENT) == set()


def test_the_oracle_notices_a_lost_letter_and_one_in_two_places() -> None:
    assert broken(found(), SENT) == {"lost"}
    assert "twice" in broken(found(message("a"), message("a")), SENT)
    assert "twice" in broken(found(message("a"), entries=(entry("discard", "a"),), discarded=1), SENT)


def test_the_oracle_notices_a_letter_that_tells_another_story_than_the_audit() -> None:
    assert "strayed" in broken(found(message("b", None, BACK)), SENT)
    assert "strayed" in broken(found(message("b")), SENT)


def test_the_oracle_notices_a_body_that_no_edit_made() -> None:
    edit = entry("edit", "a", digests=[(fingerprint(body_of("k")), fingerprint(TWO))])
    assert broken(found(message("a", TWO), entries=(edit,)), SENT) == set()
    assert broken(found(message("a", TWO)), SENT) == {"torn"}
    assert broken(found(message("a"), entries=(edit,)), SENT) == {"torn"}


def test_the_oracle_notices_an_answer_that_the_audit_has_not_and_a_wrong_count() -> None:
    assert broken(found(message("a")), msgspec.structs.replace(SENT, edited=[("a", "x")])) == {"untold"}
    assert "untold" in broken(found(message("a"), redriven=1), SENT)
    assert "untold" in broken(found(message("a"), discarded=1), SENT)


def test_the_oracle_notices_an_action_that_is_over_and_told_as_under_way() -> None:
    unfinished = msgspec.structs.replace(entry("discard"), finished=False)
    assert broken(found(message("a"), entries=(unfinished,)), SENT) == {"untold"}
