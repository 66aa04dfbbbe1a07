"""The command itself: help, versions, errors, exit codes, pipes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import click
import pytest
from click.testing import Result

from pipeflow.cli.main import COMMANDS, cli, exit_code, leaf
from pipeflow.errors import (
    ConfigurationError,
    Indeterminate,
    MissingExtra,
    NotFound,
    StoreCorrupt,
    StoreOwned,
    Unavailable,
    UnknownScheme,
)
from pipeflow.version import __version__

Call = Callable[..., Result]
Python = Callable[..., Popen[str]]


def test_version_is_printed_without_loading_any_command(call: Call, python: Python) -> None:
    assert call("--version").stdout == f"pipeflow {__version__}\n"
    names = "[name for name in sys.modules if name.startswith(('rich', 'pipeflow.cli.'))]"
    shown, _ = python("-c", f"import sys, pipeflow.cli.main; print({names})").communicate()
    assert shown == "['pipeflow.cli.main']\n"


def test_help_lists_every_command_and_every_exit_code(call: Call) -> None:
    shown = call("--help").stdout
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert all(f"  {code} " in shown for code in (0, 1, 2, 3, 4, 5, 74, 130, 143))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_has_help(call: Call, name: str) -> None:
    shown = call(name, "--help")
    assert shown.exit_code == 0
    assert "Usage:" in shown.stdout


def test_python_dash_m_is_the_same_command(python: Python) -> None:
    shown, _ = python("-m", "pipeflow", "--version").communicate()
    assert shown == f"pipeflow {__version__}\n"


def test_a_wrong_command_is_a_usage_error_with_the_nearest_name(call: Call) -> None:
    shown = call("quues")
    assert shown.exit_code == 2
    assert "did you mean 'queues'?" in shown.stderr
    assert shown.stdout == ""


def test_a_wrong_subcommand_is_told_with_the_nearest_name_too(call: Call) -> None:
    shown = call("dlq", "redriv")
    assert shown.exit_code == 2
    assert "did you mean 'redrive'?" in shown.stderr


def test_a_wrong_option_is_a_usage_error(call: Call) -> None:
    shown = call("queues", "--nope")
    assert shown.exit_code == 2
    assert "--nope" in shown.stderr
    assert "try 'pipeflow queues --help'" in shown.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("no queue"), 1),
        (ConfigurationError("wrong"), 4),
        (UnknownScheme("what"), 4),
        (MissingExtra("s3", "s3"), 4),
        (StoreOwned("owned"), 4),
        (Unavailable("gone"), 74),
        (Indeterminate("maybe"), 74),
        (StoreCorrupt("damaged"), 74),
        (OSError(errno.ENOSPC, "No space left on device", "shop.db"), 74),
        (PermissionError(errno.EACCES, "Permission denied", "shop.db"), 1),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [Unavailable("gone")])]), 74),
    ],
)
def test_an_error_is_one_line_and_its_documented_exit_code(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert exit_code(error) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_what_matters_in_a_group_is_what_pipeflow_says() -> None:
    ours = NotFound("no queue")
    assert leaf(ExceptionGroup("tasks", [ValueError("a consequence"), ours])) is ours


def test_a_bug_shows_its_traceback_and_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(ZeroDivisionError("bug")) == 1
    assert "ZeroDivisionError: bug" in capsys.readouterr().err


def test_interrupts_end_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(click.Abort()) == 130


def test_verbose_shows_the_traceback_of_an_error(call: Call) -> None:
    assert "Traceback" not in call("queues", "--broker", "nope://x").stderr
    assert "Traceback" in call("-v", "queues", "--broker", "nope://x").stderr


def test_a_reader_that_goes_away_is_no_error(store: str, python: Python) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = python("-m", "pipeflow", "queues", "--json", stdout=writing)
    os.close(writing)
    assert process.communicate()[1] == ""
    assert process.returncode == 0


def test_a_terminal_gets_a_progress_bar_on_stderr_and_data_stays_on_stdout(
    store: str, python: Python, here: Path
) -> None:
    (here / "many.jsonl").write_text("1\n" * 1500)
    terminal, end = os.openpty()
    process = python("-m", "pipeflow", "send", "lenient", "@many.jsonl", "--json", stderr=end)
    os.close(end)
    shown = b""
    # A terminal whose other end is gone answers with an error instead of an end of file.
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 4096):
            shown += piece
    os.close(terminal)
    assert process.stdout is not None
    assert json.loads(process.stdout.read())["accepted"] == 1500
    assert "1,500 accepted" in shown.decode()
    assert "100%" in shown.decode()


def test_the_group_is_what_the_entry_point_runs() -> None:
    assert list(COMMANDS) == cli.list_commands(click.Context(cli))
