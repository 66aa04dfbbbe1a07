"""What calls may say that an owner of an older version does not know: it would pass over it in silence.

An owner names in its greeting what it has learned since the first of its protocol, and a client refuses to ask it for
the rest. Owners of this version know everything, and nothing is looked at then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import fields

Fields: TypeAlias = Mapping[str, tuple[str, ...]]

LEARNED: Final[Fields] = {"Release": ("delay",)}
"""By struct of a call: the fields that it got since, each with a default; what stands here is never taken out."""


def missing(known: Fields) -> Fields:
    """What an owner does not know that knows this."""
    found = {name: tuple(each for each in news if each not in known.get(name, ())) for name, news in LEARNED.items()}
    return {name: news for name, news in found.items() if news}


def unknown(said: object, lacks: Fields) -> str | None:
    """The first thing in a call that an owner lacks, as it would be written; None: it knows all of it."""
    if isinstance(said, Struct):
        news = lacks.get(type(said).__name__, ())
        for field in fields(said):
            value = getattr(said, field.name)
            if field.name in news and value != field.default:
                return f"{type(said).__name__}({field.name}={value!r})"
            if (inside := unknown(value, lacks)) is not None:
                return inside
    elif isinstance(said, list | tuple):
        return next((inside for each in said if (inside := unknown(each, lacks)) is not None), None)
    return None
