"""docs/cli.md speaks of every command and option there is, and of none that is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipeflow.cli.main import cli

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cli.md"


def commands(group: click.Group, above: str = "pipeflow") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{above} {name}")
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{above} {name}", command


def section(words: str) -> str:
    """What the page says under the heading that names this command."""
    found = [
        part
        for part in PAGE.read_text().split("\n## ")[1:]
        if words in re.findall(r"`([^`]+)`", part.partition("\n")[0])
    ]
    assert len(found) == 1, f"docs/cli.md has {len(found)} sections with `{words}` in their heading"
    return found[0]


def options(command: click.Command) -> set[str]:
    return {name for option in command.params for name in option.opts if name.startswith("--")}


COMMANDS = dict(commands(cli))
EVERYWHERE = {"--broker", "--app", "--json", "--fail-empty", "--help"} | options(cli)
"""Told once, at the top of the page."""


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_of_a_command_is_told_in_its_section(words: str) -> None:
    text = section(words)
    assert sorted(name for name in options(COMMANDS[words]) - EVERYWHERE if f"`{name}" not in text) == []


def test_every_option_the_page_names_exists() -> None:
    for part in PAGE.read_text().split("\n## ")[1:]:
        heading = re.findall(r"`(pipeflow [^`]+)`", part.partition("\n")[0])
        known = EVERYWHERE.union(*(options(COMMANDS[words]) for words in heading)) if heading else EVERYWHERE
        assert sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", part)) - known) == []


def test_what_commands_share_is_told_once() -> None:
    shared = PAGE.read_text().partition("\n## `")[0]
    assert sorted(name for name in EVERYWHERE if name not in shared) == []


def test_every_command_that_the_page_writes_down_exists() -> None:
    called = set(
        re.findall(
            r"^ {4}\$? ?(?:.*\| )?(pipeflow (?:(?:dlq|files|outbox|parked) )?[a-z]+)", PAGE.read_text(), re.MULTILINE
        )
    )
    assert called
    assert sorted(called - set(COMMANDS)) == []
