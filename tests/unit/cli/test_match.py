"""`pipeflow match`: the matcher of topics, on a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Call = Callable[..., Result]


@pytest.mark.parametrize(
    ("policy", "event", "expected"),
    [
        ('{"kind":["placed"]}', '{"kind":"placed"}', "match\n"),
        ('{"kind":["placed"]}', '{"kind":"paid"}', "no match\n"),
        ('{"total":[{"numeric":[">=",10]}]}', '{"total":10}', "match\n"),
        ('{"a":{"b":[{"prefix":"x"}]}}', '{"a":{"b":"xy"}}', "match\n"),
    ],
)
def test_a_policy_is_tried_on_the_body_on_stdin(call: Call, policy: str, event: str, expected: str) -> None:
    assert call("match", "--policy", policy, "-", input=event).stdout == expected


@pytest.mark.parametrize("event", ['{"kind":"placed"}', '{"kind":{"Type":"String","Value":"placed"}}'])
def test_attributes_may_be_written_plainly_or_as_sns_does(call: Call, event: str) -> None:
    assert (
        call("match", "--policy", '{"kind":["placed"]}', "--scope", "attributes", "-", input=event).stdout == "match\n"
    )


def test_a_file_of_lines_prints_the_lines_that_match(call: Call, here: Path) -> None:
    (here / "events.jsonl").write_text('{"n":1}\n{"n":2}\n{"n":1,"m":0}\n')
    assert call("match", "--policy", '{"n":[1]}', "events.jsonl").stdout == '{"n":1}\n{"n":1,"m":0}\n'


def test_the_policy_may_lie_in_a_file_and_the_answer_be_json(call: Call, here: Path) -> None:
    (here / "policy.json").write_text('{"n":[1]}')
    shown = call("match", "--policy", "@policy.json", "--json", "-", input='{"n":1}')
    assert shown.stdout == '{"match":true,"events":1,"matched":1}\n'


def test_no_match_ends_with_three_where_that_was_asked_for(call: Call) -> None:
    assert call("match", "--policy", '{"n":[1]}', "-", input='{"n":2}').exit_code == 0
    assert call("match", "--policy", '{"n":[1]}', "--fail-empty", "-", input='{"n":2}').exit_code == 3


def test_attributes_that_are_no_object_are_refused(call: Call) -> None:
    shown = call("match", "--policy", '{"n":[1]}', "--scope", "attributes", "-", input="[1]")
    assert shown.exit_code == 1
    assert "stdin:1: no object of attributes" in shown.stderr
