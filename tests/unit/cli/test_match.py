"""`pipeflow match`: the matcher of topics, on a file."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    ("rule", "type", "value", "expected"),
    [
        ('"x"', "String.shade", "x", "match\n"),
        ("100", "Number", "1e2", "match\n"),
        ("100", "Number.int", "100.0", "match\n"),
        ('"100"', "Number", "100", "no match\n"),
        ('"x"', "String.Array", '["y", "x", null]', "match\n"),
        ('"[1]"', "String", "[1]", "match\n"),
        ('{"exists": true}', "Binary", "eHk=", "no match\n"),
        ('{"exists": false}', "Binary", "eHk=", "match\n"),
    ],
)
def test_T26_T39_attributes_of_every_type_of_sns_are_looked_at_as_sns_looks_at_them(
    call: Call, rule: str, type: str, value: str, expected: str
) -> None:
    event = json.dumps({"a": {"Type": type, "Value": value}})
    assert call("match", "--policy", f'{{"a":[{rule}]}}', "--scope", "attributes", "-", input=event).stdout == expected


@pytest.mark.parametrize(
    "attribute",
    [
        '{"Type":"Number","Value":"seven"}',
        '{"Type":"String.Array","Value":"x"}',
        '{"Type":"String.Array","Value":"[[1]]"}',
        '{"Type":"Binary","Value":"?"}',
        '{"Type":"Text","Value":"x"}',
        '{"DataType":"String","StringValue":"x"}',
        "null",
    ],
)
def test_T26_an_attribute_that_is_none_is_named(call: Call, attribute: str) -> None:
    event = f'{{"kind": "placed", "a": {attribute}}}'
    shown = call("match", "--policy", '{"n":[1]}', "--scope", "attributes", "-", input=event)
    assert shown.exit_code == 1
    assert "stdin:1: attribute a is none: " in shown.stderr
