"""Stores of older formats, made of today's."""

BEFORE_7 = "DROP INDEX messages_kept; ALTER TABLE messages DROP COLUMN kept; PRAGMA user_version = 6;"
"""Undoes what the seventh format added."""
