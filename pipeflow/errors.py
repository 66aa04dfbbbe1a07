"""Everything that pipeflow raises, and nothing else does.

    PipeflowError
    - ConfigurationError      wrong before anything ran
      - WiringError           a handler asks for something nothing provides, or has the wrong shape
      - UnknownScheme         no broker or sink answers to this URL
      - MissingExtra          the code is there, the optional package is not
      - FeatureMissing        the broker cannot do what a noun asks for
      - SpecConflict          the store holds a noun of this name with other properties
      - InvalidFilter         a filter policy that breaks the grammar or its limits
      - InvalidName           a name that breaks the rules of its noun
    - BrokerError             the store or its owner
      - Unavailable           closed, failed or out of reach; nothing was done
      - Indeterminate         may or may not have happened: ask again with the same dedup id
      - NotFound              no such queue, topic, stream or message
      - RefusedError          one item, refused by a rule; sent to single-item callers only
      - StaleReceipt          the message has a newer owner, or none any more
      - StoreOwned            another process owns the store
      - StoreCorrupt          the file is damaged or newer than this version
    - SinkError
      - SinkUnavailable       try again later: the segment waits
      - ObjectRefused         will never work as it is: the segment is parked
      - ObjectMissing         a readable sink holds no object of that name
      - ObjectDamaged         what a sink gave back is not what was written
    - CodecError              a payload that does not decode
    - Overloaded              a `*_nowait` call at its bound

Control flow, not errors: `Retry` and `Reject` are raised by handlers to say what they want, `Failed` is
what a batch transform returns for one record.
"""

from __future__ import annotations


class PipeflowError(Exception):
    """The root: `except PipeflowError` catches whatever this package raises on purpose.

    `exit_code` is what the command line ends with when nothing catches it.
    """

    exit_code = 1


class ConfigurationError(PipeflowError):
    """Wrong before anything ran; the message says what to write instead."""

    exit_code = 4


class WiringError(ConfigurationError):
    """A function's signature cannot be served."""


class UnknownScheme(ConfigurationError):
    """No broker or sink is registered for the scheme of this URL."""


class MissingExtra(ConfigurationError):
    """An optional package is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package: pip install 'pipeflow[{extra}]'")
        self.what = what
        self.extra = extra


class FeatureMissing(ConfigurationError):
    """The broker cannot do what a noun asks for."""


class SpecConflict(ConfigurationError):
    """The store holds a noun of this name whose properties cannot be changed to the declared ones."""


class InvalidFilter(ConfigurationError):
    """A filter policy that breaks the grammar or its limits. The text follows SNS where SNS has one."""


class InvalidName(ConfigurationError):
    """A name that breaks the rules of its noun."""


class BrokerError(PipeflowError):
    """The store or its owner could not do what was asked."""


class Unavailable(BrokerError):
    """The store is closed, failed or out of reach. Nothing was done by this call."""

    exit_code = 74


class Indeterminate(BrokerError):
    """The call may or may not have had its effect: the commit failed or its answer was lost."""

    exit_code = 74


class NotFound(BrokerError):
    """No queue, topic, stream or message of that name."""


class RefusedError(BrokerError):
    """One item was refused by a rule; `code` is a stable word, the text names the limit."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StaleReceipt(BrokerError):
    """The message was given to a newer receiver, or is gone."""


class StoreOwned(BrokerError):
    """Another process owns the store; only one may."""

    exit_code = 4


class StoreCorrupt(BrokerError):
    """The store's file is damaged, foreign or newer than this version; nothing was changed."""

    exit_code = 74


class SinkError(PipeflowError):
    """A sink could not take an object, or give it back.

    `code` is what error records say; it begins with the component (Firehose: S63).
    """

    code = "Sink.Error"

    def __init__(self, reason: str = "", *, code: str | None = None) -> None:
        super().__init__(reason)
        if code is not None:
            self.code = code


class SinkUnavailable(SinkError):
    """Not now: the segment waits and is written again, after `retry_after` seconds at the soonest if it is given."""

    code = "Sink.Unavailable"
    retry_after: float | None = None

    def __init__(self, reason: str = "", *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(reason, code=code)
        self.retry_after = retry_after


class ObjectRefused(SinkError):
    """Never as it is: the segment is parked until somebody looks; `pipeflow parked` lists, retries and discards."""

    code = "Sink.Refused"


class ObjectMissing(SinkError):
    """The sink holds no object of the name that was to be read."""


class ObjectDamaged(SinkError):
    """What the sink gave back is not what was written, or does not read as what it was."""


class CodecError(PipeflowError):
    """A payload that does not decode or encode; in a queue it goes to the dead letters at once."""


class Overloaded(PipeflowError):
    """A `*_nowait` call came at its bound; use the awaiting form, or slow down."""


class Retry(Exception):
    """Raised by a handler: not now. `after` seconds, or the queue's backoff when None. Counts as an attempt."""

    def __init__(self, after: float | None = None, reason: str = "") -> None:
        super().__init__(reason or "retry")
        self.after = after
        self.reason = reason


class Failed(Exception):
    """Returned by a batch transform for one of its records: that one goes to the error output, with this reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "failed")
        self.reason = reason


class Reject(Exception):
    """Raised by a handler: never. The message goes to the dead letters now, with this reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "rejected")
        self.reason = reason
        self.headers: dict[str, str] | None = None
        """Internal: what the dead letter is to keep besides its own headers."""
