"""What URLs may not hold: they are remembered, logged and shown."""

from __future__ import annotations

import re
from typing import Final

from pipeflow.errors import ConfigurationError

_BUCKETS: Final = ("s3", "gs", "az")
_SECRET: Final = re.compile(r"(?:^|&)(\w*(?:secret|key|token|password|credential|signature|sas)\w*)=", re.IGNORECASE)


def check_secrets(place: str, url: str) -> None:
    """What a store remembers, logs show and commands print has no password in it (and errors neither)."""
    scheme, separator, rest = url.partition("://")
    user, at, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    if separator and at and ":" in user:
        raise ConfigurationError(
            f"{place} {scheme}://... holds a password, and URLs are logged and shown; leave it to the environment"
        )
    given = _SECRET.search(rest.partition("?")[2]) if scheme in _BUCKETS else None
    if given is not None:
        raise ConfigurationError(
            f"{place} {scheme}://... has the option {given[1]!r}, and URLs are logged and shown; leave secrets to the "
            "environment"
        )
