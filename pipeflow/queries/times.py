"""jq's time functions, in UTC and in English whatever the machine says: seconds, dates in eight parts, and text.

A date is [year, month from 0, day, hour, minute, second, day of the week from Sunday 0, day of the year from 0]. Years
go from 1 to 9999. The letters of a format are those that every libc writes alike; others are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from pipeflow.queries.values import QueryError, double, is_number, kind

ISO: Final = "%Y-%m-%dT%H:%M:%SZ"
EPOCH: Final = datetime(1970, 1, 1)
DAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS: Final = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
PARTS: Final = 6
"""Parts that a date needs: the day of the week and of the year follow from them."""


def gmtime(value: Any) -> list[Any]:
    """Seconds since 1970 as a date; fractions stay with the seconds."""
    if not is_number(value):
        raise QueryError(f"gmtime needs a number of seconds, not {kind(value)}")
    seconds = double(value)
    if not math.isfinite(seconds):
        raise QueryError("gmtime needs a finite number of seconds")
    # Before 1970 jq cuts the seconds off towards it, and adds the fraction all the same.
    return _date(_moment(math.trunc(seconds)), seconds - math.floor(seconds))


def mktime(value: Any) -> float:
    """A date as seconds since 1970. The two seconds before it are none, as in jq, which takes them for errors."""
    seconds = (_normal(value, "mktime") - EPOCH) // timedelta(seconds=1)
    if seconds in (-1, -2):
        raise QueryError(f"mktime: {seconds} is no number of seconds in jq")
    return float(seconds)


def strftime(value: Any, form: Any) -> str:
    """Seconds or a date as text."""
    if type(form) is not str:
        raise QueryError(f"strftime needs a text as its format, not {kind(form)}")
    moment = _moment(math.trunc(_seconds(value))) if is_number(value) else _normal(value, "strftime")
    return _writer(form)(moment)


def strptime(value: Any, form: Any) -> list[Any]:
    """Text as a date. An offset that `%z` reads is passed over, as in jq."""
    if type(value) is not str:
        raise QueryError(f"strptime needs a text, not {kind(value)}")
    if type(form) is not str:
        raise QueryError(f"strptime needs a text as its format, not {kind(form)}")
    match = _reader(form).fullmatch(value)
    if match is None:
        raise QueryError(f"{value[:60]!r} does not match the format {form!r}")
    return _date(_read(match.groupdict(), value), 0)


def check_format(form: str, function: str) -> None:
    """QueryError for a letter that `strftime` or `strptime` does not know here."""
    (_writer if function == "strftime" else _reader)(form)


def _seconds(value: Any) -> float:
    seconds = double(value)
    if not math.isfinite(seconds):
        raise QueryError("strftime needs a finite number of seconds")
    return seconds


def _moment(seconds: int) -> datetime:
    try:
        return EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        raise QueryError(f"{seconds} seconds are not in the years 1 to 9999") from None


def _date(moment: datetime, fraction: float) -> list[Any]:
    second: int | float = moment.second + fraction if fraction else moment.second
    return [
        moment.year,
        moment.month - 1,
        moment.day,
        moment.hour,
        moment.minute,
        second,
        moment.isoweekday() % 7,
        moment.timetuple().tm_yday - 1,
    ]


def _normal(value: Any, function: str) -> datetime:
    """A date with parts out of their range carried over: the 32nd of January is the 1st of February."""
    if type(value) is not list or len(value) < PARTS or not all(map(is_number, value[:PARTS])):
        raise QueryError(f"{function} needs a number of seconds or a date such as gmtime makes, not {kind(value)}")
    parts = [double(part) for part in value[:PARTS]]
    if not all(abs(part) < 1e12 for part in parts):
        raise QueryError(f"{function}: a part of the date is out of any range")
    year, month, day, hour, minute, second = map(int, parts)
    year, month = year + month // 12, month % 12
    try:
        return datetime(year, month + 1, 1) + timedelta(days=day - 1, hours=hour, minutes=minute, seconds=second)
    except (ValueError, OverflowError):
        raise QueryError(f"{function}: the date is not in the years 1 to 9999") from None


# Writing

Write = Callable[[datetime], str]

_SHORTHANDS: Final = {"T": "%H:%M:%S", "F": "%Y-%m-%d", "D": "%m/%d/%y", "R": "%H:%M", "h": "%b", "n": "\n", "t": "\t"}
_LETTERS: Final[dict[str, Write]] = {
    "Y": lambda at: str(at.year),
    "C": lambda at: f"{at.year // 100:02d}",
    "y": lambda at: f"{at.year % 100:02d}",
    "m": lambda at: f"{at.month:02d}",
    "d": lambda at: f"{at.day:02d}",
    "e": lambda at: f"{at.day:2d}",
    "j": lambda at: f"{at.timetuple().tm_yday:03d}",
    "H": lambda at: f"{at.hour:02d}",
    "I": lambda at: f"{(at.hour + 11) % 12 + 1:02d}",
    "k": lambda at: f"{at.hour:2d}",
    "l": lambda at: f"{(at.hour + 11) % 12 + 1:2d}",
    "M": lambda at: f"{at.minute:02d}",
    "S": lambda at: f"{at.second:02d}",
    "p": lambda at: "AM" if at.hour < 12 else "PM",
    "a": lambda at: DAYS[at.isoweekday() % 7][:3],
    "A": lambda at: DAYS[at.isoweekday() % 7],
    "b": lambda at: MONTHS[at.month - 1][:3],
    "B": lambda at: MONTHS[at.month - 1],
    "u": lambda at: str(at.isoweekday()),
    "w": lambda at: str(at.isoweekday() % 7),
    "U": lambda at: f"{(at.timetuple().tm_yday + 6 - at.isoweekday() % 7) // 7:02d}",
    "W": lambda at: f"{(at.timetuple().tm_yday + 6 - at.weekday()) // 7:02d}",
    "V": lambda at: f"{at.isocalendar().week:02d}",
    "G": lambda at: str(at.isocalendar().year),
    "g": lambda at: f"{at.isocalendar().year % 100:02d}",
    "z": lambda at: "+0000",
    "Z": lambda at: "UTC",
}


@lru_cache(maxsize=64)
def _writer(form: str) -> Write:
    pieces = [_LETTERS[letter] if letter else _constant(text) for letter, text in _pieces(form, _LETTERS, "strftime")]
    if len(pieces) == 1:
        return pieces[0]
    return lambda at: "".join([piece(at) for piece in pieces])


def _constant(text: str) -> Write:
    return lambda at: text


def _pieces(form: str, letters: dict[str, Any], function: str) -> list[tuple[str, str]]:
    """The format in pieces: (letter, "") or ("", text)."""
    found: list[tuple[str, str]] = []
    for token in re.findall(r"%.?|[^%]+", form, re.DOTALL):
        letter = token[1:]
        if token[0] != "%":
            found.append(("", token))
        elif letter == "%":
            found.append(("", "%"))
        elif letter in _SHORTHANDS:
            found += _pieces(_SHORTHANDS[letter], letters, function)
        elif letter in letters:
            found.append((letter, ""))
        else:
            known = "".join(sorted([*letters, *_SHORTHANDS]))
            raise QueryError(f"{function} does not know {token!r}; it knows the letters {known}")
    return found


# Reading

_PATTERNS: Final[dict[str, str]] = {
    "Y": r"\s*(?P<Y>[0-9]{1,4})",
    "m": r"\s*(?P<m>1[0-2]|0?[1-9])",
    "d": r"\s*(?P<d>3[01]|[12][0-9]|0?[1-9])",
    "e": r"\s*(?P<d>3[01]|[12][0-9]|0?[1-9])",
    "H": r"\s*(?P<H>2[0-3]|[01]?[0-9])",
    "M": r"\s*(?P<M>[0-5]?[0-9])",
    "S": r"\s*(?P<S>60|[0-5]?[0-9])",
    "a": "(?:{})".format("|".join(f"{day}|{day[:3]}" for day in DAYS)),
    "A": "(?:{})".format("|".join(f"{day}|{day[:3]}" for day in DAYS)),
    "b": "(?P<b>{})".format("|".join(f"{month}|{month[:3]}" for month in MONTHS)),
    "B": "(?P<b>{})".format("|".join(f"{month}|{month[:3]}" for month in MONTHS)),
    "z": r"\s*(?:Z|[+-][0-9]{2}:?(?:[0-9]{2})?)",
    "Z": r"\s*[A-Za-z]+",
}


@lru_cache(maxsize=64)
def _reader(form: str) -> re.Pattern[str]:
    pattern, seen = "", set[str]()
    for letter, text in _pieces(form, _PATTERNS, "strptime"):
        if letter:
            piece = _PATTERNS[letter]
            name = re.search(r"\?P<(\w)>", piece)
            if name and name[1] in seen:
                raise QueryError(f"strptime reads %{letter} once; the format {form!r} holds it again")
            seen.add(name[1] if name else "")
            pattern += piece
        else:
            pattern += "".join(r"\s*" if part.isspace() else re.escape(part) for part in re.split(r"(\s+)", text))
    if not {"Y", "d"} <= seen or not seen & {"m", "b"}:
        raise QueryError(f"strptime needs a year, a month and a day; the format {form!r} lacks one")
    return re.compile(pattern, re.ASCII | re.IGNORECASE)


def _read(found: dict[str, str], value: str) -> datetime:
    month = int(found["m"]) if "m" in found else _month(found["b"])
    second = int(found.get("S", 0))
    try:
        at = datetime(int(found["Y"]), month, int(found["d"]), int(found.get("H", 0)), int(found.get("M", 0)))
        return at + timedelta(seconds=second)
    except (ValueError, OverflowError):
        raise QueryError(f"{value[:60]!r} is no date in the years 1 to 9999") from None


def _month(name: str) -> int:
    return next(number for number, month in enumerate(MONTHS, 1) if month[:3].lower() == name[:3].lower())
