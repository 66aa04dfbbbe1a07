"""Rows to stdout: a table on a terminal, aligned text in a pipe, JSON where it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import click
import msgspec
from msgspec import Struct

from pipeflow.cli.main import colour_wanted

Row: TypeAlias = Mapping[str, object]
C = TypeVar("C", bound=Callable[..., object])

NARROW = 12
"""What a wide column has at least."""


class Column(Struct, frozen=True):
    """One column: the key of its values, how they are written, and which side they lean to."""

    key: str
    title: str = ""
    write: Callable[[Any], str] = str
    right: bool = False
    plain: Callable[[Any], str] | None = None
    """How they are written in a pipe, when that is another way."""
    wide: bool = False
    """It takes what room is left, and is cut on a terminal."""
    rare: bool = False
    """On a terminal it is left out where it says nothing, `-` or 0 in every row."""
    spare: bool = False
    """On a terminal it is left out where there is no room for it."""

    @property
    def heading(self) -> str:
        """What stands above it."""
        return self.title or self.key


def count(value: int) -> str:
    """`27,004`."""
    return f"{value:,}"


def number(key: str, title: str = "", *, rare: bool = False, spare: bool = False) -> Column:
    """A column of counts: digits alone in a pipe, where programs read them."""
    return Column(key, title, count, right=True, plain=str, rare=rare, spare=spare)


def json_option(command: C) -> C:
    """`--json`: the whole answer as one JSON document."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def fail_empty_option(command: C) -> C:
    """`--fail-empty`: finding nothing ends with exit code 3."""
    return click.option("--fail-empty", is_flag=True, help="Exit with 3 when nothing is found.")(command)


def show(rows: Sequence[Row], columns: Sequence[Column], *, as_json: bool, empty: str = "") -> None:
    """Every row; `empty` goes to stderr when there is none."""
    if as_json:
        lines = ",\n".join(msgspec.json.encode(row).decode() for row in rows)
        click.echo(f"[\n{lines}\n]" if rows else "[]")
    elif not rows:
        if empty:
            say(empty)
    elif sys.stdout.isatty():
        _table(rows, columns)
    else:
        _plain(rows, columns)


def show_one(row: Row, text: str, *, as_json: bool) -> None:
    """One answer: a JSON object, or its sentence."""
    click.echo(msgspec.json.encode(row).decode() if as_json else text)


def say(text: str) -> None:
    """A remark for people: stderr, and not with `-q`."""
    from pipeflow.cli.main import verbosity

    if verbosity() >= 0:
        click.echo(text, err=True)


def found(something: object, fail_empty: bool) -> None:
    """End with exit code 3 when there is nothing and that was to count as failure."""
    if fail_empty and not something:
        raise click.exceptions.Exit(3)


def _cells(row: Row, columns: Sequence[Column], *, plain: bool) -> list[str]:
    writers = [(column.key, (column.plain if plain else None) or column.write) for column in columns]
    return ["" if row.get(key) is None else write(row[key]) for key, write in writers]


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """A table that fits the terminal; where none can, aligned text: a number cut short is a wrong number."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(color_system="auto" if colour_wanted(sys.stdout) else None)
    fitted = _fitted(rows, columns, console.width)
    if fitted is None:
        _plain(rows, columns)
        return
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column, width in fitted:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.heading, justify=justify, width=width, no_wrap=True, overflow="ellipsis")
    shown = [column for column, _ in fitted]
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row, shown, plain=False)))
    console.print(table)


def _fitted(rows: Sequence[Row], columns: Sequence[Column], room: int) -> list[tuple[Column, int]] | None:
    """The columns there is room for and their widths; None when even those that have to be there do not fit."""
    from rich.cells import cell_len

    left = [column for column in columns if not (column.rare and _says_nothing(rows, column))]
    cells = [[column.heading for column in left], *(_cells(row, left, plain=False) for row in rows)]
    widths = {
        column.key: max(map(cell_len, texts)) for column, texts in zip(left, zip(*cells, strict=True), strict=True)
    }
    while (spare := room - _least(left, widths)) < 0:
        dropped = next((column for column in reversed(left) if column.spare), None)
        if dropped is None:
            return None
        left.remove(dropped)
    for column in left:
        if column.wide:
            more = min(max(widths[column.key] - NARROW, 0), spare)
            widths[column.key] = min(widths[column.key], NARROW) + more
            spare -= more
    return [(column, widths[column.key]) for column in left]


def _least(columns: Sequence[Column], widths: Mapping[str, int]) -> int:
    """How wide a table of these is at least, with its edges and what stands between two columns."""
    cells = sum(min(widths[column.key], NARROW) if column.wide else widths[column.key] for column in columns)
    return cells + 3 * (len(columns) - 1) + 2


def _says_nothing(rows: Sequence[Row], column: Column) -> bool:
    return all(cell in ("", "-", "0") for row in rows for cell in _cells(row, [column], plain=False))


def _plain(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    lines = [[column.heading for column in columns], *(_cells(row, columns, plain=True) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for cells in lines:
        padded = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(cells, widths, columns, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def one_line(text: str) -> str:
    """The text without line breaks and control characters, which would break a table or a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
