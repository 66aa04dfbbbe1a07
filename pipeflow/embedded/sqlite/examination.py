"""Look at a store's file from outside, reading only: for doctors, while its owner works or when nobody does."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from msgspec import Struct

from pipeflow.embedded.sqlite import statements
from pipeflow.embedded.sqlite.recovery import decode_claim
from pipeflow.embedded.sqlite.schema import APPLICATION_ID, VERSION
from pipeflow.messages import Claim

FINDINGS: Final = 20
QUICK_CHECK: Final = f"PRAGMA quick_check({FINDINGS})"
FORMAT: Final = "PRAGMA user_version"
APPLICATION: Final = "PRAGMA application_id"


class Examined(Struct, frozen=True):
    """What the file says of itself, and what SQLite finds wrong with it."""

    format: int
    ours: bool
    known: bool
    """This version reads and writes the format."""
    damage: list[str]


def examine(path: Path) -> Examined:
    """Read the file once, whole; changes nothing. A file that is no database at all is damage too."""
    try:
        return _examined(path)
    except sqlite3.DatabaseError as error:
        return Examined(0, True, True, [f"{path}: {error}"])


def _examined(path: Path) -> Examined:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
    try:
        application = _number(connection, APPLICATION)
        version = _number(connection, FORMAT)
        told = [line for row in connection.execute(QUICK_CHECK) for line in str(row[0]).splitlines()]
        damage = [line for line in told if line != "ok" and not line.startswith("***")]
    finally:
        connection.close()
    return Examined(version, application == APPLICATION_ID, version <= VERSION, damage)


def claims_of(path: Path) -> list[Claim]:
    """The bodies that rows of this store refer to and that lie aside; none where it cannot be told."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        try:
            found = [decode_claim(kept) for (kept,) in connection.execute(statements.CLAIMS)]
        finally:
            connection.close()
    except sqlite3.DatabaseError:
        return []  # damaged, or of a format from before there were any
    return [claim for claim in found if claim is not None]


def sqlite_version() -> tuple[int, int, int]:
    """Of the library that this Python carries."""
    return sqlite3.sqlite_version_info


def _number(connection: sqlite3.Connection, statement: str) -> int:
    number: int = connection.execute(statement).fetchone()[0]
    return number
