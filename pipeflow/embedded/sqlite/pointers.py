"""Which bodies kept aside rows refer to, as the tables say it."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Final

from pipeflow.embedded.sqlite.recovery import decode_claim
from pipeflow.messages import Claim

POINTER: Final = "SELECT claim FROM bodies WHERE number = ? AND claim IS NOT NULL"
POINTERS_BEHIND: Final = """
    SELECT number, claim FROM bodies
    WHERE claim IS NOT NULL AND number > ?
    ORDER BY number
    LIMIT ?
"""


def pointers(connection: Connection, numbers: Sequence[int]) -> dict[int, Claim | None]:
    """Of these numbers those that rows refer to; None where the pointer is damaged."""
    found = ((number, connection.execute(POINTER, (number,)).fetchone()) for number in numbers)
    return {number: decode_claim(row[0]) for number, row in found if row is not None}


def pointers_behind(connection: Connection, number: int, limit: int) -> list[tuple[int, Claim | None]]:
    """The next numbers, in order, with what they point to; None where the pointer is damaged."""
    rows = connection.execute(POINTERS_BEHIND, (number, limit)).fetchall()
    return [(each, decode_claim(kept)) for each, kept in rows]
