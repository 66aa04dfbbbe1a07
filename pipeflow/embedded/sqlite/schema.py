"""The tables of a store, their version, and the steps from older versions.

`application_id` says that the file is pipeflow's, `user_version` which format it has. A newer format is refused; an
older one is migrated, one step a transaction, after a copy of the file was made.
"""

from __future__ import annotations

from typing import Final

from pipeflow.embedded.sqlite import audit, catalogue, streams

APPLICATION_ID: Final = 0x70666C77  # "pflw"
VERSION: Final = 8
MARKED_SINCE: Final = 7
"""The version from which rows that are out of line are marked: older ones are when they are brought to it."""

CLAIMS: Final = (
    # A shared body that is kept aside has its pointer in place of its bytes.
    "CREATE INDEX bodies_claim ON bodies (number) WHERE claim IS NOT NULL",
    """
    CREATE TABLE doomed (
        number INTEGER PRIMARY KEY,
        claim BLOB NOT NULL
    )
    """,
    # By a trigger, so that no way on which a last reference goes can leave the bytes behind.
    """
    CREATE TRIGGER bodies_doomed AFTER DELETE ON bodies WHEN old.claim IS NOT NULL
    BEGIN
        INSERT INTO doomed (claim) VALUES (old.claim);
    END
    """,
)

EXPIRES_INDEX: Final = "CREATE INDEX messages_expires ON messages (key >> 43, expires, key) WHERE expires IS NOT NULL"

KEPT_INDEX: Final = "CREATE INDEX messages_kept ON messages (key >> 43, kept, key) WHERE kept IS NOT NULL"

TABLES: Final = (
    """
    CREATE TABLE facts (
        name TEXT PRIMARY KEY,
        value NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE nouns (
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        number INTEGER NOT NULL,
        spec BLOB NOT NULL,
        crc INTEGER NOT NULL,
        PRIMARY KEY (kind, name)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE queue_counters (
        number INTEGER PRIMARY KEY,
        counters BLOB NOT NULL,
        crc INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE topic_counters (
        number INTEGER PRIMARY KEY,
        counters BLOB NOT NULL,
        crc INTEGER NOT NULL
    )
    """,
    # A message's key is its queue's number and its place: one B-tree holds every queue in order, so that a tail is
    # read, appended to and cut off without a second index.
    # `grp` is the name a message is found by: its group's, or that of the key of one that is delayed.
    # `kept` is set where the moment that retention counts from does not go up with the place.
    """
    CREATE TABLE messages (
        key INTEGER PRIMARY KEY,
        due REAL,
        grp TEXT,
        held REAL,
        expires REAL,
        kept REAL,
        head BLOB NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB,
        shared INTEGER
    )
    """,
    "CREATE INDEX messages_due ON messages (key >> 43, due, key) WHERE due IS NOT NULL",
    "CREATE INDEX messages_group ON messages (key >> 43, grp, key) WHERE grp IS NOT NULL",
    "CREATE INDEX messages_held ON messages (key) WHERE held IS NOT NULL",
    EXPIRES_INDEX,
    KEPT_INDEX,
    # Damaged rows as they were found, for whoever repairs them; nothing ever deletes them.
    """
    CREATE TABLE quarantine (
        key INTEGER PRIMARY KEY,
        head BLOB NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB,
        shared INTEGER
    )
    """,
    """
    CREATE TABLE bodies (
        number INTEGER PRIMARY KEY,
        refs INTEGER NOT NULL,
        body BLOB NOT NULL,
        claim BLOB
    )
    """,
    *CLAIMS,
    """
    CREATE TABLE known (
        scope INTEGER NOT NULL,
        digest BLOB NOT NULL,
        at REAL NOT NULL,
        id TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        PRIMARY KEY (scope, digest)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX known_at ON known (at)",
    """
    CREATE TABLE sources (
        name TEXT PRIMARY KEY,
        position BLOB NOT NULL,
        crc INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    *audit.TABLES,
)

MIGRATIONS: Final[dict[int, tuple[str, ...]]] = {
    1: (*catalogue.NEW_IN_2, streams.TROUBLE_TABLE),
    2: ("ALTER TABLE bodies ADD COLUMN claim BLOB", *CLAIMS),
    3: ("ALTER TABLE messages ADD COLUMN expires REAL", EXPIRES_INDEX),
    4: audit.TABLES,
    # Delayed messages may have the name of their key in `grp`: an older pipeflow would take it for a group's.
    5: (),
    # `recovery` marks the rows that are out of line.
    6: ("ALTER TABLE messages ADD COLUMN kept REAL", KEPT_INDEX),
    # Groups may lie in the commit log only: an older pipeflow would not look there.
    7: (),
}
"""From version n to n + 1: statements of one transaction."""
