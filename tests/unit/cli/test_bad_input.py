"""What is wrong is told in one line that names the thing, the place and the remedy, with a documented exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from click.testing import Result

from pipeflow.cli import opening
from pipeflow.formats.compress import compressor
from pipeflow.registry import open_store
from pipeflow.specs import StreamSpec, Topology

Call = Callable[..., Result]


def told(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [["queues"], ["send", "q", "1"], ["dlq", "ls", "q"], ["peek", "q"]])
def test_an_unknown_scheme_is_refused_with_the_known_ones(call: Call, command: list[str]) -> None:
    told(call(*command, "--broker", "kafka://host"), 4, "kafka://host", "sqlite://", "memory://")


@pytest.mark.parametrize(
    "command", [["files", "verify", "hooks"], ["replay", "hooks", "--to", "stream:hooks", "--errors"]]
)
def test_what_an_endpoint_does_not_give_back_is_told_by_its_host_alone(
    call: Call, store: str, command: list[str]
) -> None:
    hooks = StreamSpec("hooks", "https://hooks.example.org/CANARY?key=CANARY", compression="none")

    async def declared() -> None:
        opened = await open_store(store)
        await opened.declare(Topology(streams=(hooks,)))
        await opened.close()

    anyio.run(declared)
    result = call(*command)
    told(result, 4, "hooks: ", " https://hooks.example.org does not give back what it took; only sinks such as file://")
    assert "CANARY" not in result.stderr


def test_a_url_that_is_none_is_refused(call: Call) -> None:
    told(call("queues", "--broker", "shop.db"), 4, "write sqlite:///shop.db")
    told(call("doctor", "shop.db"), 4, "write sqlite:///shop.db")


def test_a_store_that_does_not_exist_is_not_made_by_asking(call: Call, here: Path) -> None:
    told(call("queues", "--broker", "sqlite:///none.db"), 4, "none.db", "start the app")
    told(call("send", "q", "1", "--broker", "sqlite:///none.db"), 4, "none.db")
    assert list(here.iterdir()) == []


def test_an_empty_file_or_a_directory_is_no_store(call: Call, here: Path) -> None:
    (here / "empty.db").touch()
    told(call("queues", "--broker", "sqlite:///empty.db"), 4, "empty.db is empty")
    told(call("queues", "--broker", f"sqlite:///{here}"), 4, "is a directory")
    assert (here / "empty.db").stat().st_size == 0


def test_a_store_in_memory_cannot_be_reached_from_outside(call: Call) -> None:
    told(call("queues", "--broker", "memory://"), 4, "memory://", "sqlite:///FILE")


def test_a_body_that_is_no_json_is_refused_before_it_is_sent(call: Call, store: str) -> None:
    told(call("send", "lenient", "hello"), 1, "argument 1", "hello", "--raw")
    told(call("peek", "lenient", "--fail-empty", "--where", "attempt!!3"), 4, "attempt!!3", "FIELD OP VALUE")


def test_a_message_over_the_limit_is_refused_with_its_place_and_the_limit(call: Call, store: str) -> None:
    large = '"' + "x" * (1 << 20) + '"'
    shown = call("send", "lenient", "-", input=f"1\n{large}\n2\n")
    assert shown.exit_code == 1
    refused = [line for line in shown.stderr.splitlines() if line.startswith("error: ")]
    assert len(refused) == 1
    assert refused[0].startswith("error: stdin:2: refused")
    assert str(1 << 20) in refused[0]
    assert "2 accepted, 1 refused" in shown.stderr


@pytest.mark.parametrize("policy", ['{"kind":"placed"}', '{"kind":[{"nope":1}]}', "{", "[]"])
def test_a_bad_filter_policy_is_refused_before_the_event_is_looked_at(call: Call, policy: str) -> None:
    told(call("match", "--policy", policy, "-", input="{}"), 4)


def test_a_queue_name_that_breaks_the_rules_is_refused_with_its_place(call: Call, here: Path) -> None:
    (here / "app.py").write_text("from pipeflow import App\napp = App('x')\nq = app.queue('no spaces please', int)\n")
    told(call("run"), 4, "no spaces please", "app.py:3", "letters")


def test_a_handler_whose_parameter_nothing_provides_is_refused_before_anything_runs(call: Call, here: Path) -> None:
    source = (
        "from pipeflow import App\napp = App('x', broker='sqlite:///x.db')\nq = app.queue('q', int)\n"
        "class Payments: ...\n@q.handler\nasync def charge(n: int, payments: Payments) -> None: ...\n"
    )
    (here / "app.py").write_text(source)
    told(call("run"), 4, "charge", "payments", "app.provide")
    assert not (here / "x.db").exists()


def test_a_directory_that_is_not_there_is_named(call: Call, here: Path) -> None:
    (here / "app.py").write_text("from pipeflow import App\napp = App('x', broker='sqlite:///none/x.db')\n")
    told(call("run"), 4, "none", "make it")


def test_a_directory_that_cannot_be_written_is_refused(call: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The owner of a file system may write everywhere, so the refusal is the kernel's in name only.
    import os

    real = os.open

    def refusing(path: str | os.PathLike[str], flags: int, *rest: int, **options: int) -> int:
        if flags & os.O_CREAT and str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *rest, **options)

    (here / "app.py").write_text("from pipeflow import App\napp = App('x', broker='sqlite:///x.db')\n")
    monkeypatch.setattr(os, "open", refusing)
    told(call("run"), 4, "x.db", "Permission denied", "writable")


def test_a_corrupted_database_is_refused_and_left_as_it_is(call: Call, here: Path) -> None:
    garbage = b"this is no database at all, but it has some length to it" * 100
    (here / "shop.db").write_bytes(garbage)
    told(call("queues", "--broker", "sqlite:///shop.db"), 74, "shop.db", "backup")
    assert (here / "shop.db").read_bytes() == garbage


def test_before_the_disk_is_full_sends_are_refused_and_nothing_else_is(call: Call, store: str) -> None:
    nearly = f"{store}?min_free={1 << 60}"
    shown = call("send", "lenient", "1", "--broker", nearly)
    assert shown.exit_code == 1
    assert "disk" in shown.stderr
    assert "free space" in shown.stderr
    assert call("purge", "billing", "--yes", "--broker", nearly).exit_code == 0


def test_a_full_disk_is_a_failure_of_the_store(call: Call, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> object:
        raise OSError(errno.ENOSPC, "No space left on device", "shop.db")

    monkeypatch.setattr(opening, "open_store", full)
    told(call("queues"), 74, "shop.db", "No space left on device")


def test_a_missing_file_of_bodies_is_named(call: Call, store: str) -> None:
    told(call("send", "lenient", "@none.jsonl"), 1, "none.jsonl", "No such file")


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from pipeflow import App\napp = App('x', broker='sqlite:///x.db')\n"
        "lake = app.stream('lake', int, sink='file://./lake', compression='zstd')\n"
    )
    (here / "app.py").write_text(source)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    # Found once, the compressor is kept for the process: another test may have found it.
    compressor.cache_clear()
    told(call("run"), 4, "stream lake", "zstd", "pip install 'pipeflow[fast]'")


def test_a_bad_filter_in_the_app_is_refused_with_its_place(call: Call, here: Path) -> None:
    source = (
        "from pipeflow import App\napp = App('x')\norders = app.topic('orders', dict)\n"
        "q = app.queue('q', dict, orders.where_body({'total': [{'numeric': ['>>', 3]}]}))\n"
    )
    (here / "app.py").write_text(source)
    told(call("run"), 4, "app.py:4", "numeric")


def test_a_sink_that_nothing_answers_to_is_refused_before_anything_runs(call: Call, here: Path) -> None:
    source = (
        "from pipeflow import App\napp = App('x', broker='sqlite:///x.db')\n"
        "lake = app.stream('lake', int, sink='ftp://host/lake')\n"
    )
    (here / "app.py").write_text(source)
    told(call("run"), 4, "ftp://host", "file://")
