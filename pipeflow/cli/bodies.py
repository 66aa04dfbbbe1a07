"""Where bodies come from: arguments, @files and stdin; each knows its place, so that a bad one can be found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from pipeflow.errors import CodecError
from pipeflow.messages import AttributeValue

BATCH = 500
"""Messages of one commit: a group of this size costs little more than a single one."""

BATCH_BYTES = 4 << 20
LARGEST_DOCUMENT = 256 << 20


class Body(msgspec.Struct, frozen=True, gc=False):
    """One body and where it was read."""

    content: bytes
    place: str


def bodies(arguments: Sequence[str], raw: bool, read: Callable[[int], None] = lambda size: None) -> Iterator[Body]:
    """Every body, in order; `read` is told how many bytes of files were consumed.

    An argument is one body. `@file` and `-` (stdin, also without any argument) hold one JSON document, or one a line.
    Unless `raw`, what is no JSON raises CodecError with its place.
    """
    if not arguments:
        if sys.stdin.isatty():
            raise click.UsageError("nothing to send: give a body, @FILE, or pipe JSON lines into stdin")
        arguments = ("-",)
    for position, argument in enumerate(arguments, 1):
        if argument == "-":
            yield from _lines(sys.stdin.buffer, "stdin", raw, read)
        elif argument.startswith("@"):
            with open(argument[1:], "rb") as file:
                yield from _lines(file, argument[1:], raw, read)
        else:
            yield _checked(argument.encode(), f"argument {position}", raw)


def files_size(arguments: Sequence[str]) -> int | None:
    """Bytes that `bodies` will read from files; None when some come from elsewhere."""
    if not arguments or not all(argument.startswith("@") for argument in arguments):
        return None
    paths = [Path(argument[1:]) for argument in arguments]
    return sum(path.stat().st_size for path in paths) if all(path.is_file() for path in paths) else None


def _lines(file: BinaryIO, name: str, raw: bool, read: Callable[[int], None]) -> Iterator[Body]:
    first = True
    for number, line in enumerate(file, 1):
        read(len(line))
        content = line.strip(b"\r\n") if raw else line.strip()
        if not content:
            continue
        if first and not raw and not is_json(content):
            yield _document(content, file, f"{name}:{number}", read)
            return
        first = False
        yield _checked(content, f"{name}:{number}", raw)


def _document(start: bytes, file: BinaryIO, place: str, read: Callable[[int], None]) -> Body:
    # A first line that is no JSON may open a document of many lines.
    rest = file.read(LARGEST_DOCUMENT)
    read(len(rest))
    whole = start + b"\n" + rest
    if not is_json(whole):
        return _checked(start, place, raw=False)
    return Body(whole.strip(), place)


def is_json(content: bytes) -> bool:
    """Whether these bytes are one JSON document."""
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _checked(content: bytes, place: str, raw: bool) -> Body:
    if not raw:
        try:
            msgspec.json.decode(content)
        except (msgspec.DecodeError, RecursionError) as error:
            shown = content[:40].decode(errors="replace")
            raise CodecError(
                f"{place}: {shown!r} is no JSON ({error}); write text in double quotes, or add --raw for plain bytes"
            ) from None
    return Body(content, place)


def batches(source: Iterator[Body]) -> Iterator[list[Body]]:
    """Bodies in batches of one commit each. A bad body raises after everything before it was handed out."""
    gathered: list[Body] = []
    size = 0
    failure: CodecError | None = None
    while failure is None:
        try:
            body = next(source, None)
        except CodecError as error:
            failure, body = error, None
        if body is None:
            break
        gathered.append(body)
        size += len(body.content)
        if len(gathered) >= BATCH or size >= BATCH_BYTES:
            yield gathered
            gathered, size = [], 0
    if gathered:
        yield gathered
    if failure is not None:
        raise failure


def attributes(written: Sequence[str]) -> dict[str, AttributeValue] | None:
    """`kind=placed` is text, `total:=5` is JSON: a number, true, false, or a list of them."""
    read: dict[str, AttributeValue] = {}
    for item in written:
        name, sign, value = item.partition("=")
        if not sign or not name.rstrip(":"):
            raise click.UsageError(f"--attr {item!r}: write NAME=TEXT, or NAME:=JSON for numbers and lists")
        if name.endswith(":"):
            read[name[:-1]] = _attribute(item, value)
        else:
            read[name] = value
    return read or None


def _attribute(item: str, value: str) -> AttributeValue:
    try:
        decoded: AttributeValue = msgspec.json.decode(
            value, type=str | int | float | bool | list[str | int | float | bool | None]
        )
    except msgspec.MsgspecError as error:
        raise click.UsageError(
            f"--attr {item!r}: {error}; write JSON text, a number, true, false or a list of these"
        ) from None
    return decoded
