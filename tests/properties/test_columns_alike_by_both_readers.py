"""What Arrow's own reader makes of records is what the interpreter makes of them, or it leaves them to it.

Records are written as text, so that there is much in them that is no JSON, or not what the column is for.
"""

from __future__ import annotations

import json
from random import Random

import pytest

pytest.importorskip("pyarrow", reason="makes columns with pyarrow: pip install 'pipeflow[parquet]'")

import pyarrow as pa

from pipeflow.formats import arrow
from pipeflow.formats.arrow_json import quick_batch
from pipeflow.formats.arrow_schema import arrow_schema
from pipeflow.formats.columns import columns_for, flat
from pipeflow.formats.rows import Reading
from pipeflow.messages import Column, Records

KINDS = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint32",
    "uint64",
    "float64",
    "string",
    "timestamp",
    "date",
]
NUMBERS = [
    "0", "-0", "1", "-1", "1.0", "1e3", "1E5", "-0.0", "127", "128", "-128", "-129", "255", "256", "01", "1.", "+1",
    ".5", "NaN", "Infinity", "-Infinity", "1e308", "1e400", "-1e400", "1e-400", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "18446744073709551615",
    "18446744073709551616", "9007199254740993", "9007199254740993.0", "100000000000000000000000000000",
    "0.30000000000000004", "5e-324", "1.7976931348623157e308", "1.7976931348623159e308", "2.2250738585072011e-308",
]  # fmt: skip
DAYS = [
    "2013-01-01", "2013-02-30", "2013-1-1", "0001-01-01", "1900-02-29", "2013-13-01", "2013-00-10", "2013-01-00",
    "2013-01-01T00:00:00Z", "2013-01-01T23:59:60Z", "2013-01-01T24:00:00Z", "2013-01-01T00:00:00.5Z",
    "2013-01-01T00:00:00.1234567Z", "2012-02-29T00:00:00Z", "2013-01-01T00:00:00+01:00", "2013-01-01T00:00:00",
    "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.9Z", "2013-04-31T00:00:00Z",
]  # fmt: skip
TEXTS = [f'"{day}"' for day in DAYS] + [
    '""', '"a"', '"é"', '"\\n"', '"\\u0061"', '"\\ud800"', '"\\ud83d\\ude00"', '"😀"', '"\\/"', '"\\"x"', '"\\q"',
    '"\t"', '"\x00"', '"\x7f"', '"true"', '"1"', '"Infinity"', '", NaN"', '"2013-01-01 00:00:00Z"', '"unterminated',
]  # fmt: skip
OTHERS = ["true", "false", "null", "{}", "[]", '{"a":1}', "[1,2]", "tru", "", "True", '{"a":{"b":[1]}}', "[[[]]]"]


def value(rolls: Random, kind: str) -> str:
    """Of the kind more often than not."""
    if rolls.random() < 0.25:
        return rolls.choice(rolls.choice([NUMBERS, TEXTS, OTHERS]))
    if kind == "bool":
        return rolls.choice(["true", "false"])
    if kind.startswith(("int", "uint", "float")):
        return rolls.choice(NUMBERS) if rolls.random() < 0.4 else str(rolls.randrange(100))
    if rolls.random() < 0.3:
        return rolls.choice(TEXTS)
    day = f"2013-{rolls.randrange(1, 13):02d}-{rolls.randrange(1, 29):02d}"
    return {"timestamp": f'"{day}T0{rolls.randrange(10)}:00:00Z"', "date": f'"{day}"'}.get(kind, f'"{day} x"')


def record(rolls: Random, kinds: dict[str, str]) -> bytes:
    """A record of most of the columns, and now and then something that is none."""
    names = [name for name in kinds if rolls.random() < 0.9] + ["other"] * (rolls.random() < 0.3)
    if names and rolls.random() < 0.02:
        names.append(names[0])
    rolls.shuffle(names)
    space = rolls.choice(["", " ", "\t", "\n", "\r"]) if rolls.random() < 0.1 else ""
    pairs = (f"{json.dumps(name)}{space}:{space}{value(rolls, kinds.get(name, 'string'))}" for name in names)
    text = "{" + f",{space}".join(pairs) + space + "}"
    spoiled = [text * 2, f"{text} x", "", text[:-1], f"[{text}]", text.replace("}", ",}"), f"\ufeff{text}", f"{text}\n"]
    whole = rolls.choice(spoiled) if rolls.random() < 0.08 else text
    body = whole.encode()
    return body.replace(b"x", b"\xff") if rolls.random() < 0.02 else body


def by_the_interpreter(columns: tuple[Column, ...], schema: pa.Schema, bodies: list[bytes]) -> tuple[pa.Table, object]:
    """(the rows, why others are none)."""
    reading = Reading(columns, [Records(1, 0.0, bodies)])
    parts = [arrow._batch(columns, schema, part, reading) for part in reading.slices()]
    return pa.Table.from_batches(parts, schema), reading.misfits


@pytest.mark.parametrize("seed", range(8))
def test_S62_S66_S68_columns_hold_the_same_whoever_reads_the_records(seed: int) -> None:
    rolls = Random(seed)
    taken = 0
    for _ in range(400):
        kinds = {f"c{n}": rolls.choice(KINDS) for n in range(rolls.randrange(1, 5))}
        given = {name: kind + " not null" * (rolls.random() < 0.2) for name, kind in kinds.items()}
        columns = columns_for(bytes, "parquet", schema=given)
        assert flat(columns)
        schema = arrow_schema(columns, rolls.choice(["us", "ns"]))
        bodies = [record(rolls, kinds) for _ in range(rolls.choice([1, 1, 2, 3]))]
        batch = quick_batch(columns, schema, bodies)
        if batch is None:
            continue
        taken += 1
        table, misfits = by_the_interpreter(columns, schema, bodies)
        assert not misfits, (given, bodies)
        # As text too: a zero and one with a sign are equal, and are not the same.
        mine = pa.Table.from_batches([batch], schema)
        assert mine.equals(table), (given, bodies)
        assert str(mine.to_pylist()) == str(table.to_pylist()), (given, bodies)
    assert taken > 40


def test_ordinary_records_go_by_arrows_own_reader() -> None:
    given = {
        "id": "int64 not null",
        "name": "string",
        "at": "timestamp",
        "day": "date",
        "late": "float64",
        "ok": "bool",
    }
    columns = columns_for(bytes, "parquet", schema=given)
    body = '{"id":1,"name":"Zoë \\"Inf\\" NaN","at":"2013-01-01T05:00:00.25Z","day":"2013-01-01","late":-0.5,"ok":true}'
    batch = quick_batch(columns, arrow_schema(columns), [body.encode()] * 3)
    assert batch is not None
    assert batch.num_rows == 3


@pytest.mark.parametrize(
    ("given", "bodies"),
    [
        ({"a": "int64"}, [b'{"a":1}{"a":2}', b""]),  # as many lines as rows
        ({"a": "int64"}, [b'{"a":1,"b":NaN}']),
        ({"a": "int64"}, [b'\xef\xbb\xbf{"a":1}']),
        ({"a": "float64"}, [b'{"a":-0}']),
        ({"a": "float64"}, [b'{"a":1e400}']),
        ({"a": "string"}, [b'{"a":"\\udc00"}']),
        ({"a": "string"}, [b'{"a":"\xff"}']),
        ({"a": "string"}, [b'{"a":1,"a":"x"}']),
        ({"a": "date"}, [b'{"a":"0000-01-01"}']),
        ({"a": "timestamp"}, [b'{"a":"2013-01-01T23:59:60Z"}']),
        ({"a": "int64 not null"}, [b'{"a":1}', b"{}"]),
        ({"a": "int64"}, [b'{"a":1,"b":' + b"[" * 2_000 + b"]" * 2_000 + b"}"]),
    ],
)
def test_what_the_two_readers_take_differently_is_left_to_the_interpreter(
    given: dict[str, str], bodies: list[bytes]
) -> None:
    columns = columns_for(bytes, "parquet", schema=given)
    assert quick_batch(columns, arrow_schema(columns), bodies) is None


def test_columns_that_nest_are_not_for_arrows_reader() -> None:
    assert not flat(columns_for(bytes, "parquet", schema={"a": "int64", "tags": "list<string>"}))
    assert not flat(columns_for(bytes, "parquet", schema={"a": "decimal(10,2)"}))
    assert not flat(columns_for(bytes, "parquet", schema={"a": "float32"}))
    assert not flat(columns_for(bytes, "parquet", schema={"a": "binary"}))
