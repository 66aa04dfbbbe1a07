"""Durations and sizes as people write and read them: 500ms 30s 5m 2h 7d, 5.0 MiB."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)\Z")


def duration(written: str) -> float:
    """Seconds, from `500ms`, `30s`, `5m`, `2h`, `7d` or a bare number of seconds; for click's options."""
    found = _QUANTITY.match(written.strip())
    if found is None or found[2] not in _SECONDS:
        raise click.BadParameter(f"{written!r} is no duration; write 500ms, 30s, 5m, 2h or 7d")
    return float(found[1]) * _SECONDS[found[2]]


def rate(written: str) -> float:
    """Things a second, from `100/s`, `6000/m` or a bare number; for click's options."""
    number, _, unit = written.strip().partition("/")
    try:
        return float(number) / _SECONDS[unit.strip()]
    except (ValueError, KeyError):
        raise click.BadParameter(f"{written!r} is no rate; write 100/s, or 6000/m") from None


def moment(written: str, now: float) -> float:
    """Epoch seconds, from `2026-11-25T08:00:00Z`, a date, or a duration: so long ago. Without a zone it is UTC."""
    if _QUANTITY.match(written.strip()):
        return now - duration(written)
    try:
        found = datetime.fromisoformat(written.strip())
    except ValueError:
        raise click.BadParameter(f"{written!r} is no time; write 2026-11-25T08:00:00Z, or 2h for so long ago") from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def clock_time(at: float) -> str:
    """`2026-11-25T08:00:00Z`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def bytes_of(written: str) -> int:
    """Bytes, from `128MiB`, `512KiB`, `1GB` or a bare number of bytes; for click's options."""
    found = _QUANTITY.match(written.strip())
    if found is None or found[2].lower() not in _SIZES:
        raise click.BadParameter(f"{written!r} is no size; write 512KiB, 128MiB or 1GiB")
    return int(float(found[1]) * _SIZES[found[2].lower()])


def seconds(value: float) -> str:
    """`0.4s`, `42s`, `5m 3s`, `2h 4m`, `7d 1h`."""
    if value < 10:
        return f"{value:.1f}s" if value % 1 else f"{value:.0f}s"
    whole = round(value)
    for size, unit, below, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{unit} {rest}{smaller}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def size(value: int) -> str:
    """`512 B`, `1.5 KiB`, `20 MiB`."""
    amount, unit = float(value), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
