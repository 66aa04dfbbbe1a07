"""How the partition keys of a stream are written: a path, an object construction of jq, or a dict of expressions.

Only how keys and expressions are told apart is decided here, so that it holds for expressions of full jq too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from pipeflow.errors import ConfigurationError
from pipeflow.specs import KeyQuery

MAX_KEYS: Final = 50
"""Partition keys of one stream (Firehose: S51)."""

_NAME: Final = re.compile(
    r"(?:\s|#[^\r\n]*)*(?:(?P<word>[A-Za-z_][A-Za-z0-9_]*)|\"(?P<text>[^\"\\]*)\")\s*(?P<more>:|\Z)", re.ASCII
)
_PIECE: Final = re.compile(r"#[^\r\n]*|[^\"#(){}\[\],\\]+|.", re.DOTALL)
_PAIRS: Final = {")": "(", "]": "[", "}": "{"}


def key_queries(given: str | Mapping[str, str]) -> tuple[KeyQuery, ...]:
    """The keys and their expressions, in order. ConfigurationError says what was written wrong, and where."""
    if isinstance(given, str):
        queries = tuple(_of_text(given))
    else:
        for key, query in given.items():
            if not isinstance(key, str) or not isinstance(query, str):
                raise ConfigurationError(f"{key!r}: {query!r} is no expression; write texts such as {{'day': '.day'}}")
        queries = tuple(KeyQuery(key, query) for key, query in given.items())
    return _checked(queries, isinstance(given, str) and not given.strip().startswith("{"))


def _checked(queries: tuple[KeyQuery, ...], single: bool) -> tuple[KeyQuery, ...]:
    keys = [each.key for each in queries]
    if not 1 <= len(keys) <= MAX_KEYS:
        raise ConfigurationError(f"{len(keys)} partition keys; use 1 to {MAX_KEYS}")
    if not single and "" in keys:
        raise ConfigurationError("a partition key without a name; give it one")
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigurationError(f"the partition key {key} is there twice; use each name once")
    return queries


def _of_text(text: str) -> Iterator[KeyQuery]:
    if not text.strip():
        raise ConfigurationError("an empty expression; write a path such as '.carrier'")
    if not text.lstrip().startswith("{"):
        yield KeyQuery("", text.strip())
        return
    pieces = list(_entries(text))
    for number, (start, piece) in enumerate(pieces):
        if not piece.strip() and number and number == len(pieces) - 1:
            raise ConfigurationError(f"column {start + 1}: a name is expected behind the comma")
        match = _NAME.match(piece)
        if match is None:
            raise ConfigurationError(
                f"column {start + 1}: {piece.strip()[:40]!r} does not begin with the name of a key; write "
                "'{carrier: .carrier}'"
            )
        key = match["word"] if match["word"] is not None else match["text"]
        query = piece[match.end() :].strip() if match["more"] == ":" else f'."{key}"'
        if not query:
            raise ConfigurationError(f"column {start + match.end() + 1}: the key {key} has no expression")
        yield KeyQuery(key, query)


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """The entries of an object construction with their places: what stands between its own commas."""
    opened: list[str] = []
    at = start = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        assert piece is not None
        sign, before = piece[0], at
        at = piece.end()
        if sign == '"':
            at = _behind_text(text, before)
        elif sign in "([{":
            opened.append(sign)
            if len(opened) == 1:
                start = at
        elif sign in _PAIRS:
            if not opened or opened.pop() != _PAIRS[sign]:
                raise ConfigurationError(f"column {before + 1}: {sign!r} closes nothing")
            if not opened:
                if text[at:].strip():
                    raise ConfigurationError(
                        f"column {at + 1}: {text[at:].strip()[:40]!r} stands behind the object; write one object whose "
                        "values are the expressions"
                    )
                yield start, text[start:before]
                return
        elif sign == "," and len(opened) == 1:
            yield start, text[start:before]
            start = at
    raise ConfigurationError(f"column {len(text) + 1}: the object has no end")


def _behind_text(text: str, opened: int) -> int:
    """The place behind the text that begins here, interpolations with texts of their own included."""
    at, depth = opened + 1, 0
    while at < len(text):
        sign = text[at]
        if sign == "\\" and text[at + 1 : at + 2] == "(" and not depth:
            depth, at = 1, at + 2
        elif sign == "\\":
            at += 2
        elif depth and sign == '"':
            at = _behind_text(text, at)
        elif sign == '"':
            return at + 1
        else:
            depth += (sign == "(") - (sign == ")") if depth else 0
            at += 1
    raise ConfigurationError(f"column {opened + 1}: the text has no end")
