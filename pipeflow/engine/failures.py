"""A record that failed, as it lies in the error output: what it was before anything was done to it, and why."""

from __future__ import annotations

from base64 import b64encode

import msgspec
from msgspec import Struct

from pipeflow.engine.unpack import Unpackable
from pipeflow.formats.convert import MESSAGE_LIMIT
from pipeflow.messages import Outgoing
from pipeflow.sinks.objects import ERRORS, UNPACK_ERRORS


class Misplaced(Exception):
    """`partition_by` did not answer with a partition for this record."""


class Deadly(Exception):
    """A record that took the process with it."""


class Coded(Exception):
    """A failure with a code of its own. Raised out of a batch it is the batch's, and is not tried again."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Ended(Exception):
    """What is no `Exception`, out of a transform: `sys.exit()` is a failure like others, tried again like others."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.word = type(error).__name__


class _ErrorRecord(Struct, frozen=True, omit_defaults=True):
    """One failed record as it lies under `errors/` (Firehose: S60)."""

    attemptsMade: int
    arrivalTimestamp: int
    errorCode: str
    errorMessage: str
    attemptEndingTimestamp: int
    rawData: str
    lambdaArn: str | None = None


def failure(
    body: bytes,
    error: BaseException,
    *,
    arrived_at: float,
    now: float,
    attempts: int = 1,
    lambda_arn: str | None = None,
) -> Outgoing:
    """The record as it came, beside the good ones, with what was wrong (Firehose: S28, S60, S63)."""
    code = code_of(error)
    record = _ErrorRecord(
        attemptsMade=attempts,
        arrivalTimestamp=round(arrived_at * 1000),
        errorCode=code,
        errorMessage=str(error)[:MESSAGE_LIMIT],
        attemptEndingTimestamp=round(now * 1000),
        rawData=b64encode(body).decode(),
        lambdaArn=lambda_arn if code.startswith("Lambda.") else None,
    )
    partition = UNPACK_ERRORS if isinstance(error, Unpackable) else ERRORS
    return Outgoing(msgspec.json.encode(record), partition=partition)


def code_of(error: BaseException) -> str:
    """What went wrong in a word that begins with where (Firehose: S58, S63)."""
    if isinstance(error, Coded | Unpackable):
        return error.code
    if isinstance(error, Misplaced):
        return "DynamicPartitioning.MetadataExtractionFailed"
    return f"Transform.{word_of(error)}"


def word_of(error: BaseException) -> str:
    """The name of what was raised."""
    return error.word if isinstance(error, Ended) else type(error).__name__


def as_exception(error: BaseException) -> Exception:
    """The failure of a record: `sys.exit()` in a transform is one too."""
    return error if isinstance(error, Exception) else Ended(error)
