"""Expressions over records, against jq itself: the same answer, or none from both.

Programs are grown from the grammar, documents from values at which programs look. Left out is what the package says it
does otherwise: numbers that are spelt in an odd way, texts times numbers, and formats that differ between systems.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeflow.queries.parsing import parse
from pipeflow.queries.programs import compiled
from pipeflow.queries.values import Meter, QueryError, json_text

jq = pytest.importorskip("jq", reason="the extra `jq` is not installed")

NAMES = ["a", "b", "c d", "t", "day", "if"]
TEXTS = [
    "",
    "x",
    "UA",
    "a,b,,c",
    "2013-01-01T05:15:00Z",
    "2013-01-01",
    "007",
    "-1.5",
    "Straße ü",
    '\x7f\n"\\',
    "𝄞x",
]

numbers = st.one_of(
    st.integers(-3, 12),
    st.integers(-(2**40), 2**40),
    st.sampled_from([1357017300, 1357017300.25, 0.1, 2.5, -0.75, 123456.789]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.sampled_from(TEXTS), st.text(max_size=4))
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)),
    max_leaves=10,
)
records = st.one_of(documents, st.fixed_dictionaries(dict.fromkeys(NAMES, documents)))

FORMATS = ["%Y", "%Y/%m/%d/%H", "%Y-%m-%dT%H:%M:%SZ", "%j %e %b %a %p%I %%", "%U %W %V %G %u %w %C%y", "%F %T %k%l"]
FIELDS = [".a", ".b", '."c d"', ".t", ".day", ".if", '.["a"]', ".[0]", ".[-1]", ".[1:]", ".[:-1]", ".[0:7]"]
FUNCTIONS = [
    "not", "type", "length", "floor", "tostring", "tojson", "tonumber", "ascii_downcase", "ascii_upcase",
    "gmtime", "todate", "fromdate", "fromdateiso8601",
    *(f'{name}("{text}")' for name in ("startswith", "endswith", "ltrimstr", "rtrimstr") for text in ("U", "x", "")),
    *(f'split("{text}")' for text in (",", "", "-")),
    *(f"strftime({json.dumps(form)})" for form in FORMATS),
    'strptime("%Y-%m-%dT%H:%M:%SZ")|mktime', 'strptime("%Y-%m-%d")', "[.a, .b?]|join(\"-\")", "gmtime|mktime",
]  # fmt: skip
OPERATORS = ["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "and", "or", "//", "|"]


def path(steps: list[tuple[str, bool]]) -> str:
    first, *more = [step + "?" * optional for step, optional in steps]
    return first + "".join(step.removeprefix(".") if step[1] == "[" else step for step in more)


paths = st.lists(st.tuples(st.sampled_from(FIELDS), st.booleans()), min_size=1, max_size=3).map(path)
literals = st.one_of(
    st.sampled_from(TEXTS).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(["null", "true", "false", "0", "1", "-2", "1.5", "60", "."]),
)


@st.composite
def grown(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """A larger program around smaller ones."""
    one, two = draw(inner), draw(inner)
    match draw(st.integers(0, 9)):
        case 0 | 1:
            return f"{one} | {draw(st.sampled_from(FUNCTIONS))}"
        case 2:
            return f"({one} {draw(st.sampled_from(OPERATORS))} {two})"
        case 3:
            return f"{one} {draw(st.sampled_from(['+', '-', '*', '//', 'and', '|']))} {two}"
        case 4:
            return draw(st.sampled_from([f'{{a: ({one}), "c d": ({two})}}', "{a, b}"]))
        case 5:
            return f"[({one}), ({two})]"
        case 6:
            return f'"\\({one}):\\({two})"'
        case 7:
            return f"if {one} then {two} else {draw(inner)} end"
        case 8:
            return f"if {one} then {two} elif . then {draw(inner)} end"
        case _:
            return draw(st.sampled_from([f"-({one})", f"({one})?"]))


programs = st.recursive(st.one_of(paths, literals), grown, max_leaves=8)


OTHERWISE = (
    "string and number cannot be multiplied",
    "number and string cannot be multiplied",
    "a date such as gmtime",
    "the years 1 to 9999",
    "cannot be read as a number",
    "join needs an array",
)
"""What the package says it does otherwise than jq."""


def ours(program: str, record: Any) -> str | None:
    """The answer as JSON; None when there is none, and "?" where the package says that jq has another."""
    meter = Meter()
    try:
        return json_text(compiled(parse(program), meter)(record), meter)
    except QueryError as error:
        return "?" if any(words in str(error) for words in OTHERWISE) else None


def theirs(program: Any, record: Any) -> str | None:
    try:
        answers = program.input_text(json.dumps(record)).all()
    except ValueError:
        return None
    return answers[0] if answers else None


def unsigned(answer: str | None) -> str | None:
    """Versions of jq differ over the sign of a zero that was negated."""
    return None if answer is None else re.sub(r"(?<![\w.])-0(?![\w.])", "0", answer)


def agree(program: str, documents: list[Any]) -> None:
    reference = jq.compile(f"({program}) | tojson")
    for document in documents:
        record = json.loads(json.dumps(document))
        answer = ours(program, record)
        if answer != "?":
            assert unsigned(answer) == unsigned(theirs(reference, record)), (program, record)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs, st.lists(records, min_size=1, max_size=5))
def test_S51_an_expression_answers_as_jq_does(program: str, documents: list[Any]) -> None:
    agree(program, documents)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=4_500, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs, st.lists(records, min_size=5, max_size=5))
def test_S51_tens_of_thousands_of_answers_are_those_of_jq(program: str, documents: list[Any]) -> None:
    agree(program, documents)
