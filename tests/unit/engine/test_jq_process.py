"""jq in a process of its own: what it answers, what it is not let do, and what becomes of a record that it dies of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from pipeflow.clock import SystemClock
from pipeflow.engine.jq_process import BATCH, Jq, placing
from pipeflow.errors import ConfigurationError
from pipeflow.queries.words import FORBIDDEN, forbidden_word
from pipeflow.specs import KeyQuery

pytest.importorskip("jq", reason="the extra `jq` is not installed")

TOO_MUCH = "jq took too much time or memory for this record alone"


async def answers(query: str, *records: bytes) -> list[str]:
    async with placing((KeyQuery("key", query),), "/".join, "stream lake")(SystemClock()) as place:
        return [str(answer) for answer in await place(records)]


async def test_S51_many_records_are_answered_in_order_and_each_for_itself() -> None:
    records = [b'{"tags": ["%d", "x"]}' % number for number in range(3 * BATCH)]
    records[BATCH] = b'{"tags": "none"}'
    found = await answers(".tags | map(.) | first", *records)
    assert found[:2] == ["0", "1"]
    assert found[-1] == str(3 * BATCH - 1)
    assert "Cannot iterate over string" in found[BATCH]


@pytest.mark.parametrize(
    ("query", "record", "why"),
    [
        (".[]", b'["a", "b"]', "answers more than once"),
        ("empty", b"1", "answers nothing"),
        (".a // (.b | first)", b"{}", "answers with null; a partition key is"),
        ("map(.)", b"[]", "answers with an array"),
        (".", b"{} {}", "not one JSON document"),
        (". as $x | $x", b'"\xff"', "not one JSON document"),
        ('[limit(1e5; repeat("x"))] | add', b"1", "answers with 100010 characters; at most"),
        ("getpath([1e300])", b"1", "Cannot index number"),
    ],
)
async def test_S52_what_is_no_key_fails_the_record(query: str, record: bytes, why: str) -> None:
    (answer,) = await answers(query, record)
    assert why in answer


@pytest.mark.parametrize(
    ("query", "poison"),
    [
        ('if .n then last(range(infinite)) else "ok" end', b'{"n": 1}'),
        ('if .n then [limit(infinite; repeat("x"))] | length else "ok" end', b'{"n": 1}'),
        ('def f: f | f; if .n then f else "ok" end', b'{"n": 1}'),
        ('if .n then reduce range(60) as $i ("0123456789abcdef"; . + .) | length else "ok" end', b'{"n": 1}'),
        ('if .n then [range(.n)] | length else "ok" end', b'{"n": 1e12}'),
        ('if .n then last(recurse(. + {})) else "ok" end', b'{"n": 1}'),
    ],
    ids=[
        "endless range",
        "endless limit",
        "recursion",
        "doubling",
        "a range that the record asks for",
        "endless recurse",
    ],
)
async def test_a_record_that_jq_runs_away_with_fails_alone_and_those_around_it_are_answered(
    query: str, poison: bytes
) -> None:
    found = await answers(query, b"{}", b"{}", poison, b"{}")
    assert found == ["ok", "ok", TOO_MUCH, "ok"]


@pytest.mark.parametrize("word", sorted(FORBIDDEN))
def test_a_word_that_is_about_more_than_the_record_is_refused_when_declared(word: str) -> None:
    for query in (word, f".a | {word}", f'"\\({word})"', f"[1, {word}]", f"def f: {word}; f"):
        with pytest.raises(ConfigurationError, match=r"column \d+: '.*' is about more than the record"):
            placing((KeyQuery("key", query),), "/".join, "stream lake: partition_by '.': column 1: ?")


def test_such_words_are_free_as_fields_and_in_texts() -> None:
    for query in (
        ".env",
        ".a.input?",
        '"input"',
        '."now"',
        ".debug | length",
        "# input\n.",
        ".environment",
        '"\\(.now)(now)"',
        '"\\\\(now)"',
    ):
        assert forbidden_word(query) is None
    assert forbidden_word("$ ENV") == ("$ENV", 1)


@pytest.mark.parametrize(
    "query",
    [
        r'"\("#")\(now)"',
        r'"\("\("#")" | (.))\(now)"',
        '"\\\\\\(now)"',
        '# \\\n"\n. | now # "',
        '# \r"\n. | now # "',
        '. # "\n| now # "',
    ],
    ids=["a text in a text", "and another in that", "behind a backslash", "a comment goes on", "a return", "a quote"],
)
def test_such_words_are_found_wherever_a_version_of_jq_would_run_them(query: str) -> None:
    found = forbidden_word(query)
    assert found is not None
    assert found[0] == "now"


def test_what_jq_does_not_take_is_refused_when_declared_with_what_it_says() -> None:
    with pytest.raises(ConfigurationError, match=r"stream lake; and jq does not take it: .*syntax error"):
        placing((KeyQuery("key", "[.a"),), "/".join, "stream lake")
    with pytest.raises(ConfigurationError, match=r"nosuch/0 is not defined"):
        placing((KeyQuery("key", "nosuch"),), "/".join, "stream lake")


def child() -> int:
    """The one process of jq that this one has started and that runs."""
    (pid,) = children()
    return pid


def children() -> list[int]:
    """Processes of jq: other tests keep servers running."""
    mine = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in mine if b"jq_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_the_process_has_no_environment_little_memory_and_no_files_and_ends_with_its_scope(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIPEFLOW_TEST_SECRET", "canary")
    async with placing((KeyQuery("key", ".a[]"),), "/".join, "stream lake")(SystemClock()) as place:
        assert await place([b'{"a": ["x"]}']) == ["x"]
        pid = child()
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        found = {line[:25].strip(): line.split()[-3:-1] for line in limits}
        assert found["Max address space"] == [str(256 << 20)] * 2
        assert found["Max open files"] == ["3", "3"]
        assert found["Max file size"] == ["0", "0"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_being_cancelled_over_a_record_that_never_ends_ends_the_process() -> None:
    async with placing((KeyQuery("key", "last(range(infinite))"),), "/".join, "stream lake")(SystemClock()) as place:
        with anyio.move_on_after(0.3) as cancelled:
            await place([b"1"])
        assert cancelled.cancelled_caught
        assert children() == []


async def test_a_process_that_is_gone_is_started_again() -> None:
    async with placing((KeyQuery("key", ".a[]"),), "/".join, "stream lake")(SystemClock()) as place:
        assert await place([b'{"a": [1]}']) == ["1"]
        os.kill(child(), 9)
        assert await place([b'{"a": [2]}']) == ["2"]


class Unstartable(Jq):
    """Its command is missing the first time."""

    starts = 0

    async def _start(self) -> None:
        self.starts += 1
        if self.starts == 1:
            raise OSError("no such process")
        await super()._start()


async def test_a_process_that_does_not_start_is_tried_again_and_no_record_is_failed_for_it() -> None:
    asked = Unstartable(_command(), '{"key": (.a[])} | tojson', SystemClock())
    async with asked:
        assert await asked.answers([b'{"a": ["x"]}']) == [b'{"key":"x"}']
    assert asked.starts == 2


def _command() -> Sequence[str]:
    import jq

    from pipeflow.engine import jq_worker

    return [sys.executable, "-I", "-S", jq_worker.__file__, os.path.dirname(jq.__file__)]


def test_the_process_ends_when_whoever_started_it_is_gone() -> None:
    program = b". | tojson"
    started = subprocess.Popen(_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={})
    out, _ = started.communicate(len(program).to_bytes(4) + program, timeout=30)
    assert out == bytes(4)
    assert started.returncode == 0


async def test_records_larger_than_a_pipe_do_not_wait_for_each_other() -> None:
    bodies = [b'{"a": ["%s"], "b": "%s"}' % (b"x" * 50, b"y" * 400_000)] * 8
    assert await answers(".a[]", *bodies) == ["x" * 50] * 8
