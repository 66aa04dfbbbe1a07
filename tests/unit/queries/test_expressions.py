"""Expressions over records: what they answer, what is refused before the first record, and what bounds them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeflow.queries import Extraction, QueryError, Unsupported, key_queries
from pipeflow.queries.parsing import parse
from pipeflow.queries.values import Meter, number_text
from pipeflow.specs import KeyQuery

FLIGHT = {
    "carrier": "UA",
    "number": 1545,
    "delay": 2.0,
    "late": False,
    "date": "2013-01-01T05:15:00Z",
    "at": 1357017300,
    "from": {"airport": "EWR", "gates": ["A1", "B2"], "zone name": "EST"},
    "tags": "a,b",
    "none": None,
}


def answers(query: str, record: object = FLIGHT) -> str:
    (text,) = Extraction([KeyQuery("key", query)])(msgspec.json.encode(record))
    return text


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (".carrier", "UA"),
        (".from.airport", "EWR"),
        ('.from."zone name"', "EST"),
        ('.["from"].gates[0]', "A1"),
        (".from.gates[-1]", "B2"),
        (".date[0:7]", "2013-01"),
        (".date[:4]", "2013"),
        ('.missing // "none"', "none"),
        ('.carrier.code? // "UNKNOWN"', "UNKNOWN"),
        ('"\\(.carrier)-\\(.number)"', "UA-1545"),
        ('.carrier + "/" + .from.airport', "UA/EWR"),
        (".number % 10", "5"),
        (".number / 2", "772.5"),
        ("-(.number - 1) * 2", "-3088"),
        ('.tags | split(",") | .[1]', "b"),
        ('.from.gates | join("+")', "A1+B2"),
        ('[.carrier, .number, .none] | join("-")', "UA-1545-"),
        ('.carrier | ascii_downcase | ltrimstr("u")', "a"),
        ('.date | rtrimstr("Z") | length', "19"),
        ('if .delay > 15 then "late" elif .delay < 0 then "early" else "on time" end', "on time"),
        ("if .late then 1 else 0 end", "0"),
        ('.carrier == "UA" and (.late | not)', "true"),
        ('.at | strftime("%Y/%m/%d")', "2013/01/01"),
        ('.at | gmtime | strftime("%H")', "05"),
        (".at | todate", "2013-01-01T05:15:00Z"),
        (".date | fromdate", "1357017300"),
        ('.date | strptime("%Y-%m-%dT%H:%M:%SZ") | mktime | . / 86400 | floor', "15706"),
        ('.date | fromdateiso8601 | strftime("%j")', "001"),
        (".number | tostring | tonumber + 1", "1546"),
        ('"1e3" | tonumber', "1000"),
        ("{a: {b: .carrier}} | .a.b", "UA"),
        ("# a comment\n.carrier # another", "UA"),
    ],
)
def test_S51_what_partitioning_asks_of_jq_is_answered_without_it(query: str, text: str) -> None:
    assert answers(query) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [("UA", "UA"), (" ", " "), (7, "7"), (1.0, "1"), (0.1, "0.1"), (1e-7, "1e-07"), (True, "true"), (False, "false"),
     (2**63, "9223372036854775808"), (1e300, "1e+300"), (-0.0, "-0")],
)  # fmt: skip
def test_S52_texts_are_keys_as_they_are_and_numbers_and_booleans_as_json(value: object, text: str) -> None:
    assert answers(".key", {"key": value}) == text


@pytest.mark.parametrize(
    ("value", "what"),
    [(None, "null"), ("", "an empty text"), ({}, "an object"), ({"a": 1}, "an object"), ([1], "an array")],
)
def test_S52_null_empty_text_objects_and_arrays_are_no_keys(value: object, what: str) -> None:
    with pytest.raises(QueryError, match=f"key: answers with {what}; a partition key is a text, a number or a boolean"):
        answers(".key", {"key": value})


@pytest.mark.parametrize("record", [b"", b"UA", b"{", b'{"carrier": "UA"} {"carrier": "AA"}', b'{"carrier": "\xff"}'])
def test_S51_a_record_that_is_not_one_json_document_has_no_keys(record: bytes) -> None:
    with pytest.raises(QueryError, match="not one JSON document"):
        Extraction([KeyQuery("", ".carrier")])(record)


@pytest.mark.parametrize(
    ("query", "record"),
    [(".carrier", [1]), (".carrier", "UA"), (".from.airport", {"from": 7}), (".a[0]", {"a": "text"}), (".a?", 7),
     (".a + 1", {"a": "x"}), (".a | tonumber", {"a": "0x10"}), (".a / 0", {"a": 1}), ("-.a", {"a": True}),
     (".a | strftime(\"%Y\")", {"a": "2013"}), ('.a | strptime("%Y-%m-%d")', {"a": "2013-02-30"}),
     (".a | gmtime", {"a": 1e300})],
)  # fmt: skip
def test_S52_what_has_no_answer_is_an_error_and_no_other_partition(query: str, record: object) -> None:
    with pytest.raises(QueryError):
        answers(query, record)


@pytest.mark.parametrize(
    ("query", "column", "why"),
    [
        (".tags[]", 6, "`[]` answers once for every item"),
        ("..", 1, "`..` answers many times"),
        (".carrier, .number", 9, "',' is not expected here"),
        (". as $x | $x", 3, "variables are not known here"),
        (".a | map(.b)", 6, "the function map of 1 arguments is not known here"),
        (".a | input", 6, "the function input is not known here"),
        ("$ENV.HOME", 1, "'$ENV' is not known here"),
        ('import "a" as a; .', 1, "'import' is not known here"),
        ("reduce .a as $x (0; 1)", 1, "'reduce' is not known here"),
        ('.at | strftime("%Q")', 7, "strftime does not know '%Q'"),
        ('.date | strptime("%H")', 9, "strptime needs a year, a month and a day"),
        ('"open', 1, "the text has no end"),
        ("(.a", 4, "the end stands where ')' is expected"),
        (".a[.b]", 4, "'.b' stands where a whole number must be written out"),
        ("1 < 2 < 3", 7, "comparisons in a row need parentheses"),
        ("", 1, "the expression ends where a value is expected"),
        (".a ! .b", 4, "'!' is not expected here"),
        ("{(.a): 1}", 2, "'(' stands where a name is expected"),
        ('"\\x"', 2, "'\\\\x' is no escape"),
    ],
)
def test_S51_what_is_outside_the_subset_is_refused_with_its_column(query: str, column: int, why: str) -> None:
    with pytest.raises(Unsupported) as refused:
        Extraction([KeyQuery("", query)])
    assert refused.value.column == column
    assert refused.value.reason.startswith(why.replace("\\\\", "\\"))


# Bounds


@pytest.mark.parametrize(
    "query",
    ["(" * 5_000 + "." + ")" * 5_000, "." + ".a" * 5_000, "-" * 1_000 + "1", "+".join(["1"] * 2_000), "[" * 100,
     '"\\(' * 40, "if 1 then 1 " + "elif 1 then 1 " * 1_000 + "end", "." + "|." * 2_000, ".a" + "?" * 2_000,
     "{a:" * 100, "." * 4_097, "1 - " * 2_000 + "1", "-(" * 2_000],
)  # fmt: skip
def test_a_program_that_is_too_long_or_too_deep_is_refused_when_it_is_declared(query: str) -> None:
    with pytest.raises(Unsupported, match=r"more than|at most|answers many|is expected|not expected|second minus"):
        parse(query)


@pytest.mark.parametrize(
    "query", [".a | tojson", ".a == .b", ".a + .b | tostring", '"\\(.)"', ".a", ".a * .b | tojson"]
)
def test_a_record_nested_a_hundred_thousand_levels_deep_has_no_keys(query: str) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        for levels in (250, 900, 100_000):
            deep = opening * levels + b"1" + closing * levels
            with pytest.raises(QueryError):
                Extraction([KeyQuery("", query)])(b'{"a":' + deep + b',"b":' + deep + b"}")


def test_a_program_that_doubles_its_text_is_stopped_at_the_budget() -> None:
    doubling = " | ".join(['"\\(.)\\(.)"'] * 40)
    with pytest.raises(QueryError, match=f"more than {Meter.BUDGET} steps"):
        answers(f".carrier | {doubling}")


def test_the_budget_is_for_one_record_and_not_for_all_of_them() -> None:
    extract = Extraction([KeyQuery("", '"\\(.text)."')])
    body = msgspec.json.encode({"text": "x" * (Meter.BUDGET // 3)})
    assert {len(extract(body)[0]) for _ in range(5)} == {Meter.BUDGET // 3 + 1}


programs = st.text(alphabet='.abc[]{}()"\\|/,:;?0123456789 +-*%<>=!$#@\n_ifthenelse', max_size=40)


@given(programs, st.binary(max_size=30))
def test_no_text_and_no_record_raises_anything_but_what_is_promised(program: str, record: bytes) -> None:
    try:
        texts = Extraction([KeyQuery("", program)])(record)
    except (Unsupported, QueryError):
        return
    assert all(texts)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_S52_the_text_of_a_number_reads_back_as_the_same_number(number: float) -> None:
    assert float(number_text(number)) == number


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(st.integers(), st.text(), st.none(), st.booleans())))
def test_decoding_only_what_is_looked_at_changes_no_answer(record: dict[str, Any]) -> None:
    narrow, whole = answers_or_none("[.a, .b] | tojson", record), answers_or_none(". as $x", record)
    assert narrow is not None
    assert whole is None
    assert narrow == answers_or_none(". | [.a, .b] | tojson", record)


def answers_or_none(query: str, record: object) -> str | None:
    try:
        return answers(query, record)
    except (QueryError, Unsupported):
        return None


def test_S51_keys_are_written_as_a_path_as_an_object_or_as_a_dict_of_expressions() -> None:
    single = (KeyQuery("", ".carrier"),)
    several = (KeyQuery("carrier", ".carrier"), KeyQuery("month", ".date[0:7]"))
    assert key_queries(" .carrier ") == single
    assert key_queries("{carrier: .carrier, month: .date[0:7]}") == several
    assert key_queries({"carrier": ".carrier", "month": ".date[0:7]"}) == several
    assert key_queries('{carrier, "zone name"}') == (
        KeyQuery("carrier", '."carrier"'),
        KeyQuery("zone name", '."zone name"'),
    )
    assert key_queries('{a: ({b: 1, c: [2, 3]} | .c[0]), d: "},\\(.x + "}")", # e: 1,\n f: .f}') == (
        KeyQuery("a", "({b: 1, c: [2, 3]} | .c[0])"),
        KeyQuery("d", '"},\\(.x + "}")"'),
        KeyQuery("f", ".f"),
    )
