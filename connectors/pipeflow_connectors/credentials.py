"""A secret by reference, read when it is used: `env:NAME` or `file:PATH`. Its value is in no error and in no store."""

from __future__ import annotations

import os
import stat

LONGEST = 4096
"""Bytes of an access key (Firehose: S75)."""


class NoSecret(Exception):
    """It cannot be read; the text names the reference and the remedy."""


def secret(reference: str) -> str:
    """The value behind a reference, without the newline that editors put behind it."""
    kind, _, place = reference.partition(":")
    value = os.environ.get(place) if kind == "env" else _file(place)
    if value is None:
        raise NoSecret(f"{reference}: the environment has no {place}; set it")
    value = value.rstrip("\r\n")
    if not value or not value.isascii() or not value.isprintable() or len(value) > LONGEST:
        raise NoSecret(f"{reference}: its value is no header: use 1 to {LONGEST} printable characters of ASCII")
    return value


def _file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise NoSecret(f"file:{path}: others can read it (mode {mode:04o}); run chmod 600 {path}")
            return file.read(LONGEST + 3).decode("ascii", "replace")
    except OSError as error:
        raise NoSecret(f"file:{path}: {error.strerror}; write the key there, with mode 0600") from error
