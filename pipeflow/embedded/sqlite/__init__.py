"""The journal on one SQLite file; nothing outside this package knows SQL."""
