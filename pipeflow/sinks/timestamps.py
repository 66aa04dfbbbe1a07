"""Times in prefixes, written as patterns of Java's DateTimeFormatter (Firehose: S42).

A pattern is taken apart once, when a stream is declared. Everything it cannot mean is refused there, by letter and
place, so that a time is only ever formatted and never found impossible.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from itertools import groupby
from typing import TypeAlias
from zoneinfo import ZoneInfo

from msgspec import Struct

Instant: TypeAlias = tuple[datetime, int]
"""(time in the stream's zone, nanoseconds within its second)."""

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LETTERS = "y u M L d D H h m s S a E e n"

_RESERVED = "[]{}#"
_PIECES = re.compile(r"'(?:[^']|'')*'|[A-Za-z]+|.", re.DOTALL)


class BadPattern(Exception):
    """A pattern that means nothing: what is wrong at which column of it, counted from 0."""

    def __init__(self, column: int, wrong: str) -> None:
        super().__init__(wrong)
        self.column = column


class Field(Struct, frozen=True):
    """One part of a pattern: how it is written, and something of its kind that no result is longer than."""

    render: Callable[[Instant], str]
    widest: str
    literal: bool = False


def fields(pattern: str) -> list[Field]:
    """The parts of a pattern in order; BadPattern for the first that is none."""
    parts: list[Field] = []
    for match in _PIECES.finditer(pattern):
        piece, column = match.group(), match.start()
        if piece == "'":
            raise BadPattern(column, "the quote is never closed; close it, or write '' for a quote itself")
        if piece[0] == "'":
            # A quoted part, or '' for the quote itself; within quotes '' is one quote too.
            parts.append(_text("'" if piece == "''" else piece[1:-1].replace("''", "'")))
        elif piece[0] in _RESERVED:
            raise BadPattern(column, f"{piece!r} is reserved; write it in quotes, as '{piece}'")
        elif not (piece[0].isascii() and piece[0].isalpha()):
            parts.append(_text(piece))
        else:
            for letter, run in groupby(piece):
                count = len(list(run))
                parts.append(_field(letter, count, column))
                column += count
    if not parts:
        raise BadPattern(0, f"the pattern is empty; write one such as yyyy/MM/dd, of the letters {LETTERS}")
    return parts


def instant(at: float, zone: tzinfo) -> Instant:
    """The moment in a zone, exact to the millisecond that arrivals are counted in (Firehose: S16)."""
    seconds, milliseconds = divmod(round(at * 1000), 1000)
    return datetime.fromtimestamp(seconds, zone), milliseconds * 1_000_000


def zone_named(name: str) -> tzinfo:
    """The zone of the tz database; ValueError when there is none. UTC is there on every system."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"no time zone {name!r} is known here") from error


def _field(letter: str, count: int, column: int) -> Field:
    if (letter == "y" and count == 2) or (letter == "u" and count == 2):
        return Field(lambda at: f"{at[0].year % 100:02d}", "00")
    known = _KNOWN.get(letter)
    if known is None:
        raise BadPattern(column, f"the letter {letter!r} is unknown here; use {LETTERS}, and quotes for text")
    most, make = known
    if count > most:
        raise BadPattern(column, f"{letter * count!r} has too many letters; use at most {most} of {letter!r}")
    return make(count)


def _text(text: str) -> Field:
    return Field(lambda at: text, text, literal=True)


def _number(of: Callable[[Instant], int], width: int) -> Callable[[int], Field]:
    """Padded with zeros to as many digits as there are letters; never longer than that or `width`."""
    return lambda count: Field(lambda at: f"{of(at):0{count}d}", "0" * max(count, width))


def _words(words: tuple[str, ...], of: Callable[[Instant], int]) -> Callable[[int], Field]:
    """Three letters and fewer: short; four: whole; five: the first letter."""

    def make(count: int) -> Field:
        ends = {4: None, 5: 1}
        written = [word[: ends.get(count, 3)] for word in words]
        return Field(lambda at: written[of(at)], max(written, key=len))

    return make


def _number_or_words(number: Callable[[int], Field], words: Callable[[int], Field]) -> Callable[[int], Field]:
    return lambda count: number(count) if count < 3 else words(count)


def _fraction(count: int) -> Field:
    return Field(lambda at: f"{at[1]:09d}"[:count], "0" * count)


def _half(count: int) -> Field:
    return Field(lambda at: "AM" if at[0].hour < 12 else "PM", "AM")


def _month(at: Instant) -> int:
    return at[0].month


def _weekday(at: Instant) -> int:
    return at[0].weekday()


def _sunday_first(at: Instant) -> int:
    return at[0].isoweekday() % 7 + 1


_year = _number(lambda at: at[0].year, 4)
_months = _number_or_words(_number(_month, 2), _words(MONTHS, lambda at: at[0].month - 1))

_KNOWN: dict[str, tuple[int, Callable[[int], Field]]] = {
    "y": (19, _year),
    "u": (19, _year),
    "M": (5, _months),
    "L": (5, _months),
    "d": (2, _number(lambda at: at[0].day, 2)),
    "D": (3, _number(lambda at: at[0].timetuple().tm_yday, 3)),
    "H": (2, _number(lambda at: at[0].hour, 2)),
    "h": (2, _number(lambda at: (at[0].hour + 11) % 12 + 1, 2)),
    "m": (2, _number(lambda at: at[0].minute, 2)),
    "s": (2, _number(lambda at: at[0].second, 2)),
    "S": (9, _fraction),
    "a": (1, _half),
    "E": (5, _words(DAYS, _weekday)),
    # The week begins on Sunday, as in Java's US locale.
    "e": (5, _number_or_words(_number(_sunday_first, 1), _words(DAYS, _weekday))),
    "n": (19, _number(lambda at: at[1], 9)),
}
"""By letter: how many may stand together, and what so many of them mean."""
