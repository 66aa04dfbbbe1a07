"""Whose credentials a sink at S3 uses: those of the environment, or what botocore finds where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from pipeflow.clock import SystemClock
from pipeflow.errors import ConfigurationError, SinkUnavailable
from pipeflow_connectors.sigv4 import Credentials

if TYPE_CHECKING:
    from obstore.store import S3Credential

AskCredentials: TypeAlias = Callable[[], Credentials]

_KEPT = timedelta(minutes=10)
"""How long the library may keep an answer: botocore renews credentials a quarter of an hour before they end, and the
library asks again five minutes before what we say."""


def find(environment: Mapping[str, str]) -> tuple[AskCredentials | None, bool]:
    """(who answers for credentials, whether the library has to be told of them).

    None: neither keys nor botocore are here; the library looks for a role of this machine by itself.
    ConfigurationError: the environment names a profile, which only botocore can read.
    """
    key_id, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if key_id and secret:
        found = Credentials(key_id, secret, environment.get("AWS_SESSION_TOKEN") or None)
        return (lambda: found), False
    try:
        from botocore.session import Session
    except ImportError as error:
        if environment.get("AWS_PROFILE"):
            raise ConfigurationError(
                "AWS_PROFILE is set, and profiles are read by botocore: pip install botocore, "
                "or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        return None, False
    session = Session()

    def ask() -> Credentials:
        known = session.get_credentials()
        if known is None:
            raise SinkUnavailable("no credentials are found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        frozen = known.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    return ask, True


def for_library(ask: AskCredentials) -> Callable[[], S3Credential]:
    """The same in the shape that the library wants."""

    def provide() -> S3Credential:
        found = ask()
        until = datetime.fromtimestamp(SystemClock().now(), UTC) + _KEPT
        return {
            "access_key_id": found.key_id,
            "secret_access_key": found.secret,
            "token": found.token,
            "expires_at": until,
        }

    return provide
